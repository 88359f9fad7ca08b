"""A flow-matching action expert beside the backbone's blocks, as in pi0 (Black et al. 2024)."""

import torch
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.baselines.monolith import DenoisingMonolith, beside, drawn
from libra_vla.policies.batch import Moment
from libra_vla.policies.denoising import Predict
from libra_vla.policies.layers import Block, TimeEmbedding


class ActionExpert(DenoisingMonolith):
    """Noisy actions pass through blocks with weights of their own; in each, they attend to each
    other and to what the backbone's tokens are in the block of the same depth."""

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        width, size, planner = self.width, len(bins), config.planner
        self.embed = nn.Linear(size, width)
        self.time = TimeEmbedding(width)
        self.mix = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
        self.position = nn.Parameter(torch.randn(config.chunk, width) * 0.02)
        self.expert = nn.ModuleList(
            Block(width, planner.heads, config.refiner.ratio) for _ in range(planner.layers)
        )
        self.out = nn.Linear(width, size)

    def look(self, seen: Moment, draws: int = 1) -> Predict:
        tokens = self.read(seen)
        contexts = [drawn(context, draws) for context in self.contexts(tokens)]
        seen_mask = tokens.mask.repeat_interleave(draws, dim=0)

        def predict(noisy: Tensor, level: Tensor) -> Tensor:
            time = self.time(level)[:, None].expand(-1, noisy.shape[1], -1)
            x = self.mix(torch.cat([self.embed(noisy), time], dim=-1)) + self.position
            mask = torch.cat([seen_mask, seen_mask.new_ones(x.shape[:2])], dim=1)
            for block, context in zip(self.expert, contexts, strict=True):
                assert isinstance(block, Block)
                x = block(x, mask, context=beside(context, block.project(x)))
            return self.out(self.norm(x))

        return predict
