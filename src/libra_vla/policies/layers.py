"""Transformer parts shared by both systems and the baselines.

Shape suffixes used below: B batch, T tokens, C context tokens, W width.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tokens(NamedTuple):
    """What every encoder and backbone returns.

    Attributes:
        values: float [B, T, W].
        mask: bool [B, T], True where a token may be attended to.
    """

    values: Tensor
    mask: Tensor

    @staticmethod
    def dense(values: Tensor) -> "Tokens":
        """Tokens that may all be attended to."""
        return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool, device=values.device))

    def mean(self) -> Tensor:
        """Of those that may be attended to, [B, W]."""
        present = self.mask[..., None].to(self.values.dtype)
        return (self.values * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)

    @staticmethod
    def join(*parts: "Tokens") -> "Tokens":
        return Tokens(
            torch.cat([p.values for p in parts], dim=1), torch.cat([p.mask for p in parts], dim=1)
        )


class Attention(nn.Module):
    """Multi-head attention; queries attend to themselves or to a projected context."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def _split(self, x_BTW: Tensor) -> Tensor:
        return x_BTW.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, context_BCW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns keys and values of a context, to be reused over denoising steps."""
        key, value = self.key_value(context_BCW).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, x_BTW: Tensor, key_value: tuple[Tensor, Tensor], mask: Tensor | None = None
    ) -> Tensor:
        """Returns [B, T, W]; `mask` is [B, C] for all tokens, or [B, T, C] for each its own."""
        if mask is not None:
            mask = mask[:, None, None] if mask.dim() == 2 else mask[:, None]
        mixed = F.scaled_dot_product_attention(
            self._split(self.query(x_BTW)), *key_value, attn_mask=mask
        )
        return self.out(mixed.transpose(1, 2).flatten(-2))


def feed_forward(width: int, ratio: float) -> nn.Sequential:
    # SiLU: on a CPU, GELU alone took an eighth of a training step.
    hidden = int(width * ratio)
    return nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """Pre-norm, bidirectional transformer block."""

    def __init__(self, width: int, heads: int, ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = feed_forward(width, ratio)

    def project(self, x_BTW: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the keys and values by which these tokens are attended to in this block."""
        return self.attention.project(self.norm_attention(x_BTW))

    def forward(
        self,
        x_BTW: Tensor,
        mask: Tensor | None = None,
        *,
        last: int | None = None,
        context: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Returns [B, T, W], or only the `last` tokens where nobody reads the others.

        Args:
            mask: which tokens exist; see `Attention`.
            context: keys and values to attend to, in place of these tokens' own.
        """
        normed = self.norm_attention(x_BTW)
        if context is None:
            context = self.attention.project(normed)
        if last is not None:
            x_BTW, normed = x_BTW[:, -last:], normed[:, -last:]
        x_BTW = x_BTW + self.attention(normed, context, mask)
        return x_BTW + self.feed(self.norm_feed(x_BTW))


class DiffusionBlock(nn.Module):
    """Diffusion-transformer block: self-attention, cross-attention to the context, feed-forward.

    Each branch is shifted, scaled and gated by the conditioning (AdaLN-zero, Peebles & Xie 2023);
    the modulation itself is shared by all blocks up to a learned offset (PixArt-alpha's
    "adaLN-single"), which keeps small models small.
    """

    BRANCHES = 3

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.self_attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.feed = feed_forward(width, ratio)
        self.offset = nn.Parameter(torch.zeros(3 * self.BRANCHES * width))

    def forward(
        self,
        x_BTW: Tensor,
        modulation: Tensor,
        context: tuple[Tensor, Tensor],
        mask_BC: Tensor | None,
    ) -> Tensor:
        parts = (modulation + self.offset)[:, None, :].chunk(3 * self.BRANCHES, dim=-1)
        normed = self._modulate(x_BTW, *parts[0:2])
        x_BTW = x_BTW + parts[2] * self.self_attention(normed, self.self_attention.project(normed))
        normed = self._modulate(x_BTW, *parts[3:5])
        # Draws of one sample share its context: their tokens form one longer query sequence.
        queries = normed.reshape(len(context[0]), -1, normed.shape[-1])
        crossed = self.cross_attention(queries, context, mask_BC).reshape(x_BTW.shape)
        x_BTW = x_BTW + parts[5] * crossed
        normed = self._modulate(x_BTW, *parts[6:8])
        return x_BTW + parts[8] * self.feed(normed)

    def _modulate(self, x_BTW: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return self.norm(x_BTW) * (1.0 + scale) + shift


class TimeEmbedding(nn.Module):
    """Sinusoidal features of a noise level in [0, 1], then a small network: [B] -> [B, W]."""

    frequencies: Tensor

    def __init__(self, width: int, features: int = 128) -> None:
        super().__init__()
        half = features // 2
        frequencies = torch.exp(-math.log(1e4) * torch.arange(half) / half) * 1e3
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.network = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, level: Tensor) -> Tensor:
        angles = level[:, None] * self.frequencies
        return self.network(torch.cat([angles.cos(), angles.sin()], dim=-1))


class DiffusionTransformer(nn.Module):
    """Predicts the denoising target of H noisy actions (the paper's Fine-Action Head).

    Each action token is the noisy action plus what is known about that very step (its intent);
    images are reached through cross-attention, whose keys and values are computed once per chunk.
    """

    def __init__(
        self, size: int, horizon: int, width: int, layers: int, heads: int, ratio: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(size, width)
        self.position = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.time = TimeEmbedding(width)
        self.modulation = nn.Sequential(
            nn.SiLU(), nn.Linear(width, 3 * DiffusionBlock.BRANCHES * width)
        )
        self.blocks = nn.ModuleList(DiffusionBlock(width, heads, ratio) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, size)
        # Each block begins as the identity, and the first prediction is 0.
        for layer in (self.modulation[1], self.out):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def read(self, context_BCW: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Returns each block's keys and values of the context."""
        return [
            block.cross_attention.project(context_BCW)
            for block in cast(Iterable[DiffusionBlock], self.blocks)
        ]

    def forward(
        self,
        noisy: Tensor,
        level: Tensor,
        intents: Tensor | float,
        condition_BW: Tensor,
        context: list[tuple[Tensor, Tensor]],
        mask_BC: Tensor | None,
    ) -> Tensor:
        """Returns the prediction, [B, H, D].

        Args:
            noisy: noisy actions [B, H, D]; in training, several draws per sample side by side.
            level: noise level [B] in [0, 1].
            intents: embeddings of the coarse actions [B, H, W], or 0.0 where there are none.
            condition_BW: what modulates every block besides the noise level.
            context: of `read`, for B samples, or for fewer, each shared by its draws.
            mask_BC: which context tokens exist.
        """
        x_BTW = self.embed(noisy) + self.position + intents
        modulation = self.modulation(self.time(level) + condition_BW)
        for block, key_value in zip(self.blocks, context, strict=True):
            x_BTW = block(x_BTW, modulation, key_value, mask_BC)
        return self.out(self.norm(x_BTW))
