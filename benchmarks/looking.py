"""Where a planner by places looks for what it is asked for, drawn over stills.

python benchmarks/looking.py --policy runs/policy --stills data/other-stills --out looking.png

A column for each of some scenes, one camera above the other: red is where it looks for the thing
that the instruction is about, and a ring where that is.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.policy import LibraPolicy
from libra_vla.training.samples import Augmentation
from libra_vla.training.stills import StillSamples

SIDE, RING = 192, 7
"""Pixels of a picture's side, and of a ring's radius."""


@torch.no_grad()
def looking(policy: LibraPolicy, stills: StillSamples, rows: np.ndarray) -> Image.Image:
    """One column for each of `rows`, int64 [N].

    Raises:
        LibraError: the policy does not look for things in pictures.
    """
    samples, model = stills.samples, policy.model
    words = tuple(samples.instruction[rows])
    seen = samples.moment(rows, words, Augmentation(), np.random.default_rng(0))
    if not isinstance(model, LibraModel) or model.planner.places is None:
        raise LibraError("expected a policy that tells places: `libra train --stills`")
    told, truth = model.planner.locate(seen.images, seen.state, words), stills.truth(rows)
    if told.maps is None:
        raise LibraError("this planner looks nowhere in particular: take one of `small-places`")
    cameras = seen.images.shape[1]
    sheet = Image.new("RGB", (len(rows) * SIDE, cameras * SIDE))
    for (column, camera), thing in np.ndenumerate(np.repeat(truth.asked[:, :1], cameras, axis=1)):
        weights = told.maps[column, camera, thing].flatten().softmax(dim=0)
        heat = (weights / weights.max()).reshape(told.maps.shape[-2:]).numpy()
        picture = (255 * seen.images[column, camera].permute(1, 2, 0).numpy()).astype(np.uint8)
        drawn = Image.fromarray(picture).resize((SIDE, SIDE))
        mask = Image.fromarray((200 * heat).astype(np.uint8)).resize((SIDE, SIDE))
        drawn.paste((255, 0, 0), mask=mask)
        row, across = (truth.pictured[column, camera, thing].numpy() + 1.0) * SIDE / 2
        if np.isfinite(row):
            box = (across - RING, row - RING, across + RING, row + RING)
            ImageDraw.Draw(drawn).ellipse(box, outline=(0, 255, 0), width=2)
        sheet.paste(drawn, (column * SIDE, camera * SIDE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--stills", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--columns", type=int, default=6)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = LibraPolicy.from_pretrained(arguments.policy)
    dataset = LeRobotDataset.open(arguments.stills)
    stills = StillSamples.of(policy, dataset, range(len(dataset.episodes)))
    rows = stills.samples.rows
    chosen = rows[np.linspace(0, len(rows) - 1, arguments.columns).astype(int)]
    looking(policy, stills, chosen).save(arguments.out)


if __name__ == "__main__":
    main()
