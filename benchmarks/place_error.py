"""How well a planner tells where things are, on stills of scenes that it has not seen.

python benchmarks/place_error.py --policy runs/policy --stills data/other-stills

Horizontal errors in mm: of the thing that each task's first goal is about, where it is not in the
hand, of the same within 15 cm of the hand, and of the place where it is to go. `habit` is the error
of always answering with the middle of the task's other scenes.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation
from libra_vla.training.stills import StillSamples

NEAR, HELD = 0.15, 0.08
"""Metres from the hand within which a thing is near it, and within which it may be held."""


@torch.no_grad()
def told(policy: LibraPolicy, stills: StillSamples, rows: np.ndarray) -> np.ndarray:
    """Where the planner says that what is asked for is, m from the hand, [n, K, 3]."""
    model, samples, rng = policy.model, stills.samples, np.random.default_rng(0)
    if not isinstance(model, LibraModel) or model.planner.places is None:
        raise LibraError("expected a policy that tells places: `libra train --stills`")
    found = []
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        words = tuple(samples.instruction[part])
        seen = samples.moment(part, words, Augmentation(), rng)
        found.append(model.planner.locate(seen.images, seen.state, seen.instructions).asked.numpy())
    return np.concatenate(found)


def habit(places: np.ndarray, tasks: np.ndarray, scenes: np.ndarray) -> np.ndarray:
    """Distance of places [n, 3] (m) from the middle of the same task's other scenes, [n]."""
    off = np.empty(len(places))
    for row, place in enumerate(places):
        others = (tasks == tasks[row]) & (scenes != scenes[row])
        off[row] = np.linalg.norm((place - np.median(places[others], axis=0))[:2])
    return off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--stills", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy, dataset = (
        LibraPolicy.from_pretrained(arguments.policy),
        LeRobotDataset.open(arguments.stills),
    )
    stills = StillSamples.of(policy, dataset, range(len(dataset.episodes)))
    rows = stills.samples.rows
    true, tasks = stills.truth(rows).of_asked.numpy(), stills.samples.instruction[rows]
    scenes = np.repeat(np.arange(len(dataset.episodes)), [e.length for e in dataset.episodes])[rows]
    wrong = np.linalg.norm((told(policy, stills, rows) - true)[..., :2], axis=2)
    free = np.linalg.norm(true[:, 0], axis=1) > HELD
    near = np.linalg.norm(true, axis=2) < NEAR
    world = true + dataset.states[rows][:, None, :3]
    usual = np.stack([habit(world[:, slot], tasks, scenes) for slot in (0, 1)], axis=1)
    for name, slot, chosen in (
        ("thing", 0, free),
        ("thing, near the hand", 0, free & near[:, 0]),
        ("where it is to go", 1, np.ones_like(free)),
        ("where it is to go, near the hand", 1, near[:, 1]),
    ):
        off, expected = 1000.0 * wrong[chosen, slot], 1000.0 * usual[chosen, slot]
        summary = {
            "place": name,
            "stills": int(chosen.sum()),
            "median_mm": round(float(np.median(off)), 1),
            "p90_mm": round(float(np.quantile(off, 0.9)), 1),
            "habit_mm": round(float(np.median(expected)), 1),
        }
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
