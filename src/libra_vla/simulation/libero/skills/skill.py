"""What all skills share: stages, and a sense of being stuck."""

from collections.abc import Callable

import numpy as np

from libra_vla.simulation.libero.goals import Goal
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.motion import STAY, action

STALL_STEPS, STALL_RADIUS = 15, 0.01

Stage = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Takes the hand's position [3] and rotation [3, 3]; returns an action [7], and may say with
`_enter` or `_go` who acts from now on."""


class Skill:
    """One closed-loop motion that brings one goal about, or gives up.

    At every step it looks at the live state, so that it labels states it did not choose as well as
    its own (noisy execution, DAgger).

    Args:
        scene: the scene as it is when the motion begins.
        goal: what is to hold afterwards.

    Attributes:
        finished: nothing is left to do.
        achieved: finished, and the goal counts as reached although the benchmark's check may have
            become false again (see `Scene.rests`).
        phase: name of what is going on, such as reach, close or retreat.
    """

    def __init__(self, scene: Scene, goal: Goal) -> None:
        self.scene, self.goal = scene, goal
        self.finished, self.achieved, self.phase = False, False, "reach"
        self._opening = self._opening_before = scene.opening()
        self._stage: Stage = self._give_up
        self._steps = 0
        self._anchor, self._anchor_step = scene.hand()[0], 0

    def act(self) -> np.ndarray:
        """Returns the clean action [7] in [-1, 1] for the present state; gripper -1 or +1."""
        hand, frame = self.scene.hand()
        self._opening_before, self._opening = self._opening, self.scene.opening()
        self._steps += 1
        return self._stage(hand, frame)

    def _enter(self, stage: Stage) -> None:
        self._stage = stage
        self._steps = 0
        self._anchor, self._anchor_step = self.scene.hand()[0], 0

    def _go(self, stage: Stage, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Enters a stage and lets it act at once, so that no step is lost between two."""
        self._enter(stage)
        return stage(hand, frame)

    def _give_up(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.finished = True
        return action(STAY, STAY, gripper=-1.0)

    def _stalled(self, hand: np.ndarray, steps: int = STALL_STEPS) -> bool:
        """Tells whether the hand has stayed in one place for so many steps in this stage."""
        if np.linalg.norm(hand - self._anchor) > STALL_RADIUS:
            self._anchor, self._anchor_step = hand, self._steps
        return self._steps - self._anchor_step > steps
