"""What is minimised, over the steps that an episode has."""

import torch
from torch import Tensor

from libra_vla.policies.batch import Batch
from libra_vla.policies.denoising import Denoiser, Predict


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps: values [B, T, ...], valid [B, T]."""
    weight = valid.to(values.dtype).reshape(*valid.shape, *[1] * (values.dim() - 2))
    per_step = values[0, 0].numel()
    return (values * weight).sum() / (weight.sum() * per_step).clamp(min=1.0)


def denoising_loss(
    denoiser: Denoiser,
    predict: Predict,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Mean squared error of the denoising target over valid steps."""
    actions = batch.actions.repeat_interleave(draws, dim=0)
    valid = batch.actions_valid.repeat_interleave(draws, dim=0)
    noisy, level, target = denoiser.corrupt(actions, generator)
    return masked_mean((predict(noisy, level) - target) ** 2, valid)
