"""How gradients become steps: AdamW, or Muon for the matrices inside the networks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from libra_vla.training.config import TrainConfig
from libra_vla.training.muon import BatchedMuon

NARROW = 48
"""A matrix with a shorter side than this reads or writes numbers: pixels, states, actions, bins."""
MUON = "muon."
MUON_RATE = 3.0
"""Muon's learning rate, in AdamW's. On LIBERO-Goal, 1 and 3 were tried: 3 learns faster."""


class Optimiser:
    """AdamW for everything, or, with `optimiser = "muon"`, for all but the hidden weights.

    Muon (Jordan et al. 2024) orthogonalises the momentum of a matrix; its step is scaled to the
    size of AdamW's (Liu et al. 2025), times `MUON_RATE`. A convolution's weight `[O, I, H, W]`
    counts as the matrix `[O, I*H*W]`.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        hidden = hidden_weights(model) if config.optimiser == "muon" else []
        # Muon takes matrices alone: each is a view, so a step moves the weight itself.
        self.matrices = [(weight, nn.Parameter(weight.data.flatten(1))) for weight in hidden]
        known = {id(p) for p in hidden}
        others = [p for p in model.parameters() if p.requires_grad and id(p) not in known]
        rate, decay = config.learning_rate, config.weight_decay
        self.adamw = torch.optim.AdamW(others, lr=rate, weight_decay=decay, fused=True)
        self.muon: torch.optim.Muon | None = (
            BatchedMuon([matrix for _, matrix in self.matrices], lr=rate, weight_decay=decay)
            if self.matrices
            else None
        )

    @property
    def parts(self) -> dict[str, torch.optim.Optimizer]:
        """Prefix of the names in `tensors` -> torch's optimiser."""
        parts: dict[str, torch.optim.Optimizer] = {"": self.adamw}
        return parts | ({MUON: self.muon} if self.muon is not None else {})

    def step(self, rate: float) -> None:
        """Takes a step with this learning rate, and forgets the gradients."""
        for weight, matrix in self.matrices:
            matrix.grad = weight.grad.flatten(1) if weight.grad is not None else None
            weight.grad = None
        for prefix, part in self.parts.items():
            for group in part.param_groups:
                group["lr"] = rate * (MUON_RATE if prefix == MUON else 1.0)
            part.step()
            part.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved."""
        return {
            f"{prefix}{index}.{name}": value
            for prefix, part in self.parts.items()
            for index, entry in part.state_dict()["state"].items()
            for name, value in entry.items()
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `tensors` returned."""
        for prefix, part in self.parts.items():
            entries: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                if key.startswith(MUON) == (prefix == MUON):
                    index, name = key.removeprefix(prefix).split(".")
                    entries.setdefault(int(index), {})[name] = value
            part.load_state_dict(part.state_dict() | {"state": entries})


def hidden_weights(model: nn.Module) -> list[nn.Parameter]:
    """Trained weights of the layers that lead from one wide layer to another."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return [
        weight
        for layer in layers
        if isinstance(weight := layer.weight, nn.Parameter)
        and weight.requires_grad
        and min(weight.flatten(1).shape) >= NARROW
    ]
