"""Libra-Base and Libra-VE: a monolithic diffusion policy, with and without a second encoder."""

from torch import nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.backbones import make_encoder
from libra_vla.policies.baselines.monolith import DenoisingMonolith
from libra_vla.policies.batch import Moment
from libra_vla.policies.denoising import Predict
from libra_vla.policies.layers import DiffusionTransformer, Tokens


class DiffusionPolicy(DenoisingMonolith):
    """Libra-Base: the backbone's tokens, then a diffusion transformer that reads them.

    No coarse actions, no intents, no encoder of its own (paper, components).
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        refiner = config.refiner
        self.project = nn.Linear(self.width, refiner.width)
        self.condition = nn.Linear(state_size, refiner.width)
        self.transformer = DiffusionTransformer(
            len(bins), config.chunk, refiner.width, refiner.layers, refiner.heads, refiner.ratio
        )

    def look(self, seen: Moment, draws: int = 1) -> Predict:
        x, mask = self.read(seen)
        for block in self.blocks:
            x = block(x, mask)
        x, mask = self.also_seen(seen, Tokens(self.project(self.norm(x)), mask))
        read = self.transformer.read(x)
        condition = self.condition(seen.state)
        if draws > 1:
            condition = condition.repeat_interleave(draws, dim=0)
        return lambda noisy, level: self.transformer(noisy, level, 0.0, condition, read, mask)

    def also_seen(self, seen: Moment, context: Tokens) -> Tokens:
        """What the transformer reads, out of the backbone's context."""
        return context


class EncoderDiffusionPolicy(DiffusionPolicy):
    """Libra-VE: the same, whose transformer also reads a visual encoder of its own."""

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        self.encoder = make_encoder(config.refiner.encoder, cameras, config.image_size)
        self.see = nn.Linear(self.encoder.width, config.refiner.width)

    def also_seen(self, seen: Moment, context: Tokens) -> Tokens:
        visual = self.encoder(seen.images)
        return Tokens.join(context, Tokens(self.see(visual.values), visual.mask))
