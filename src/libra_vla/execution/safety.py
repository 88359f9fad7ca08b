"""The last thing before the robot: actions are finite, bounded and no surprise, or it holds still.

Every intervention is counted; a policy that needs many of them is no good policy.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.errors import LibraError


@dataclass(frozen=True)
class SafetyConfig:
    """Limits of what reaches the robot; clamping to the action space is always on.

    Attributes:
        hold_on_nan: hold the pose where a policy gives NaN or infinity; by default that is an
            error, since it is a bug.
        max_change: largest change of a command from one control step to the next, in normalised
            units (the whole range is 2), the gripper left out.
        workspace: x, y, z, x, y, z in metres: corners of a box that commands must not leave. Only
            for robots whose state and action begin with the end effector's position and its
            change.
        metres: how far a command of 1 moves, for the box.
        deadline_ms: a control step that takes longer is counted as late.
    """

    hold_on_nan: bool = False
    max_change: float | None = None
    workspace: tuple[float, float, float, float, float, float] | None = None
    metres: float = 0.05
    deadline_ms: float | None = None

    def __post_init__(self) -> None:
        if self.max_change is not None and not self.max_change > 0:
            raise LibraError(f"max_change is {self.max_change}: expected more than 0")
        box = self.workspace
        if box is not None and not all(a < b for a, b in zip(box[:3], box[3:], strict=True)):
            raise LibraError(f"workspace is {box}: expected its lower corner, then its upper one")


class Safety:
    """Passes actions on, mended where they have to be.

    Attributes:
        interventions: how often each was mended: "not finite", "clamped", "rate limited",
            "workspace", "late".
    """

    def __init__(self, config: SafetyConfig, space: ActionSpace) -> None:
        self.config, self._convention = config, space.convention
        self._low, self._high = np.asarray(space.low), np.asarray(space.high)
        # Float32 actions at the very edge are no reason to count.
        self._slack = 1e-5 * np.maximum(1.0, self._high - self._low)
        self._motion = np.arange(space.size) != space.convention.gripper
        self.reset()

    def reset(self) -> None:
        """Starts an episode."""
        self.interventions: Counter[str] = Counter()
        self._last: np.ndarray | None = None
        self._position: np.ndarray | None = None

    def saw(self, state: np.ndarray) -> None:
        """Takes the end effector's position [3], m, from a fresh proprioceptive state."""
        if self.config.workspace is not None:
            self._position = np.asarray(state[:3], dtype=np.float64)

    def __call__(self, action: np.ndarray) -> np.ndarray:
        """Returns what the robot may be given instead of a raw `action` [D]: float32 [D]."""
        safe = np.asarray(action, dtype=np.float64)
        if not np.isfinite(safe).all():
            self.interventions["not finite"] += 1
            return self.rest()
        bounded = np.minimum(np.maximum(safe, self._low), self._high)  # np.clip takes twice as long
        if (np.abs(bounded - safe) > self._slack).any():
            self.interventions["clamped"] += 1
        safe = self._within_reach(self._rate_limited(bounded))
        self._last = safe
        return safe.astype(np.float32)

    def rest(self, motion: float = 0.0) -> np.ndarray:
        """Returns the command [D] that holds the pose; see `at_rest`. Nothing is clamped: the
        range of demonstrated actions need not hold standing still."""
        still = at_rest(self._convention, self._last, motion)
        self._last = still.astype(np.float64)
        return still

    def took(self, ms: float) -> None:
        """Watches the deadline: a control step took `ms` milliseconds."""
        if self.config.deadline_ms is not None and ms > self.config.deadline_ms:
            self.interventions["late"] += 1

    def _rate_limited(self, action: np.ndarray) -> np.ndarray:
        if self.config.max_change is None or self._last is None:
            return action
        most = self.config.max_change * (self._high - self._low) / 2.0
        near = np.clip(action, self._last - most, self._last + most)
        near = np.where(self._motion, near, action)
        if (np.abs(near - action) > self._slack).any():
            self.interventions["rate limited"] += 1
        return near

    def _within_reach(self, action: np.ndarray) -> np.ndarray:
        """Keeps the commanded position, reckoned from the last observed one, inside of the box.

        From outside of it, motion back is free.
        """
        box = self.config.workspace
        if box is None or self._position is None:
            return action
        low, high = np.minimum(box[:3], self._position), np.maximum(box[3:], self._position)
        wanted = self._position + action[:3] * self.config.metres
        reached = np.clip(wanted, low, high)
        if (np.abs(reached - wanted) > 1e-6).any():
            self.interventions["workspace"] += 1
            action = action.copy()
            action[:3] = (reached - self._position) / self.config.metres
        self._position = reached
        return action


def at_rest(
    convention: ActionConvention, last: np.ndarray | None, motion: float = 0.0
) -> np.ndarray:
    """Returns the raw command [D] that holds the pose, with the gripper as it was.

    Args:
        last: the command before it; None at the start: the gripper is open then.
        motion: share of the last motion that is kept, to slow down by; 0 stands still.
    """
    if last is None:
        still = np.zeros(convention.size, dtype=np.float32)
        if convention.gripper is not None:
            still[convention.gripper] = convention.gripper_open
        return still
    still = np.array(last, dtype=np.float32)
    if convention.rest == "zero":
        moving = np.arange(convention.size) != convention.gripper
        still[moving] *= motion
    return still
