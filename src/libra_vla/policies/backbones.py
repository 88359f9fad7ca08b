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


class Reading(nn.Module):
    """What an instruction asks for, by those of its words that matter (attention pooling).

    Two instructions of LIBERO-Spatial differ in a few of fifteen words: of their mean that is a
    small part.
    """

    PICKS = 4
    """How many means of the words it takes, each with weights of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.words = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU())
        self.matters = nn.Linear(width, self.PICKS)
        self.out = nn.Sequential(nn.Linear(self.PICKS * width, width), nn.LayerNorm(width))

    def forward(self, words: Tokens) -> Tensor:
        """Words [B, T, W] -> [B, W]."""
        read = self.words(words.values)
        weights = self.matters(read).masked_fill(~words.mask[..., None], -1e4).softmax(dim=1)
        return self.out(torch.einsum("btk,btw->bkw", weights, read).flatten(1))


class SmallBackbone(nn.Module):
    """Small convolutional encoder and hashed words, trained from scratch.

    With `modulated`, the instruction modulates the convolutions: the mean of its words and, with
    `attentive`, those that matter.
    """

    def __init__(
        self,
        cameras: int,
        image_size: int,
        width: int,
        *,
        modulated: bool = False,
        attentive: bool = False,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        self.width = width
        asked = width if modulated else 0
        self.vision = SmallVision(cameras, image_size, width, asked, blocks)
        self.words = WordEmbedding(width)
        self.reading = Reading(width) if attentive else None
        self.heed = nn.Linear(width, width, bias=False) if attentive else None
        if self.heed is not None:
            nn.init.zeros_(self.heed.weight)

    def forward(self, images: Tensor, instructions: Sequence[str]) -> Tokens:
        words = self.words(instructions)
        return Tokens.join(self.vision(images, self.asked(words)), words)

    def asked(self, words: Tokens) -> Tensor:
        """What is asked for, in one vector [B, W], as the convolutions are told it."""
        mean = words.mean()
        if self.reading is None or self.heed is None:
            return mean
        return mean + self.heed(self.reading(words))

    def features(self, images: Tensor, words: Tokens) -> Tensor:
        """What is seen by those who are told `words`, as feature maps [B, C, C', h, w]."""
        return self.vision.features(images, self.asked(words))


def make_backbone(config: BackboneConfig, cameras: int, image_size: int) -> Backbone:
    """Builds the planner's backbone; Hugging Face is imported only for "internvl"."""
    if config.kind == "small":
        return SmallBackbone(
            cameras,
            image_size,
            config.width,
            modulated=config.modulated,
            attentive=config.attentive,
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
