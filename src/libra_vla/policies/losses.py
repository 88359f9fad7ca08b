"""What is minimised, over the steps that an episode has."""

from dataclasses import dataclass

import torch
from torch import Tensor

from libra_vla.policies.batch import Batch
from libra_vla.policies.denoising import Denoiser, Predict


@dataclass(frozen=True)
class Objective:
    """How a batch is scored.

    Attributes:
        predicted_intents: condition the refiner on the planner's prediction instead of the true
            coarse actions (the curriculum's second phase); no gradient passes.
        weights: of the planner's and the refiner's loss.
        draws: noise draws per encoded image: the encoders dominate the cost, so they are free.
        generator: of the noise.
    """

    predicted_intents: bool = False
    weights: tuple[float, float] = (1.0, 1.0)
    draws: int = 1
    generator: torch.Generator | None = None


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps: values [B, T, ...], valid [B, T]."""
    weight = valid.to(values.dtype).reshape(*valid.shape, *[1] * (values.dim() - 2))
    per_step = values[0, 0].numel()
    return (values * weight).sum() / (weight.sum() * per_step).clamp(min=1.0)


def denoising_loss(
    denoiser: Denoiser, predict: Predict, batch: Batch, objective: Objective
) -> Tensor:
    """Mean squared error of the denoising target over valid steps."""
    actions = batch.actions.repeat_interleave(objective.draws, dim=0)
    valid = batch.actions_valid.repeat_interleave(objective.draws, dim=0)
    noisy, level, target = denoiser.corrupt(actions, objective.generator)
    return masked_mean((predict(noisy, level).float() - target) ** 2, valid)
