"""Disturbances from which the expert recovers: where a small policy drifts to, ahead of time."""

from dataclasses import dataclass

import numpy as np

from libra_vla.action_space import ActionConvention

EARLY = 0.5
"""Share of the disturbances that are over before the expert begins."""
LEGS, LEG = 3, (3, 9)
"""Directions in which the hand is led astray, and control steps in each."""
PUSHED, PUSHED_UNTIL = (4, 9), 0.35
"""Control steps of a push in mid-episode, and the share of the step budget before which it begins:
an expert seldom needs more than half."""
SHOVE, LEFT_ALONE = (2, 6), (12, 41)
"""Control steps of each shove of an episode that is full of them, and between two of them."""
TURN = 0.3
"""Largest command in a rotation, as a share of the whole range."""


@dataclass(frozen=True)
class Disturbance:
    """Actions that are carried out instead of the expert's.

    Attributes:
        start: control step at which they begin.
        actions: [n, D], in [-1, 1]; where the gripper is NaN, it does what the expert says.
    """

    start: int
    actions: np.ndarray

    @property
    def steps(self) -> range:
        """The control steps at which they are carried out."""
        return range(self.start, self.start + len(self.actions))

    def at(self, step: int, *, instead_of: np.ndarray | None = None) -> np.ndarray:
        """Returns the action [D] of a control step: `instead_of`, unless it is disturbed."""
        if instead_of is None:
            return self.actions[step - self.start]
        if step not in self.steps:
            return instead_of
        action = self.actions[step - self.start]
        return np.where(np.isnan(action), instead_of, action)


def draw_disturbance(
    rng: np.random.Generator, convention: ActionConvention, budget: int
) -> Disturbance:
    """Draws one of two kinds.

    Before the episode the hand wanders off, in a few directions, with the fingers open or closed.
    In mid-episode it is pushed for a moment, and every other time the fingers open meanwhile, so
    that what they hold is dropped.

    Args:
        budget: control steps that the task allows.
    """
    if early := rng.random() < EARLY:
        start, legs, steps = 0, LEGS, int(rng.integers(*LEG))
    else:
        latest = max(2, round(PUSHED_UNTIL * budget))
        start, legs, steps = int(rng.integers(1, latest)), 1, int(rng.integers(*PUSHED))
    actions = np.repeat(_directions(rng, convention, legs), steps, axis=0)
    if convention.gripper is not None:
        other = convention.gripper_closed if early else np.nan
        fingers = convention.gripper_open if rng.random() < 0.5 else other
        actions[:, convention.gripper] = fingers
    return Disturbance(start, actions)


def draw_shoves(
    rng: np.random.Generator, convention: ActionConvention, steps: int
) -> list[Disturbance]:
    """Draws shoves for a whole episode of at most `steps` control steps, one after the other.

    They take the hand centimetres off its way at every stage of a task, as a policy's own errors
    do; noise that is drawn anew at every step is averaged out before it comes to one. The fingers
    do what the expert says.
    """
    shoves, start = [], int(rng.integers(*LEFT_ALONE))
    while start < steps:
        actions = _directions(rng, convention, 1).repeat(int(rng.integers(*SHOVE)), axis=0)
        if convention.gripper is not None:
            actions[:, convention.gripper] = np.nan
        shoves.append(Disturbance(start, actions))
        start += len(actions) + int(rng.integers(*LEFT_ALONE))
    return shoves


def _directions(rng: np.random.Generator, convention: ActionConvention, legs: int) -> np.ndarray:
    """Commands [legs, D] in any direction, turning less than they move."""
    largest = np.array([TURN if unit.endswith("rad") else 1.0 for unit in convention.units])
    return rng.uniform(-largest, largest, size=(legs, convention.size))
