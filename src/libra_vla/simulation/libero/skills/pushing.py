"""Pushing drawers and doors shut with closed fingers, and plates with open ones."""

from abc import abstractmethod

import numpy as np

from libra_vla.simulation.libero.goals import Goal
from libra_vla.simulation.libero.grasping import (
    FINGER_ACROSS,
    FINGER_TIP,
    hand_rotation,
    nearest_yaw,
)
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.handles import BAR_DEPTH
from libra_vla.simulation.libero.skills.motion import (
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
from libra_vla.simulation.libero.skills.placing import plan_placement
from libra_vla.simulation.libero.skills.skill import Skill

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
SHUT, DOOR_SHUT = 0.001, -0.002
"""Position (m) of a drawer and angle (rad) of a door from which on it is shut."""
AT_REST = 4
"""Steps for which a door must stay shut, since it may spring back."""
ARM = 0.17
"""Metres from its hinge at which a door is pushed."""
GRIP = 0.035
"""Metres below the door's upper edge at which the finger tips push; the palm passes above it."""
PLATE_LEAN = 0.45
"""Angle (rad) from the vertical of a hand that pushes a plate: clear of a cabinet behind it."""
GAP, APART = 0.006, 0.01
"""Metres between the fingers and the plate at first, and between the plate and other things."""
ABOVE = 0.002
"""Metres between the finger tips and the table."""
PLATE_STEP, HOLD_DOWN = 0.022, 4.0
"""Metres that the hand aims ahead of itself, and the gain that keeps it down."""
LOST = 0.03
"""Metres that a hand may be farther from a plate than when it pushes: beyond it pushes nothing."""
PLACED = 0.008
"""Metres before its place at which a plate is left."""
RETREAT = 0.08
SPEED, DOOR_SPEED = 0.9, 0.6


class Push(Skill):
    """Comes down beside what is to be moved, pushes it and retreats."""

    _gripper = 1.0
    _start: np.ndarray
    _rotation: np.ndarray
    _back: np.ndarray
    _release: np.ndarray

    def __init__(self, scene: Scene, goal: Goal) -> None:
        super().__init__(scene, goal)
        self._plan()
        self._clear_way()
        self._enter(self._push if self._touches() else self._approach)

    def _clear_way(self) -> None:
        """Plans how high the hand has to be on its way to where the push starts."""
        hand, _ = self.scene.hand()
        self._transit = highest(self.scene.points(), hand, self._start, RUN_UP) + CLEARANCE

    def _touches(self) -> bool:
        """Whether somebody brought the hand there already."""
        return False

    @abstractmethod
    def _plan(self) -> None:
        """Says where the push starts, how the hand is turned then, and which way it moves back."""

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
        return action(steer(way, height), turn, gripper=self._gripper)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        if float((hand - self._release) @ self._back) > RETREAT or self._stalled(hand):
            self.finished = True
        way = self._release + (RETREAT + 0.02) * self._back - hand
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=self._gripper)


class CloseDrawer(Push):
    """Pushes a drawer shut by its bar."""

    def _plan(self) -> None:
        self._joint = self.scene.joint(self.goal.target)
        self._outwards = -self._joint.axis
        self._rotation = lean(self._outwards, LEAN) @ hand_rotation(np.pi / 2)  # palm edge on
        self._start = self._bar() + RUN_UP * self._outwards
        self._back = (self._outwards + UP) / np.sqrt(2.0)

    def _touches(self) -> bool:
        return self.scene.fingers_on(self._joint.body) > 0

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
        self._joint = self.scene.joint(self.goal.target)
        points = self.scene.body_points(self._joint.body)
        self._shut = 0
        self._rotation = hand_rotation(0.0)
        self._height = float(points[:, 2].max()) - GRIP
        self._start = self._behind(RUN_UP)
        self._back = UP

    def _touches(self) -> bool:
        return self.scene.fingers_on(self._joint.body) > 0

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
        self._shut = self._shut + 1 if self._joint.value > DOOR_SHUT else 0
        if self._shut > AT_REST or self._stalled(hand):
            self._release = hand
            return self._go(self._retreat, hand, frame)
        way = self._behind(-PUSH) - hand
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0, speed=DOOR_SPEED)


class PushPlate(Push):
    """Pushes a plate over the table, in two straight lines round what stands in between.

    Between two open fingers a plate goes where the hand goes, as long as that is straight ahead.
    """

    _gripper = -1.0

    def _plan(self) -> None:
        scene, target = self.scene, self.goal.target
        points, others = scene.points(only=target), scene.points(without=target)
        position, _ = scene.pose(target)
        placement = plan_placement(scene, self.goal, points, position)
        place, side = placement.position, placement.up
        self._radius = float(np.linalg.norm((points - position)[:, :2], axis=1).max())
        tips = FINGER_TIP * np.cos(PLATE_LEAN) + FINGER_ACROSS * np.sin(PLATE_LEAN)
        self._height = float(points[:, 2].min() + tips) + ABOVE
        self._back = UP
        beside = highest(others, position, place, self._radius, side) + self._radius + APART
        ahead = place - position - ((place - position) @ side) * side
        corner = place - self._radius / 2 * level(ahead)
        corner += max(beside - float(corner @ side), 0.0) * side
        self._legs = [corner, place]
        self._aim(position)

    def _aim(self, position: np.ndarray) -> None:
        """Says how the hand stands behind the plate for the first of the legs that are left."""
        self._heading = level(self._legs[0] - position)
        yaw = nearest_yaw(np.cross(UP, self._heading), np.pi / 2)
        self._rotation = lean(self._heading, PLATE_LEAN) @ hand_rotation(yaw)
        behind = position - (self._radius + FINGER_ACROSS + GAP) * self._heading
        self._start = np.array([*behind[:2], self._height])

    def _push(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "push"
        position, _ = self.scene.pose(self.goal.target)
        if sideways(position - hand) > self._radius + FINGER_ACROSS + LOST:
            self._aim(position)
            self._clear_way()
            return self._go(self._approach, hand, frame)
        way = self._legs[0] - position
        if float(way @ self._heading) < PLACED or self._stalled(hand):
            self._legs.pop(0)
            if self._legs:
                self._aim(position)
                self._transit = 0.0
                return self._go(self._approach, hand, frame)
            self._release = hand
            return self._go(self._retreat, hand, frame)
        way = PLATE_STEP * level(way)
        # A finger that rises ever so little slips over the rim.
        way[2] = HOLD_DOWN * (self._height - hand[2])
        turn = rotation_vector(self._rotation @ frame.T)
        return action(way, turn, gripper=self._gripper)
