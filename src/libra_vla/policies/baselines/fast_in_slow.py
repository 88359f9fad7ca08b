"""A fast system inside the slow one: it shares its last blocks (Fast-in-Slow, Chen et al. 2025)."""

import torch
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.errors import LibraError
from libra_vla.policies.backbones import make_encoder
from libra_vla.policies.baselines.monolith import DenoisingMonolith, KeyValue, beside, drawn
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join, Predict, joined
from libra_vla.policies.layers import TimeEmbedding, Tokens
from libra_vla.policies.losses import Objective, denoising_loss


class FastInSlow(DenoisingMonolith):
    """The slow system reads images and words through all blocks. The fast one sends fresh images,
    proprioception and noisy actions through the last `refiner.layers` of these same blocks, where
    they attend to what the slow system's tokens were there, several times per slow step.

    The model keeps what the slow system saw last: it serves one robot.
    """

    remembers = True

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        self.shared = config.refiner.layers
        if not 1 <= self.shared <= config.planner.layers:
            raise LibraError(
                f"refiner.layers is {self.shared}: fast-in-slow shares 1 to "
                f"{config.planner.layers} of the slow system's blocks"
            )
        width, size = self.width, len(bins)
        self.encoder = make_encoder(config.refiner.encoder, cameras, config.image_size)
        self.see = nn.Linear(self.encoder.width, width)
        self.now = nn.Linear(state_size, width)
        self.embed = nn.Linear(size, width)
        self.time = TimeEmbedding(width)
        self.position = nn.Parameter(torch.randn(config.chunk, width) * 0.02)
        self.out = nn.Linear(width, size)
        self._slow: tuple[list[KeyValue], Tensor] | None = None

    def slow(self, seen: Moment) -> tuple[list[KeyValue], Tensor]:
        """What the slow system's tokens are in the shared blocks, and which of them exist."""
        tokens = self.read(seen)
        return self.contexts(tokens)[-self.shared :], tokens.mask

    def plan(self, seen: Moment) -> Tensor:
        """Runs the slow system, and keeps what it saw; there are no coarse actions."""
        # Ordinary tensors: real-time chunking leads back through what reads them.
        with torch.inference_mode(False), torch.no_grad():
            self._slow = self.slow(seen)
        return super().plan(seen)

    def fast(self, seen: Moment, slow: tuple[list[KeyValue], Tensor], draws: int = 1) -> Predict:
        """Encodes what does not change during denoising."""
        contexts, slow_mask = slow
        visual = self.encoder(seen.images)
        fresh = Tokens.join(
            Tokens(self.see(visual.values), visual.mask),
            Tokens.dense(self.now(seen.state)[:, None]),
        )
        x, mask = fresh.values, torch.cat([slow_mask, fresh.mask], dim=1)
        blocks = list(self.layers())[-self.shared :]
        read = []
        for block, context in zip(blocks, contexts, strict=True):
            read.append(beside(context, block.project(x)))
            x = block(x, mask, context=read[-1])
        read = [drawn(context, draws) for context in read]
        mask = mask.repeat_interleave(draws, dim=0)

        def predict(noisy: Tensor, level: Tensor) -> Tensor:
            x = self.embed(noisy) + self.time(level)[:, None] + self.position
            every = torch.cat([mask, mask.new_ones(x.shape[:2])], dim=1)
            for block, context in zip(blocks, read, strict=True):
                x = block(x, every, context=beside(context, block.project(x)))
            return self.out(self.norm(x))

        return predict

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        slow = self.slow(seen) if self._slow is None else self._slow
        predict = joined(self.denoiser, self.fast(seen, slow), join)
        return self.denoiser.sample(predict, noise, self.config.refiner.sample_steps)

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        predict = self.fast(batch.current, self.slow(batch.planned), objective.draws)
        loss = denoising_loss(self.denoiser, predict, batch, objective)
        return loss, {"refiner_loss": loss.detach()}
