"""What a training step costs, and what makes it cheaper: bfloat16, and Muon in batches.

python benchmarks/training_speed.py --preset small --image-size 64

Contenders take turns within one run; what counts is the ratio to the first one. Batches are drawn
once and look like LIBERO's: two cameras, 8 numbers, 7 dimensions.
"""

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libra_vla.benchmark import CAMERAS, DIMENSIONS, STATE
from libra_vla.config import PolicyConfig, load_preset
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.losses import Objective
from libra_vla.policies.models import make_model
from libra_vla.training.config import Precision, TrainConfig
from libra_vla.training.optimiser import Optimiser
from libra_vla.training.precision import computing_in
from libra_vla.versions import versions


def draw(config: PolicyConfig, bins: tuple[int, ...], size: int) -> Batch:
    """A batch of noise."""
    side, horizon = config.image_size, config.macro_horizon

    def moment() -> Moment:
        images = torch.rand(size, len(CAMERAS), side, side, 3).movedim(-1, 2)
        return Moment(images, torch.randn(size, STATE), ("put the bowl on the plate",) * size)

    coarse = torch.stack([torch.randint(n, (size, horizon)) for n in bins], dim=-1)
    return Batch(
        planned=moment(),
        current=moment(),
        offset=torch.randint((config.horizon_factor - 1) * config.chunk + 1, (size,)),
        coarse=coarse,
        coarse_valid=torch.ones(size, horizon, dtype=torch.bool),
        actions=torch.rand(size, config.chunk, DIMENSIONS) * 2.0 - 1.0,
        actions_valid=torch.ones(size, config.chunk, dtype=torch.bool),
    )


@dataclass
class Contender:
    """A model in training, in one precision and with one Muon."""

    model: Any
    optimiser: Optimiser
    precision: Precision

    @classmethod
    def make(
        cls, config: PolicyConfig, bins: tuple[int, ...], precision: Precision, *, batched: bool
    ) -> "Contender":
        model = make_model(config, bins=bins, cameras=len(CAMERAS), state_size=STATE)
        optimiser = Optimiser(model, TrainConfig(data=Path(), out=Path()))
        if not batched:
            optimiser.muon = torch.optim.Muon(
                [matrix for _, matrix in optimiser.matrices], adjust_lr_fn="match_rms_adamw"
            )
        return cls(model, optimiser, precision)

    def step(self, batch: Batch) -> float:
        """Takes a step and returns its milliseconds."""
        began = time.perf_counter()
        with computing_in(self.precision, torch.device("cpu")):
            loss, _ = self.model.loss(batch, Objective(predicted_intents=True, draws=2))
        loss.backward()
        self.optimiser.step(1e-4)
        return 1000.0 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=40)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = replace(load_preset(arguments.preset), image_size=arguments.image_size)
    bins = (config.granularity,) * (DIMENSIONS - 1) + (config.gripper_bins or config.granularity,)
    batch = draw(config, bins, arguments.batch_size)
    contenders = {
        "fp32, torch's Muon": Contender.make(config, bins, "fp32", batched=False),
        "fp32": Contender.make(config, bins, "fp32", batched=True),
        "bf16": Contender.make(config, bins, "bf16", batched=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(arguments.rounds + 3):
        for name, contender in contenders.items():
            milliseconds = contender.step(batch)
            if turn >= 3:  # the first ones warm up
                spent[name].append(milliseconds)
    medians = {name: float(np.median(times)) for name, times in spent.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(json.dumps({"step": name, "ms": round(median, 1), "speed": round(first / median, 2)}))
    print(json.dumps({"amx": torch.cpu._is_amx_tile_supported(), "versions": versions()}))


if __name__ == "__main__":
    main()
