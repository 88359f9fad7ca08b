"""Action Refiner (System 1): how to move, as continuous actions that fill in the coarse ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from libra_vla.config import RefinerConfig
from libra_vla.policies.backbones import VisualEncoder
from libra_vla.policies.layers import DiffusionTransformer, Tokens


class IntentCodebook(nn.Module):
    """Embeds coarse actions: a codebook of its own per dimension, summed over dimensions."""

    def __init__(self, bins: Sequence[int], width: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(len(bins), max(bins), width) * 0.1)

    def forward(self, weights: Tensor) -> Tensor:
        """Distributions over bins [B, H, D, N_max] -> intents [B, H, W].

        A hard intent is the special case of one-hot weights.
        """
        return torch.einsum("bhdn,dnw->bhw", weights, self.codes)


class ActionRefiner(nn.Module):
    """An independent visual encoder and a diffusion transformer over H noisy actions."""

    def __init__(
        self,
        encoder: VisualEncoder,
        config: RefinerConfig,
        *,
        chunk: int,
        bins: Sequence[int],
        state_size: int,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.project = (
            nn.Identity()
            if encoder.width == config.width
            else nn.Linear(encoder.width, config.width)
        )
        self.state = nn.Linear(state_size, config.width)
        self.intent = IntentCodebook(bins, config.width)
        self.transformer = DiffusionTransformer(
            len(bins), chunk, config.width, config.layers, config.heads, config.ratio
        )

    def look(
        self, images: Tensor, state: Tensor, intent_weights: Tensor, *, draws: int = 1
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """Encodes what does not change during denoising.

        Args:
            images: fresh images [B, C, 3, h, w] in [0, 1].
            state: standardised proprioception [B, S].
            intent_weights: distributions over bins [B, H, D, N_max].
            draws: how many noise draws share one encoding; the returned function takes
                batches of B x draws, draws of one sample side by side.

        Returns:
            (noisy actions [B, H, D], level [B]) -> prediction [B, H, D].
        """
        visual = self.encoder(images)
        state_token = self.state(state)
        context = Tokens.join(
            Tokens(self.project(visual.values), visual.mask), Tokens.dense(state_token[:, None])
        )
        read = self.transformer.read(context.values)
        intents, condition, mask = self.intent(intent_weights), state_token, context.mask
        if draws > 1:
            intents, condition = (x.repeat_interleave(draws, dim=0) for x in (intents, condition))
        # Attention without a mask is faster; a model that is only counted has no values to ask.
        every_token = None if mask.is_meta or bool(mask.all()) else mask
        return lambda noisy, level: self.transformer(
            noisy, level, intents, condition, read, every_token
        )
