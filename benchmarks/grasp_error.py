"""How far a policy's first action errs just before the fingers close, on demonstrations.

python benchmarks/grasp_error.py --policy runs/policy --data data/held-out

A planner's cross-entropy hardly tells whether it knows where an object is: far away, every bin is
the same wherever it lies. The 3 to 15 control steps before a grasp tell. Compared are commanded
translations, horizontal error in mm; the mean of four chunks is what the policy means. Beside it
the same with the demonstration's own intents: what a perfect planner would leave.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation, Samples

BEFORE = (3, 15)
"""Control steps before the fingers close."""
DRAWS = 4


def before_grasps(samples: Samples, dataset: LeRobotDataset) -> np.ndarray:
    """The rows `BEFORE` the gripper closes, int64 [K]."""
    convention = samples.action_space.convention
    gripper, opened, closed = (
        convention.gripper, convention.gripper_open, convention.gripper_closed,
    )  # fmt: skip
    if gripper is None or opened is None or closed is None:
        raise LibraError("expected a robot with a gripper, and what opens and closes it")
    changes = samples.gripper_changes
    fingers = dataset.actions[changes, gripper]
    closes = changes[abs(fingers - closed) < abs(fingers - opened)]
    rows = closes[:, None] - np.arange(BEFORE[0], BEFORE[1] + 1)
    return np.intersect1d(rows[rows >= samples.first[closes, None]], samples.rows)


@torch.no_grad()
def errors(policy: LibraPolicy, dataset: LeRobotDataset) -> dict[str, np.ndarray]:
    """Horizontal error of the first action, mm, by whose intents the refiner was given."""
    convention, model = policy.action_space.convention, policy.model
    if not isinstance(model, LibraModel):
        raise LibraError("expected a policy with a planner")
    samples = Samples.of(policy, dataset, range(len(dataset.episodes)))
    rows = before_grasps(samples, dataset)
    rng, chunk = np.random.default_rng(0), policy.chunk
    found: dict[str, list[np.ndarray]] = {"own": [], "true": []}
    for part in np.array_split(rows, max(1, len(rows) // 64)):
        seen = samples.moment(part, tuple(samples.instruction[part]), Augmentation(), rng)
        probabilities = model.plan(seen)[:, :chunk]
        true, _ = samples.ahead(samples.coarse, part, chunk)
        for whose, bins in ("own", probabilities.argmax(-1)), ("true", torch.from_numpy(true)):
            intents = F.one_hot(bins, probabilities.shape[-1]).to(probabilities.dtype)
            chunks = []
            for draw in range(DRAWS):
                generator = torch.Generator().manual_seed(draw)
                noise = torch.randn((len(part), chunk, convention.size), generator=generator)
                chunks.append(policy.action_space.denormalise(
                    model.refine(seen, intents, noise).numpy()))  # fmt: skip
            wrong = np.mean(chunks, axis=0)[:, 0, :2] - dataset.actions[part, :2]
            found[whose].append(np.linalg.norm(wrong, axis=1))
    unit = 1000.0 * float(convention.units[0].split()[0])
    return {whose: unit * np.concatenate(parts) for whose, parts in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = LibraPolicy.from_pretrained(arguments.policy)
    for whose, wrong in errors(policy, LeRobotDataset.open(arguments.data)).items():
        summary = {
            "intents": whose,
            "frames": len(wrong),
            "mean_mm": round(float(wrong.mean()), 1),
            "median_mm": round(float(np.median(wrong)), 1),
            "p90_mm": round(float(np.quantile(wrong, 0.9)), 1),
        }
        print(json.dumps(summary))


if __name__ == "__main__":
    main()
