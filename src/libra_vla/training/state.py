"""Everything a training run needs to go on exactly where it stopped, saved as a whole."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from libra_vla.config import defaults_of
from libra_vla.errors import LibraError
from libra_vla.files import atomic_folder, read_json, write_json
from libra_vla.policies.checkpoints import write_tensors
from libra_vla.training.config import TrainConfig
from libra_vla.training.curriculum import CurriculumState
from libra_vla.training.optimiser import Optimiser

TENSORS, RECORD = "state.safetensors", "state.json"


class EMA:
    """Exponential moving average of a model's weights; it starts quickly, so that early
    checkpoints are of use: decay = min(decay, (1 + step) / (10 + step))."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, 1.0 - decay)
            else:
                self.weights[name].copy_(value)


@dataclass
class TrainingState:
    """The moving parts of a run after `step` optimiser steps.

    Batches and noise are functions of (seed, step) alone, so no generator has to be saved.
    """

    model: nn.Module
    optimiser: Optimiser
    ema: EMA
    curriculum: CurriculumState
    step: int = 0

    def save(self, folder: Path, run: dict[str, Any]) -> None:
        """Writes the state atomically; `run` is what a resumed run must share."""
        tensors: dict[str, Tensor] = {}
        for name, value in self.model.state_dict().items():
            tensors[f"model.{name}"] = value
        for name, value in self.ema.weights.items():
            tensors[f"ema.{name}"] = value
        for name, value in self.optimiser.tensors().items():
            tensors[f"optimiser.{name}"] = value
        with atomic_folder(folder) as aside:
            write_tensors(tensors, aside / TENSORS)
            record = {"step": self.step, "curriculum": asdict(self.curriculum), "run": run}
            write_json(aside / RECORD, record)

    def load(self, folder: Path, run: dict[str, Any]) -> None:
        """Restores the state.

        Raises:
            LibraError: damaged files, or a run with other settings, which are named.
        """
        record = read_json(folder / RECORD)
        before = defaults_of(TrainConfig) | record["run"]
        differing = [k for k in run if before.get(k) != run[k]]
        if differing:
            was = ", ".join(f"{k} was {before.get(k)!r}, is {run[k]!r}" for k in differing)
            raise LibraError(f"cannot resume {folder.parent}: {was}; use the same settings")
        try:
            tensors = load_file(folder / TENSORS)
        except (SafetensorError, OSError) as error:
            raise LibraError(f"{folder / TENSORS} is damaged ({error}): train again") from error
        grouped: dict[str, dict[str, Tensor]] = {"model": {}, "ema": {}, "optimiser": {}}
        for name, value in tensors.items():
            group, rest = name.split(".", 1)
            grouped[group][rest] = value
        self.model.load_state_dict(grouped["model"])
        self.ema.weights = grouped["ema"]
        self.optimiser.load(grouped["optimiser"])
        self.curriculum = CurriculumState(**record["curriculum"])
        self.step = record["step"]
