"""How well the small visual encoder learns where objects are, from how many scenes.

python benchmarks/localisation.py --suite libero_goal --task 8 --scenes 1376 --out runs/stills

Draws one picture of each of many sampled resets, without moving the robot, and trains the encoder
of `small` to tell from it where an asked-for object lies. `habit` is the error of always answering
with the mean of the training scenes. Pictures are kept in --out: a second run with other settings
draws no more than are missing.
"""

import argparse
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from libra_vla.files import atomic_file
from libra_vla.policies.vision import SmallVision
from libra_vla.simulation.benchmark import Task, keep_environment
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.registry import benchmark_of
from libra_vla.training.samples import Augmentation
from libra_vla.workers import fan_out

CAMERA, DRAWN_AT = "agentview", 128
ASKED, WIDTH, BATCH, RATE = 64, 128, 64, 1e-3
HELD_OUT = 200
"""Scenes."""
UNIT = 0.03
"""Metres that count as 1 to the network."""


@dataclass(frozen=True)
class Still:
    """What one reset looks like: uint8 [h, w, 3], and where its objects are, m [O, 2]."""

    image: np.ndarray
    places: np.ndarray


def draw(seed: int, *, task: Task, spread: float) -> Still:
    """Resets a scene and looks at it."""
    env = keep_environment(benchmark_of(task.suite), task, image_size=DRAWN_AT, meshes="decimated")
    assert isinstance(env, LiberoEnv)
    env.reset(seed=seed, spread=spread)
    scene, names = Scene(env.robosuite_env), sorted(env.robosuite_env.obj_body_id)
    places = np.array([scene.pose(name)[0][:2] for name in names])
    return Still(env.observe().images[CAMERA], places)


def stills(task: Task, scenes: int, spread: float, folder: Path) -> list[Still]:
    """Those that the folder holds, and as many more as it takes."""
    path = folder / f"{task.suite}-{task.index}-{spread:g}.npz"
    found: list[Still] = []
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            found = [Still(*pair) for pair in zip(kept["images"], kept["places"], strict=True)]
    missing = range(len(found), scenes)
    jobs = fan_out(partial(draw, task=task, spread=spread), list(missing), workers=2)
    for outcome in tqdm(jobs, total=len(missing), desc="stills"):
        if outcome.error:
            raise SystemExit(outcome.error)
        found.append(outcome.value)
    if missing:
        with atomic_file(path) as aside, aside.open("wb") as file:
            np.savez(file, images=[s.image for s in found], places=[s.places for s in found])
    return found[:scenes]


class Locator(nn.Module):
    """The encoder of `small`, modulated by which object is asked for, and a small head."""

    def __init__(self, objects: int, image_size: int) -> None:
        super().__init__()
        self.asked = nn.Embedding(objects, ASKED)
        self.vision = SmallVision(1, image_size, WIDTH, asked=ASKED)
        tokens = (image_size // 16) ** 2 + 1
        self.head = nn.Sequential(nn.Linear(tokens * WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2))

    def forward(self, images: Tensor, asked: Tensor) -> Tensor:
        """Images [B, 3, h, w] and which object [B] -> its place [B, 2], in `UNIT`."""
        return self.head(self.vision(images[:, None], self.asked(asked)).values.flatten(1))


def learn(
    images: np.ndarray, places: np.ndarray, held_out: np.ndarray, *, size: int, steps: int
) -> np.ndarray:
    """Trains on images [n, 128, 128, 3] and places [n, O, 2] (m).

    Returns:
        Where it takes the objects of the held-out images [k, 128, 128, 3] to be, m [k, O, 2].
    """
    torch.manual_seed(0)
    rng, middle = np.random.default_rng(0), places.mean(axis=0)
    small = [_shrunk(part, size) for part in (images, held_out)]
    wanted = torch.from_numpy((places - middle) / UNIT).float()
    network = Locator(places.shape[1], size)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda k: min(1.0, (k + 1) / 50) * (0.51 + 0.49 * math.cos(math.pi * k / steps)),
    )
    jitter = Augmentation(shift=0.0, jitter=0.2)
    for _ in tqdm(range(steps), desc="train"):
        rows = rng.integers(len(images), size=BATCH)
        asked = torch.from_numpy(rng.integers(places.shape[1], size=BATCH))
        seen = torch.from_numpy(jitter.apply(small[0][rows], rng))[:, 0]
        loss = F.smooth_l1_loss(network(seen, asked), wanted[rows, asked])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
    seen = torch.from_numpy(Augmentation().apply(small[1], rng))[:, 0]
    with torch.no_grad():
        told = [network(seen, torch.full((len(seen),), o)) for o in range(places.shape[1])]
    return torch.stack(told, dim=1).numpy() * UNIT + middle


def _shrunk(images: np.ndarray, size: int) -> np.ndarray:
    """[n, 128, 128, 3] -> [n, 1, size, size, 3], uint8: one camera."""
    factor = images.shape[1] // size
    blocks = images.reshape(len(images), size, factor, size, factor, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--task", type=int, default=8)
    parser.add_argument("--spread", type=float, default=0.06, help="metres")
    parser.add_argument("--scenes", type=int, default=1376, help=f"{HELD_OUT} are held out")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    (task,) = benchmark_of(options.suite).choose(options.suite, str(options.task))
    found = stills(task, options.scenes, options.spread, options.out)
    images, places = np.stack([s.image for s in found]), np.stack([s.places for s in found])
    new, known = slice(0, HELD_OUT), slice(HELD_OUT, None)
    told = learn(
        images[known], places[known], images[new], size=options.image_size, steps=options.steps
    )
    wrong = 1000.0 * np.linalg.norm(told - places[new], axis=2)
    habit = 1000.0 * np.linalg.norm(places[new] - places[known].mean(axis=0), axis=2)
    print(
        json.dumps(
            {
                "scenes": len(found) - HELD_OUT,
                "mm": wrong.mean(axis=0).round(1).tolist(),
                "habit_mm": habit.mean(axis=0).round(1).tolist(),
                "median_mm": round(float(np.median(wrong)), 1),
                "p90_mm": round(float(np.quantile(wrong, 0.9)), 1),
            }
        )
    )


if __name__ == "__main__":
    main()
