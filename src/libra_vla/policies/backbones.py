"""Backbone adapters: images and an instruction in, a sequence of tokens with a mask out.

The planner's head cannot tell a small from-scratch encoder from a Hugging Face VLM.
"""

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from libra_vla.config import BackboneConfig, EncoderConfig
from libra_vla.errors import LibraError, unknown
from libra_vla.policies.layers import Tokens
from libra_vla.policies.vision import SmallVision


class Backbone(Protocol):
    """Reads images and an instruction.

    Attributes:
        width: token width W.
    """

    width: int

    def __call__(self, images: Tensor, instructions: Sequence[str]) -> Tokens:
        """Images [B, C, 3, h, w] in [0, 1] and B instructions -> tokens [B, T, W]."""
        ...


class VisualEncoder(Protocol):
    """Reads images alone: [B, C, 3, h, w] in [0, 1] -> tokens [B, T, W]."""

    width: int

    def __call__(self, images: Tensor) -> Tokens: ...


class WordEmbedding(nn.Module):
    """Embeds the words of an instruction without a vocabulary.

    Each word is the sum of two hashed rows (Bloom embeddings, Serra & Karatzoglou 2017): no
    vocabulary has to be stored, no word is unknown, and two words hardly ever share both rows.
    """

    ROWS, LENGTH = 512, 32

    def __init__(self, width: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(2 * self.ROWS, width)
        self.position = nn.Parameter(torch.randn(self.LENGTH, width) * 0.02)
        nn.init.normal_(self.rows.weight, std=0.2)

    @staticmethod
    @lru_cache(maxsize=4096)
    def hashes(instruction: str) -> tuple[tuple[int, int], ...]:
        """Row numbers of each word, at most LENGTH of them."""
        words = re.findall(r"\w+", instruction.lower())[: WordEmbedding.LENGTH]
        rows = WordEmbedding.ROWS
        return tuple(
            (zlib.crc32(w.encode()) % rows, rows + zlib.crc32(w.encode(), 77) % rows) for w in words
        )

    def forward(self, instructions: Sequence[str]) -> Tokens:
        """B instructions -> tokens [B, T, W], T the longest of them."""
        device = self.rows.weight.device
        hashed = [self.hashes(text) for text in instructions]
        longest = max(1, *map(len, hashed)) if hashed else 1
        ids = torch.zeros(len(hashed), longest, 2, dtype=torch.long)
        mask = torch.zeros(len(hashed), longest, dtype=torch.bool)
        for row, words in enumerate(hashed):
            if words:
                ids[row, : len(words)] = torch.tensor(words)
                mask[row, : len(words)] = True
        values = self.rows(ids.to(device)).sum(dim=2) + self.position[:longest]
        return Tokens(values, mask.to(device))


class SmallBackbone(nn.Module):
    """Small convolutional encoder and hashed words, trained from scratch.

    With `modulated`, the mean of the words modulates the convolutions.
    """

    def __init__(
        self,
        cameras: int,
        image_size: int,
        width: int,
        *,
        modulated: bool = False,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.width = width
        asked = width if modulated else 0
        self.vision = SmallVision(cameras, image_size, width, asked, blocks)
        self.words = WordEmbedding(width)

    def forward(self, images: Tensor, instructions: Sequence[str]) -> Tokens:
        words = self.words(instructions)
        return Tokens.join(self.vision(images, words.mean()), words)

    def features(self, images: Tensor, words: Tokens) -> Tensor:
        """What is seen by those who are told `words`, as feature maps [B, C, C', h, w]."""
        return self.vision.features(images, words.mean())


def make_backbone(config: BackboneConfig, cameras: int, image_size: int) -> Backbone:
    """Builds the planner's backbone; Hugging Face is imported only for "internvl"."""
    if config.kind == "small":
        return SmallBackbone(
            cameras,
            image_size,
            config.width,
            modulated=config.modulated,
            blocks=config.blocks,
        )
    if config.kind == "internvl":
        from libra_vla.policies.huggingface import InternVLBackbone

        return InternVLBackbone(config, cameras)
    raise unknown("backbone", config.kind, ("small", "internvl"))


class BorrowedVision:
    """A small backbone's images-to-tokens part, for whom it does not belong to: no parameters of
    its own, so none are counted or saved twice."""

    def __init__(self, backbone: Backbone) -> None:
        if not isinstance(backbone, SmallBackbone):
            raise LibraError("a shared visual encoder needs the planner's backbone to be 'small'")
        self.width, self._vision = backbone.width, (backbone.vision,)

    def __call__(self, images: Tensor) -> Tokens:
        return self._vision[0](images)


def make_encoder(config: EncoderConfig, cameras: int, image_size: int) -> VisualEncoder:
    """Builds the refiner's visual encoder; Hugging Face is imported only for "siglip"."""
    if config.kind == "small":
        return SmallVision(cameras, image_size, config.width, shrink=config.shrink)
    if config.kind == "siglip":
        from libra_vla.policies.huggingface import SiglipEncoder

        return SiglipEncoder(config, cameras)
    raise unknown("visual encoder", config.kind, ("small", "siglip"))
