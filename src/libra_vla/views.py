"""How a camera sees: which place in the world is where in its picture."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from libra_vla.errors import LibraError

CLOSEST = 0.01
"""Metres before the camera from which on it sees."""


@dataclass(frozen=True)
class View:
    """A pinhole camera with a square picture.

    Attributes:
        on_hand: whether `at` and `axes` are told in the hand's frame, with which the camera moves,
            or else in the world's; the state's first six numbers say where the hand is.
        fov: angle between the picture's upper and lower edge, rad.
        at: where the camera is, metres [3].
        axes: unit vectors along which the picture's columns and rows count up, and the one into the
            picture [3][3].
    """

    on_hand: bool
    fov: float
    at: tuple[float, ...]
    axes: tuple[tuple[float, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists, by the names of the attributes."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "View":
        """Reads what `to_json` told.

        Raises:
            LibraError: something is missing, of another shape, or no finite number.
        """
        try:
            at, axes = np.array(data["at"], float), np.array(data["axes"], float)
            if at.shape != (3,) or axes.shape != (3, 3):
                raise ValueError(f"at {list(at.shape)}, axes {list(axes.shape)}")
            if not np.isfinite([*at, *axes.flat, data["fov"]]).all():
                raise ValueError("NaN or infinity")
            return cls(
                bool(data["on_hand"]),
                float(data["fov"]),
                tuple(at.tolist()),
                tuple(map(tuple, axes.tolist())),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LibraError(
                f"a camera's view is not as expected ({error}): on_hand, fov, at [3], axes [3][3]"
            ) from error


@dataclass(frozen=True)
class Views:
    """How B x C cameras see: `View`s as arrays; a camera of which nothing is known has a `focus` of
    NaN.

    Attributes:
        on_hand: bool [B, C].
        focus: distance of the picture from the pinhole, in halves of its side, [B, C].
        at: [B, C, 3].
        axes: [B, C, 3, 3].
    """

    on_hand: np.ndarray
    focus: np.ndarray
    at: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, views: list[list[View | None]]) -> "Views":
        """Of each sample and camera, [B][C]; None for what is not known."""
        unknown = View(False, np.nan, (0.0,) * 3, ((0.0,) * 3,) * 3)
        known = [[view or unknown for view in row] for row in views]

        def gathered(name: str) -> np.ndarray:
            return np.array([[getattr(view, name) for view in row] for row in known])

        focus = 1.0 / np.tan(gathered("fov") / 2.0)
        return cls(gathered("on_hand"), focus, gathered("at"), gathered("axes"))

    def __getitem__(self, rows: np.ndarray) -> "Views":
        """Those of some samples, int64 [N]."""
        return Views(self.on_hand[rows], self.focus[rows], self.at[rows], self.axes[rows])

    def pictured(self, places: np.ndarray, hand: np.ndarray, turned: np.ndarray) -> np.ndarray:
        """Where places are in the pictures.

        Args:
            places: metres in the world [B, P, 3].
            hand: where the hand is, metres [B, 3].
            turned: its rotation [B, 3, 3].

        Returns:
            Row and column, from -1 at the upper and the left edge to 1, float32 [B, C, P, 2]; NaN
            for what is not within the picture.
        """
        moved = np.einsum("bij,bcj->bci", turned, self.at) + hand[:, None]
        at = np.where(self.on_hand[..., None], moved, self.at)
        along = np.einsum("bij,bckj->bcki", turned, self.axes)
        axes = np.where(self.on_hand[..., None, None], along, self.axes)
        off = np.einsum("bckj,bcpj->bcpk", axes, places[:, None] - at[:, :, None])
        deep = np.where(off[..., 2] > CLOSEST, off[..., 2], np.nan)
        found = self.focus[..., None, None] * off[..., 1::-1] / deep[..., None]
        within = (np.abs(found) < 1.0).all(axis=-1, keepdims=True)
        return np.where(within, found, np.nan).astype(np.float32)
