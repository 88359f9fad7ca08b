"""Muon with all weights of one shape orthogonalised together."""

from collections import defaultdict

import torch
from torch import Tensor

from libra_vla.training.precision import bfloat16_is_native

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""a, b, c of the Newton-Schulz iteration X <- a X + b (X X^T) X + c (X X^T)^2 X."""
ITERATIONS = 5


class BatchedMuon(torch.optim.Muon):
    """torch's Muon, scaled to the size of AdamW's steps, in fewer and larger products.

    A small network has many small matrices, and torch takes them one after another: a quarter of a
    training step on a CPU. State and results are torch's, up to rounding (bfloat16).
    """

    def __init__(self, params: list[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            waiting: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if "momentum_buffer" not in (state := self.state[weight]):
                    state["momentum_buffer"] = torch.zeros_like(weight)
                average = state["momentum_buffer"].lerp_(weight.grad, 1.0 - momentum)
                waiting[weight.shape].append((weight, weight.grad.lerp(average, momentum)))
            for shape, members in waiting.items():
                # The root mean square of AdamW's steps (Liu et al. 2025).
                size = 0.2 * rate * max(shape) ** 0.5
                steps = orthogonalised(torch.stack([update for _, update in members]))
                for (weight, _), step in zip(members, steps, strict=True):
                    weight.mul_(1.0 - rate * group["weight_decay"]).sub_(step, alpha=size)


def orthogonalised(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices, roughly: [K, O, I] -> float32 [K, O, I] whose singular
    values lie around 1 (Newton-Schulz as in Jordan et al. 2024, in bfloat16 where that is faster).
    """
    a, b, c = COEFFICIENTS
    dtype = torch.bfloat16 if bfloat16_is_native(matrices.device) else torch.float32
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()
