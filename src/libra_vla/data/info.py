"""What is in a dataset: `libra data info`."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.files import atomic_file
from libra_vla.images import resize

BINS = 10
"""Granularity of the histograms; the paper's N."""


def describe(path: Path | str) -> dict[str, Any]:
    """Returns counts, lengths, ranges and, by bin, how often each action occurs.

    Raises:
        LibraError: see `LeRobotDataset.open`.
    """
    dataset = LeRobotDataset.open(path)
    lengths = np.array([episode.length for episode in dataset.episodes])
    convention = dataset.convention or _unnamed(dataset)
    space = ActionSpace.fit(dataset.actions, convention, bins=BINS)
    coarse = space.encode(space.normalise(dataset.actions))
    instructions = Counter(episode.instruction for episode in dataset.episodes)
    return {
        "path": str(dataset.path),
        "fingerprint": dataset.fingerprint,
        "episodes": len(lengths),
        "frames": int(lengths.sum()),
        "fps": dataset.fps,
        "cameras": {camera: list(shape) for camera, shape in dataset.camera_shapes.items()},
        "state_size": dataset.states.shape[1],
        "instructions": dict(instructions.most_common()),
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "max": int(lengths.max()),
        },
        "actions": {
            name: {
                "min": float(dataset.actions[:, i].min()),
                "max": float(dataset.actions[:, i].max()),
                "histogram": np.bincount(coarse[:, i], minlength=BINS).tolist(),
            }
            for i, name in enumerate(convention.names)
        },
        "convention": dataset.convention.to_json() if dataset.convention else None,
        "metadata": dataset.metadata,
    }


def _unnamed(dataset: LeRobotDataset) -> ActionConvention:
    """Names for a dataset that does not say what its actions mean."""
    size = dataset.actions.shape[1]
    names = dataset.features["action"].get("names")
    if not isinstance(names, list) or len(names) != size:
        names = [f"action_{i}" for i in range(size)]
    return ActionConvention(tuple(names), ("?",) * size, "unknown", dataset.fps)


def contact_sheet(
    path: Path | str, out: Path | str, *, per_task: int = 2, columns: int = 8, size: int = 128
) -> None:
    """Draws a few episodes of each instruction, one per row, evenly sampled in time, as PNG.

    Raises:
        LibraError: see `LeRobotDataset.open`.
    """
    dataset = LeRobotDataset.open(path)
    rows = []
    for instruction in dataset.tasks:
        mine = [e for e in dataset.episodes if e.instruction == instruction]
        for episode in mine[:per_task]:
            moments = np.linspace(0, episode.length - 1, columns).round().astype(int).tolist()
            strips = [
                np.concatenate(
                    [resize(f, size) for f in dataset.frames(episode.index, c, moments)], 1
                )
                for c in dataset.cameras
            ]
            rows.append((f"{instruction}  (episode {episode.index})", np.concatenate(strips)))
    caption = 18
    height = sum(strip.shape[0] + caption for _, strip in rows)
    sheet = Image.new("RGB", (columns * size, height), "white")
    top = 0
    for text, strip in rows:
        ImageDraw.Draw(sheet).text((4, top + 3), text, fill="black")
        sheet.paste(Image.fromarray(strip), (0, top + caption))
        top += strip.shape[0] + caption
    with atomic_file(out) as partial:
        sheet.save(partial, format="PNG")
