"""Hugging Face models as a backbone (InternVL) and as a visual encoder (SigLIP).

Only native transformers classes: no remote code, no torchvision, no multimodal processors. Images
are resized and normalised here, so that both do the same in training and on the robot.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    InternVLConfig,
    InternVLModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from libra_vla.config import BackboneConfig, EncoderConfig
from libra_vla.errors import LibraError, unknown
from libra_vla.policies.layers import Tokens

IMAGE_START, IMAGE_END = "<img>", "</img>"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ByteTokenizer:
    """UTF-8 bytes as tokens, without any file: for models that are not pretrained."""

    SPECIAL = (IMAGE_START, IMAGE_END)
    SIZE = len(SPECIAL) + 256

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        return [len(self.SPECIAL) + byte for byte in text.encode()]

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.SPECIAL.index(token)


class InternVLBackbone(nn.Module):
    """InternVL without its language head: last hidden states of image and language tokens.

    The prompt is, in InternVL's own format, `<img>` + image tokens + `</img>` + newline per camera
    and then the instruction. Image tokens are put in place directly, not through placeholder ids:
    a prompt cannot smuggle in an image.

    The planner reads hidden states only, so the vocabulary projection (lm_head, 190 M parameters
    at the paper's size) is not built: nothing would train it. Whether the paper counts it is open;
    the `paper` preset reaches the paper's totals without it, by a larger diffusion transformer.

    Args:
        config: `model` holds the fields of transformers' InternVLConfig; weights are random until
            `load_pretrained` or a checkpoint brings them.
        cameras: number of cameras C.

    Raises:
        LibraError: a configuration that transformers refuses, an unknown part in `frozen`, or a
            tokenizer that is missing or does not fit.
    """

    mean: Tensor
    std: Tensor
    PARTS = ("vision_tower", "multi_modal_projector", "language_model")

    def __init__(self, config: BackboneConfig, cameras: int) -> None:
        super().__init__()
        self.cameras = cameras
        self.vlm: Any = _build(InternVLModel, InternVLConfig, config.model)
        self.width: int = self.vlm.config.text_config.hidden_size
        self.image_size = int(self.vlm.config.vision_config.image_size[0])
        for part in config.frozen:
            if part not in self.PARTS:
                raise unknown("part to freeze", part, self.PARTS)
            getattr(self.vlm, part).requires_grad_(False)
        self.frozen = config.frozen
        self._use_tokenizer(config.tokenizer)
        # Constants of the architecture: not weights, and rebuilt with the module.
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("mean", mean[:, None, None], persistent=False)
        self.register_buffer("std", std[:, None, None], persistent=False)

    def _use_tokenizer(self, name: str) -> None:
        size = self.vlm.config.text_config.vocab_size
        self.tokenizer = _load_tokenizer(name) if name else ByteTokenizer()
        if not name and size < ByteTokenizer.SIZE:
            raise LibraError(f"vocab_size is {size}: bytes need at least {ByteTokenizer.SIZE}")
        marks = [self.tokenizer.convert_tokens_to_ids(m) for m in (IMAGE_START, IMAGE_END)]
        if None in marks or getattr(self.tokenizer, "unk_token_id", None) in marks:
            raise LibraError(f"tokenizer '{name}' lacks {IMAGE_START}: give that of an InternVL")
        if max(marks) >= size:
            raise LibraError(f"tokenizer '{name}' has tokens beyond vocab_size {size}")
        start, end = marks
        bos = getattr(self.tokenizer, "bos_token_id", None)
        self._begin = [] if bos is None else [bos]
        self._open, self._close = [start], [end, *self._encode("\n")]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def train(self, mode: bool = True) -> "InternVLBackbone":
        """As usual, but frozen parts stay in evaluation mode (no dropout, no drop path)."""
        super().train(mode)
        for part in self.frozen:
            getattr(self.vlm, part).eval()
        return self

    def load_pretrained(self, folder: Path | str) -> None:
        """Loads the weights of a native InternVL checkpoint (`save_pretrained` of transformers).

        Raises:
            LibraError: nothing there, or weights of another architecture.
        """
        _load_pretrained(self.vlm, folder)

    def _embed(self, ids: Sequence[int], batch: int) -> Tensor:
        """Token ids -> [B, T, W], the same for every sample."""
        table = self.vlm.get_input_embeddings()
        tokens = torch.tensor(ids, dtype=torch.long, device=self.mean.device)
        return table(tokens).expand(batch, -1, -1)

    def _see(self, images: Tensor) -> Tensor:
        """[B, C, 3, h, w] in [0, 1] -> image tokens [B, C, T, W]."""
        pixels = (_resized(images.flatten(0, 1), self.image_size) - self.mean) / self.std
        features = self.vlm.get_image_features(pixels, return_dict=True).pooler_output
        return features.unflatten(0, images.shape[:2])

    def forward(self, images: Tensor, instructions: Sequence[str]) -> Tokens:
        """Images [B, C, 3, h, w] in [0, 1] and B instructions -> tokens [B, T, W].

        T is that of the longest instruction. Padding is at the right and attention is causal, so
        no sample sees padding, and its tokens do not depend on its neighbours in the batch.
        """
        batch, device = len(images), self.mean.device
        prompt = [self._embed(self._begin, batch)]
        if self.cameras:
            for seen in self._see(images).unbind(1):
                opening, closing = self._embed(self._open, batch), self._embed(self._close, batch)
                prompt += [opening, seen.to(opening.dtype), closing]
        prompt_length = sum(part.shape[1] for part in prompt)

        texts = [self._encode(text) or self._close for text in instructions]
        longest = max(map(len, texts))
        padded = [ids + [0] * (longest - len(ids)) for ids in texts]
        words = self.vlm.get_input_embeddings()(torch.tensor(padded, device=device))
        lengths = torch.tensor([prompt_length + len(ids) for ids in texts], device=device)

        embedded = torch.cat([*prompt, words], dim=1)
        order = torch.arange(embedded.shape[1], device=device)
        # An explicit mask: transformers would otherwise look at values to choose one, which waits
        # for the accelerator, and cannot be done on the meta device.
        causal = (order <= order[:, None])[None, None]
        hidden = self.vlm.language_model(
            inputs_embeds=embedded, attention_mask=causal, use_cache=False
        ).last_hidden_state
        return Tokens(hidden, order < lengths[:, None])


class SiglipEncoder(nn.Module):
    """SigLIP's patch tokens of all cameras, told apart by a learned camera embedding.

    Args:
        config: `model` holds the fields of transformers' SiglipVisionConfig; weights are random
            until `load_pretrained` or a checkpoint brings them.
        cameras: number of cameras C.
    """

    def __init__(self, config: EncoderConfig, cameras: int) -> None:
        super().__init__()
        # Its pooling head yields one vector per image; the refiner wants to know where things are.
        fields = {**config.model, "vision_use_head": False}
        self.vision: Any = _build(SiglipVisionModel, SiglipVisionConfig, fields)
        self.width: int = self.vision.config.hidden_size
        self.image_size = int(self.vision.config.image_size)
        self.cameras = cameras
        self.camera = nn.Parameter(torch.randn(cameras, 1, self.width) * 0.02)

    def load_pretrained(self, folder: Path | str) -> None:
        """Loads the vision weights of a SigLIP checkpoint; see `InternVLBackbone`."""
        _load_pretrained(self.vision, folder)

    def forward(self, images: Tensor) -> Tokens:
        """[B, C, 3, h, w] in [0, 1] -> tokens [B, C x T, W]."""
        if self.cameras == 0:
            return Tokens.dense(images.new_zeros(len(images), 0, self.width))
        pixels = _resized(images.flatten(0, 1), self.image_size) * 2.0 - 1.0
        tokens = self.vision(pixel_values=pixels).last_hidden_state
        return Tokens.dense((tokens.unflatten(0, images.shape[:2]) + self.camera).flatten(1, 2))


def _resized(images: Tensor, size: int) -> Tensor:
    """[B, 3, h, w] -> [B, 3, size, size], averaging areas when it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)


def _build(model: Callable[[Any], Any], config: Callable[..., Any], fields: Mapping) -> Any:
    """Builds a transformers model with random weights from the fields of its configuration."""
    try:
        return model(config(**fields))
    except Exception as error:  # transformers' validation raises many kinds
        reason = " ".join(str(error).split())
        raise LibraError(f"transformers refuses the configuration of {model}: {reason}") from error


def _load_tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=True)
    except Exception as error:  # as many kinds as there are tokenizers
        raise LibraError(f"no tokenizer at '{name}': give a folder with its files") from error


def _load_pretrained(model: Any, folder: Path | str) -> None:
    """Copies weights into `model`; transformers alone would fill gaps with random numbers."""
    if not Path(folder).is_dir():
        raise LibraError(f"{folder} is not a folder: give one with config.json and weights")
    try:
        # With this model's configuration, not the folder's: what differs is then an error.
        loaded, report = type(model).from_pretrained(
            folder,
            config=model.config,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
        if report["missing_keys"]:
            raise LibraError(f"{folder} lacks the weight '{sorted(report['missing_keys'])[0]}'")
        model.load_state_dict(loaded.state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LibraError(f"{folder} does not hold these weights: {reason}") from error
