"""What is minimised, over the steps that an episode has."""

from collections.abc import Sequence
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
        intent_noise: see `displaced`.
        generator: of the noise.
    """

    predicted_intents: bool = False
    weights: tuple[float, float] = (1.0, 1.0)
    draws: int = 1
    intent_noise: float = 0.0
    generator: torch.Generator | None = None


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps: values [B, T, ...], valid [B, T]."""
    weight = valid.to(values.dtype).reshape(*valid.shape, *[1] * (values.dim() - 2))
    per_step = values[0, 0].numel()
    return (values * weight).sum() / (weight.sum() * per_step).clamp(min=1.0)


def displaced(coarse: Tensor, bins: Sequence[int], objective: Objective) -> Tensor:
    """Coarse actions [B, L, D] that are wrong as a planner's are on what it never saw.

    Each dimension of a sample is off by one number throughout, drawn from a normal distribution
    whose standard deviation is `intent_noise`, as a share of the action's range (not in the paper).

    Args:
        coarse: int64, 0 .. N - 1 of its dimension.
        bins: N of each dimension, D of them.

    Returns:
        int64 [B, L, D], still within 0 .. N - 1.
    """
    if objective.intent_noise == 0.0:
        return coarse
    counts = torch.tensor(bins, device=coarse.device)
    off = torch.randn((len(coarse), 1, len(bins)), generator=objective.generator)
    off = (objective.intent_noise * off.to(coarse.device) * counts).round().long()
    return torch.minimum((coarse + off).clamp(min=0), counts - 1)


def denoising_loss(
    denoiser: Denoiser, predict: Predict, batch: Batch, objective: Objective
) -> Tensor:
    """Mean squared error of the denoising target over valid steps."""
    actions = batch.actions.repeat_interleave(objective.draws, dim=0)
    valid = batch.actions_valid.repeat_interleave(objective.draws, dim=0)
    noisy, level, target = denoiser.corrupt(actions, objective.generator)
    return masked_mean((predict(noisy, level).float() - target) ** 2, valid)
