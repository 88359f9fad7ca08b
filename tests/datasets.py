"""A tiny dataset that a policy can learn from: the bright square's place is the action."""

import json
from pathlib import Path

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.data.lerobot import ABSENT, ASKED, DRAWN_EVERY, SHOVED, VIEWS, Episode
from libra_vla.data.writer import DatasetWriter
from libra_vla.views import View

CONVENTION = ActionConvention(
    names=("x", "y", "gripper"),
    units=("m", "m", "1"),
    representation="delta",
    rate_hz=20.0,
    gripper=2,
)
ABOVE = View(False, 2.0 * np.arctan(0.1), (0.0, 0.0, 1.01), ((1, 0, 0), (0, 1, 0), (0, 0, -1)))
"""How the first camera sees the square."""


def write_dataset(
    path: Path,
    *,
    episodes: int = 4,
    length: int = 12,
    cameras: tuple[str, ...] = ("agentview", "wrist"),
    convention: ActionConvention = CONVENTION,
    drawn_every: int = 1,
    shoved: str = "",
    stills: bool = False,
    things: tuple[str, str, str] = ("circle", "shadow", "square"),
    about: tuple[str, str] = ("square shadow", "shadow shadow"),
    moving: bool = True,
) -> Path:
    """Writes episodes of two instructions in turn; returns the folder.

    Args:
        drawn_every: frames from one new picture to the next; those between repeat it.
        shoved: frames to learn nothing from, see `libra_vla.data.lerobot.SHOVED`.
        stills: each frame tells where the square is, in metres, the hand being anywhere, and its
            shadow, twice as far, but no circle. Proprioception is then the hand's pose; how it sees
            is told of the first camera alone.
        things: their names; a moon is there, in place of a circle.
        about: of stills, what "go left" and "go right" are about.
        moving: False for actions of 0.
    """
    state_names = [*"abcdef"] if stills else [*"abcd"]
    writer = DatasetWriter(
        path,
        fps=20.0,
        cameras=dict.fromkeys(cameras, (64, 64)),
        state_names=state_names,
        convention=convention,
        places=things if stills else (),
    )
    rng = np.random.default_rng(0)
    for episode in range(episodes):
        places = rng.integers(8, 56, size=(length, 2))
        frames = np.full((length, 64, 64, 3), 40, dtype=np.uint8)
        for frame, (x, y) in zip(frames, places, strict=True):
            frame[y - 6 : y + 6, x - 6 : x + 6] = 230
        actions = np.zeros((length, convention.size), dtype=np.float32)
        actions[:, :2] = places / 32.0 - 1.0
        actions[:, -1] = np.where(np.arange(length) < length // 2, -1.0, 1.0)
        columns = {DRAWN_EVERY: drawn_every, SHOVED: shoved}
        views = {cameras[0]: ABOVE.to_json()} if cameras else {}
        asked = {ASKED: about[episode % 2], VIEWS: json.dumps(views)}
        drawn = Episode(0, 0, length, "", columns).drawn
        shown = drawn[np.searchsorted(drawn, np.arange(length), side="right") - 1]
        writer.add_episode(
            dict.fromkeys(cameras, frames[shown]),
            rng.normal(size=(length, len(state_names))).astype(np.float32),
            actions * moving,
            ("go left", "go right")[episode % 2],
            (columns if drawn_every > 1 or shoved else {}) | (asked if stills else {}),
            places=_square(places, "moon" in things) if stills else None,
        )
    return path


def _square(pixels: np.ndarray, moon: bool) -> np.ndarray:
    """Where a moon, the shadow and the square are, [n, 3, 3] m, by the square's pixels [n, 2]."""
    place = np.pad(pixels / 320.0 - 0.1, ((0, 0), (0, 1)), constant_values=0.01)
    return np.stack([place + 0.3 if moon else np.full_like(place, ABSENT), 2.0 * place, place], 1)
