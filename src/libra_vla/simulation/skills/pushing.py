"""Pushing drawers and doors shut with closed fingers."""

from abc import abstractmethod

import numpy as np

from libra_vla.simulation.goals import Goal
from libra_vla.simulation.grasping import FINGER_ACROSS, hand_rotation
from libra_vla.simulation.scene import Scene
from libra_vla.simulation.skills.handles import BAR_DEPTH
from libra_vla.simulation.skills.motion import (
    UP,
    action,
    funnel,
    highest,
    lean,
    level,
    outermost,
    rotation_vector,
    sideways,
    steer,
)
from libra_vla.simulation.skills.skill import Skill

LEAN = 0.7
"""Angle (rad) from the vertical of a hand that pushes; the palm must stay clear of the bars above,
so its narrow side faces them."""
RUN_UP = 0.06
"""Distance (m) from the bar at which the hand comes down."""
ROOM, INSERTION = 0.03, 0.06
CLEARANCE = 0.03
TOLERANCE = 0.02
TURN_ARM = 0.06
PUSH = 0.05
"""Metres that the hand aims beyond the bar."""
SHUT, DOOR_SHUT = 0.003, -0.002
"""Position (m) of a drawer and angle (rad) of a door from which on it is shut."""
ARM = 0.17
"""Metres from its hinge at which a door is pushed."""
GRIP = 0.035
"""Metres below the door's upper edge at which the finger tips push; the palm passes above it."""
RETREAT = 0.08
SPEED = 0.9


class Push(Skill):
    """Comes down before what is to be shut, pushes it with closed fingers and retreats."""

    def __init__(self, scene: Scene, goal: Goal) -> None:
        super().__init__(scene, goal)
        self._joint = scene.joint(goal.target)
        self._plan()
        hand, _ = scene.hand()
        self._transit = highest(scene.points(), hand, self._start, RUN_UP) + CLEARANCE
        self._enter(self._approach)

    @abstractmethod
    def _plan(self) -> None:
        """Says where the push begins, how the hand is turned and where it retreats to."""

    @abstractmethod
    def _push(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """The stage that pushes, and goes on to `_retreat`."""

    def _approach(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        way = self._start - hand
        turn = rotation_vector(self._rotation @ frame.T)
        error = sideways(way) + TURN_ARM * float(np.linalg.norm(turn))
        height = funnel(error, ROOM, INSERTION, max(self._transit - self._start[2], INSERTION))
        self.phase = "reach" if height > INSERTION else "descend"
        if error + abs(way[2]) < TOLERANCE or self._stalled(hand):
            return self._go(self._push, hand, frame)
        return action(steer(way, height), turn, gripper=1.0)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        if float((hand - self._release) @ self._back) > RETREAT or self._stalled(hand):
            self.finished = True
        way = self._release + (RETREAT + 0.02) * self._back - hand
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0)


class CloseDrawer(Push):
    """Pushes a drawer shut by its bar."""

    def _plan(self) -> None:
        self._outwards = -self._joint.axis
        self._rotation = lean(self._outwards, LEAN) @ hand_rotation(np.pi / 2)  # palm edge on
        self._start = self._bar() + RUN_UP * self._outwards
        self._back = (self._outwards + UP) / np.sqrt(2.0)

    def _bar(self) -> np.ndarray:
        points = self.scene.body_points(self._joint.body)
        return outermost(points, self._outwards, BAR_DEPTH)

    def _push(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "push"
        if self._joint.value > SHUT or self._stalled(hand):
            self._release = hand
            return self._go(self._retreat, hand, frame)
        way = self._bar() - PUSH * self._outwards - hand
        way[2] = self._start[2] - hand[2]
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0, speed=SPEED)


class CloseDoor(Push):
    """Swings a microwave's door shut, from behind it, along an arc about its hinge."""

    def _plan(self) -> None:
        points = self.scene.body_points(self._joint.body)
        self._rotation = hand_rotation(0.0)
        self._height = float(points[:, 2].max()) - GRIP
        self._start = self._behind(RUN_UP)
        self._back = UP

    def _behind(self, distance: float) -> np.ndarray:
        """Point [3] (m) that far from the middle of the door's outer side."""
        hinge = self._joint.anchor
        points = self.scene.body_points(self._joint.body)
        along = level(points.mean(axis=0) - hinge)
        # A door shuts as its joint turns forwards, so its outer side is the one it turns away from.
        outer = -np.cross(self._joint.axis, along)
        place = hinge + ARM * along + (distance + FINGER_ACROSS) * outer
        return np.array([*place[:2], self._height])

    def _push(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "push"
        if self._joint.value > DOOR_SHUT or self._stalled(hand):
            self._release = hand
            return self._go(self._retreat, hand, frame)
        way = self._behind(-PUSH) - hand
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0, speed=SPEED)
