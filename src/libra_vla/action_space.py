"""The hybrid action space: one continuous action, seen as a coarse bin and as a fine value.

A raw action (in the robot's units) is normalised to [-1, 1]; the coarse action is the index of the
uniform bin that holds it, per dimension (paper, hybrid action space):

    c = clip(floor((a + 1) / 2 * N), 0, N - 1)

The object also carries the conventions of the robot it was fitted on, so that a policy refuses a
robot whose gripper closes the other way round.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np

from libra_vla.errors import LibraError, unknown

Normalisation = Literal["min_max", "symmetric", "quantile", "identity"]


@dataclass(frozen=True)
class ActionConvention:
    """What the numbers of a raw action mean.

    Attributes:
        names: one per dimension, in order.
        units: one per dimension, for instance "m" or "rad"; "1" for a scaled command.
        representation: for instance "delta end-effector pose (OSC)".
        rate_hz: control rate; actions are meant to be executed at it.
        gripper: index of the gripper dimension, or None.
        gripper_open, gripper_closed: the raw values that open and close it.
        rest: the command that keeps the robot where it is: "zero" (deltas, velocities), or "last",
            the last one again (absolute poses).
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    representation: str
    rate_hz: float
    gripper: int | None = None
    gripper_open: float = -1.0
    gripper_closed: float = 1.0
    rest: Literal["zero", "last"] = "zero"

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.units):
            raise LibraError(
                f"action convention has {len(self.names)} names and {len(self.units)} units: "
                "give one of each per dimension"
            )
        if self.gripper is not None and not 0 <= self.gripper < len(self.names):
            raise LibraError(f"gripper index {self.gripper} is outside of {len(self.names)} names")

    @property
    def size(self) -> int:
        """Number of action dimensions D."""
        return len(self.names)

    def checked(self, action: np.ndarray) -> np.ndarray:
        """Returns a raw action as float64 [D].

        Raises:
            LibraError: wrong shape, NaN or infinity.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != (self.size,) or not np.isfinite(action).all():
            raise LibraError(
                f"action is {action.tolist()}: expected {self.size} finite numbers "
                f"({', '.join(self.names)})"
            )
        return action

    def differences(self, other: "ActionConvention") -> list[str]:
        """Returns one phrase per field in which `other` differs; an empty list means equal."""
        return [
            f"{f.name} is {getattr(other, f.name)!r} instead of {getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(other, f.name)
        ]

    def require_equal(self, other: "ActionConvention", *, mine: str, theirs: str) -> None:
        """Raises LibraError naming each difference between the conventions of two things."""
        if found := self.differences(other):
            raise LibraError(
                f"{theirs} does not follow the action convention of {mine}: {'; '.join(found)}"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ActionConvention":
        try:
            arguments = dict(value)
            arguments |= {"names": tuple(value["names"]), "units": tuple(value["units"])}
            return cls(**arguments)
        except (KeyError, TypeError) as error:
            raise LibraError(f"the action convention is damaged ({error})") from error


@dataclass(frozen=True)
class ActionSpace:
    """Normalises, bins and un-bins actions of one robot.

    Attributes:
        convention: what raw actions mean.
        bins: granularity N per dimension, each at least 2 (a gripper may have its own).
        low, high: raw values that map to -1 and +1, per dimension. Where they are equal (a
            dimension that never moved) every action normalises to 0 and denormalises to `low`.
        normalisation: how `low` and `high` were chosen.
    """

    convention: ActionConvention
    bins: tuple[int, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    normalisation: Normalisation = "min_max"

    def __post_init__(self) -> None:
        size = self.convention.size
        for name, values in (("bins", self.bins), ("low", self.low), ("high", self.high)):
            if len(values) != size:
                raise LibraError(
                    f"action space: {len(values)} {name} for {size} dimensions "
                    f"({', '.join(self.convention.names)})"
                )
        if min(self.bins) < 2:
            raise LibraError(f"granularity must be at least 2 bins per dimension, got {self.bins}")
        if not np.isfinite([*self.low, *self.high]).all() or (self._high < self._low).any():
            raise LibraError("action space: low and high must be finite with low <= high")

    @property
    def size(self) -> int:
        """Number of action dimensions D."""
        return self.convention.size

    @property
    def _low(self) -> np.ndarray:
        return np.asarray(self.low, dtype=np.float64)

    @property
    def _high(self) -> np.ndarray:
        return np.asarray(self.high, dtype=np.float64)

    @property
    def _bins(self) -> np.ndarray:
        return np.asarray(self.bins, dtype=np.int64)

    @property
    def widths(self) -> np.ndarray:
        """Bin widths in normalised units, float64 [D]."""
        return 2.0 / self._bins

    def normalise(self, raw: np.ndarray) -> np.ndarray:
        """Maps raw actions [..., D] to [-1, 1], clipped, float32 [..., D].

        Raises:
            LibraError: wrong last dimension, NaN or infinity.
        """
        raw = self._checked(raw)
        span = self._high - self._low
        moving = span > 0
        scaled = 2.0 * (raw - self._low) / np.where(moving, span, 1.0) - 1.0
        return np.where(moving, np.clip(scaled, -1.0, 1.0), 0.0).astype(np.float32)

    def denormalise(self, action: np.ndarray) -> np.ndarray:
        """Maps normalised actions [..., D] to raw units, float32 [..., D]; clips to [-1, 1]."""
        action = np.clip(self._checked(action), -1.0, 1.0)
        return (self._low + (action + 1.0) / 2.0 * (self._high - self._low)).astype(np.float32)

    def encode(self, action: np.ndarray) -> np.ndarray:
        """Returns the coarse action of normalised actions: int64 [..., D] in [0, N - 1].

        Values outside of [-1, 1] fall into the edge bins.
        """
        action = self._checked(action)
        return np.clip(np.floor((action + 1.0) / 2.0 * self._bins), 0, self._bins - 1).astype(
            np.int64
        )

    def decode(self, coarse: np.ndarray) -> np.ndarray:
        """Returns the bin centres of coarse actions [..., D], normalised, float32 [..., D].

        Raises:
            LibraError: an index outside of its dimension's bins, or not an integer.
        """
        coarse = np.asarray(coarse)
        if not np.issubdtype(coarse.dtype, np.integer) or coarse.shape[-1:] != (self.size,):
            raise LibraError(
                f"coarse actions are {coarse.dtype}{list(coarse.shape)}: expected integers "
                f"[..., {self.size}]"
            )
        if (coarse < 0).any() or (coarse >= self._bins).any():
            raise LibraError(f"coarse actions leave their bins: expected 0 <= c < {self.bins}")
        return ((coarse + 0.5) * self.widths - 1.0).astype(np.float32)

    def _checked(self, action: np.ndarray) -> np.ndarray:
        action = np.asarray(action, dtype=np.float64)
        if action.shape[-1:] != (self.size,):
            raise LibraError(
                f"action has shape {list(action.shape)}: expected [..., {self.size}] "
                f"({', '.join(self.convention.names)})"
            )
        if not np.isfinite(action).all():
            bad = np.argwhere(~np.isfinite(action))[0]
            raise LibraError(
                f"action holds {action[tuple(bad)]} in dimension "
                f"'{self.convention.names[bad[-1]]}' at index {bad[:-1].tolist()}: "
                "actions must be finite"
            )
        return action

    def require_compatible(self, other: "ActionSpace", *, mine: str, theirs: str) -> None:
        """Raises LibraError unless `other` has the same convention, statistics and bins."""
        self.convention.require_equal(other.convention, mine=mine, theirs=theirs)
        if self.bins != other.bins:
            raise LibraError(
                f"{theirs} has granularity {other.bins}, but {mine} has {self.bins}: use the "
                "action space that is stored with the checkpoint"
            )
        if not (
            np.allclose(self.low, other.low, atol=1e-5)
            and np.allclose(self.high, other.high, atol=1e-5)
        ):
            raise LibraError(
                f"{theirs} was normalised with other statistics than {mine}: its bins mean "
                "other motions; use the action space that is stored with the checkpoint"
            )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "ActionSpace":
        try:
            return cls(
                convention=ActionConvention.from_json(value["convention"]),
                bins=tuple(int(n) for n in value["bins"]),
                low=tuple(float(x) for x in value["low"]),
                high=tuple(float(x) for x in value["high"]),
                normalisation=value["normalisation"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LibraError(f"the action space is damaged ({error!r})") from error

    @classmethod
    def fit(
        cls,
        actions: np.ndarray,
        convention: ActionConvention,
        *,
        bins: int | Sequence[int],
        gripper_bins: int | None = None,
        normalisation: Normalisation = "min_max",
        quantile: float = 0.01,
    ) -> "ActionSpace":
        """Chooses `low` and `high` from raw `actions` [T, D].

        The gripper is a command with two known values and is left alone: -1 and +1 are its
        convention's open and closed values, whatever the data hold.

        Args:
            bins: N for every dimension, or one per dimension.
            gripper_bins: N of the gripper; by default the same as the others.
            quantile: share cut off at each side by "quantile" normalisation (0.01: openpi's and
                OpenVLA's 1st and 99th percentile).

        Raises:
            LibraError: no actions, wrong shape, NaN or infinity, unknown normalisation.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != convention.size:
            raise LibraError(
                f"actions have shape {list(actions.shape)}: expected [T, {convention.size}] "
                f"({', '.join(convention.names)})"
            )
        if len(actions) == 0:
            raise LibraError("no actions to fit the action space to: the dataset is empty")
        if not np.isfinite(actions).all():
            row, column = np.argwhere(~np.isfinite(actions))[0]
            raise LibraError(
                f"action {row} holds {actions[row, column]} in dimension "
                f"'{convention.names[column]}': remove or repair that episode"
            )
        if normalisation == "min_max":
            low, high = actions.min(axis=0), actions.max(axis=0)
        elif normalisation == "symmetric":  # the action 0 stays 0
            high = np.abs(actions).max(axis=0)
            low = -high
        elif normalisation == "quantile":
            low, high = np.quantile(actions, [quantile, 1.0 - quantile], axis=0)
        elif normalisation == "identity":
            low, high = -np.ones(convention.size), np.ones(convention.size)
        else:
            raise unknown("normalisation", normalisation, get_args(Normalisation))
        per_dimension = [bins] * convention.size if isinstance(bins, int) else list(bins)
        if (g := convention.gripper) is not None:
            # The order of the two values is the convention's business, not the normalisation's.
            low[g], high[g] = sorted((convention.gripper_open, convention.gripper_closed))
            if gripper_bins is not None:
                per_dimension[g] = gripper_bins
        return cls(
            convention=convention,
            bins=tuple(per_dimension),
            low=tuple(low.tolist()),
            high=tuple(high.tolist()),
            normalisation=normalisation,
        )
