"""How well a planner tells where things are, on stills of scenes that it has not seen.

python benchmarks/place_error.py --policy runs/policy --stills data/other-stills

Horizontal errors in mm: of the thing that each task's first goal is about, where it is not in the
hand, of the same within 15 cm of the hand, and of the place where it is to go; then of every thing,
by name, whatever is asked for. `habit` is the error of always answering with the middle of the
task's other scenes.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.places import Told
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation
from libra_vla.training.stills import StillSamples

NEAR, HELD = 0.15, 0.08
"""Metres from the hand within which a thing is near it, and within which it may be held."""


@torch.no_grad()
def tell(policy: LibraPolicy, stills: StillSamples, rows: np.ndarray) -> Told:
    """What the planner says of some rows."""
    model, samples, rng = policy.model, stills.samples, np.random.default_rng(0)
    if not isinstance(model, LibraModel) or model.planner.places is None:
        raise LibraError("expected a policy that tells places: `libra train --stills`")
    told = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        words = tuple(samples.instruction[part])
        seen = samples.moment(part, words, Augmentation(), rng)
        told.append(model.planner.locate(seen.images, seen.state, seen.instructions))
    return Told(torch.cat([t.places for t in told]), torch.cat([t.which for t in told]))


def habit(places: np.ndarray, tasks: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """Distance of places [n, 3] (m) from the middle of the same task's other scenes, [n]; NaN where
    there are none."""
    off = np.full(len(places), np.nan)
    for row, place in enumerate(places):
        others = (tasks == tasks[row]) & (scenes != scenes[row])
        if others.any():
            off[row] = np.linalg.norm((place - np.median(places[others], axis=0))[:2])
    return off


def errors(policy: LibraPolicy, dataset: LeRobotDataset) -> Iterator[dict[str, object]]:
    """One summary for each kind of place."""
    stills = StillSamples.of(policy, dataset, range(len(dataset.episodes)))
    rows = stills.samples.rows
    told, truth = tell(policy, stills, rows), stills.truth(rows)
    tasks = stills.samples.instruction[rows]
    scenes = np.repeat(np.arange(len(dataset.episodes)), [e.length for e in dataset.episodes])[rows]
    hand = dataset.states[rows, :3]

    def summary(place: str, told: np.ndarray, true: np.ndarray, chosen: np.ndarray):
        off = np.linalg.norm((told - true)[chosen, :2], axis=1)
        usual = habit((true + hand)[chosen], tasks[chosen], scenes[chosen])
        return {
            "place": place,
            "stills": int(chosen.sum()),
            "median_mm": round(1000.0 * float(np.median(off)), 1),
            "p90_mm": round(1000.0 * float(np.quantile(off, 0.9)), 1),
            "habit_mm": round(1000.0 * float(np.nanmedian(usual)), 1),
        }

    asked, goals = told.asked.numpy(), truth.of_asked.numpy()
    away = np.linalg.norm(goals, axis=2)
    for name, slot, chosen in (
        ("thing", 0, away[:, 0] > HELD),
        ("thing, near the hand", 0, (away[:, 0] > HELD) & (away[:, 0] < NEAR)),
        ("where it is to go", 1, away[:, 1] >= 0.0),
        ("where it is to go, near the hand", 1, away[:, 1] < NEAR),
    ):
        if chosen.any():
            yield summary(name, asked[:, slot], goals[:, slot], chosen)
    places, true = told.places.numpy(), truth.places.numpy()
    for number, name in enumerate(policy.config.planner.things):
        there = truth.present[:, number].numpy() & (np.linalg.norm(true[:, number], axis=1) > HELD)
        if there.any():
            yield summary(name, places[:, number], true[:, number], there)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--stills", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = LibraPolicy.from_pretrained(arguments.policy)
    for found in errors(policy, LeRobotDataset.open(arguments.stills)):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
