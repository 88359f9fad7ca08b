"""What is in a dataset: `libra data info`."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.files import atomic_file
from libra_vla.images import resize

CAPTION = 18
"""Pixels above each row of a contact sheet, for a line of text."""
MANY = 10
"""Instructions from which on a contact sheet shows one episode of each, at half the size."""
ONE_WAY = 0.3
"""Share of a dimension's largest action from which on a motion goes clearly one way."""
OURS = ("task", "attempt")
"""Columns of an episode that say which one it is, rather than how it was made."""


def describe(path: Path | str, *, bins: int = 10) -> dict[str, Any]:
    """Returns counts, lengths, ranges and, by bin, how often each action occurs.

    Args:
        bins: granularity N of the histograms.

    Raises:
        LibraError: see `LeRobotDataset.open`; fewer than two bins.
    """
    dataset = LeRobotDataset.open(path)
    lengths = np.array([episode.length for episode in dataset.episodes])
    convention = dataset.convention or _unnamed(dataset)
    space = ActionSpace.fit(dataset.actions, convention, bins=bins)
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
        "places": list(dataset.place_names),
        "views": sorted(set.intersection(*(set(e.views) for e in dataset.episodes))),
        "instructions": dict(instructions.most_common()),
        "turns": _turns_by_instruction(dataset, convention),
        "length": _spread(lengths),
        "actions": {
            name: {
                "min": float(dataset.actions[:, i].min()),
                "max": float(dataset.actions[:, i].max()),
                "histogram": np.bincount(coarse[:, i], minlength=bins).tolist(),
            }
            for i, name in enumerate(convention.names)
        },
        "convention": dataset.convention.to_json() if dataset.convention else None,
        "recorded": _recorded(dataset),
        "metadata": dataset.metadata,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """The smallest, the middle and the largest of some numbers."""
    return {
        "min": values.min().item(),
        "median": float(np.median(values)),
        "max": values.max().item(),
    }


def _turns_by_instruction(
    dataset: LeRobotDataset, convention: ActionConvention
) -> dict[str, dict[str, Any]]:
    """Turns `per_episode` on average, in the `dimension` that has most, the gripper left out."""
    moving = [i for i in range(convention.size) if i != convention.gripper]
    largest = np.abs(dataset.actions).max(axis=0)
    counts: dict[str, list[np.ndarray]] = {}
    for episode in dataset.episodes:
        actions = dataset.actions[episode.start : episode.start + episode.length]
        counts.setdefault(episode.instruction, []).append(turns(actions, largest)[moving])
    found = {}
    for instruction, rows in counts.items():
        mean = np.mean(rows, axis=0)
        worst = int(mean.argmax())
        name = convention.names[moving[worst]]
        found[instruction] = {"dimension": name, "per_episode": round(float(mean[worst]), 2)}
    return found


def turns(actions: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Returns how often each dimension turns from clearly one way to clearly the other, int [D].

    A pick and place turns back a few times; a demonstrator that dithers, which a policy learns
    too, dozens of times.

    Args:
        actions: of one episode, [T, D], in any unit: velocities or offsets, not positions.
        largest: what counts as full speed in each dimension, [D], same units; see `ONE_WAY`.
    """
    clear = np.where(np.abs(actions) > ONE_WAY * largest, np.sign(actions), 0.0)
    return np.array([np.count_nonzero(np.diff(way[way != 0.0])) for way in clear.T])


def _recorded(dataset: LeRobotDataset) -> dict[str, dict[str, float]]:
    """Numbers that were recorded with each episode beyond LeRobot's own, such as its noise."""
    own = re.compile(r".*/|length$|episode_index$|dataset_(from|to)_index$")
    columns = {name for e in dataset.episodes for name in e.place if not own.match(name)}
    found: dict[str, dict[str, float]] = {}
    for name in sorted(columns - set(OURS)):
        values = [e.place[name] for e in dataset.episodes if e.place.get(name) is not None]
        if values and all(isinstance(value, int | float) for value in values):
            found[name] = _spread(np.array(values))
    return found


def _unnamed(dataset: LeRobotDataset) -> ActionConvention:
    """Names for a dataset that does not say what its actions mean."""
    size = dataset.actions.shape[1]
    names = dataset.features["action"].get("names")
    if not isinstance(names, list) or len(names) != size:
        names = [f"action_{i}" for i in range(size)]
    return ActionConvention(tuple(names), ("?",) * size, "unknown", dataset.fps)


def contact_sheet(path: Path | str, out: Path | str, *, columns: int = 8, size: int = 128) -> None:
    """Draws two episodes of each instruction, evenly sampled in time, a row per camera, as PNG.

    Of many instructions one episode each is shown, at half the size.

    Args:
        columns: frames per row.
        size: side of a frame, pixels.

    Raises:
        LibraError: see `LeRobotDataset.open`; the file cannot be written.
    """
    dataset = LeRobotDataset.open(path)
    many = len(dataset.tasks) > MANY
    size, per_task = (size // 2, 1) if many else (size, 2)
    chosen = [
        episode
        for instruction in dataset.tasks
        for episode in [e for e in dataset.episodes if e.instruction == instruction][:per_task]
    ]
    height = CAPTION + len(dataset.cameras) * size
    sheet = Image.new("RGB", (columns * size, len(chosen) * height), "white")
    for row, episode in enumerate(chosen):
        text = f"{episode.instruction}  (episode {episode.index})"
        ImageDraw.Draw(sheet).text((4, row * height + 3), text, fill="black")
        moments = np.linspace(0, episode.length - 1, columns).round().astype(int).tolist()
        for line, camera in enumerate(dataset.cameras):
            frames = [resize(f, size) for f in dataset.frames(episode.index, camera, moments)]
            strip = Image.fromarray(np.concatenate(frames, axis=1))
            sheet.paste(strip, (0, row * height + CAPTION + line * size))
    with atomic_file(out) as partial:
        sheet.save(partial, format="PNG")
