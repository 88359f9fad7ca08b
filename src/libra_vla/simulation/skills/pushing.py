"""Pushing a drawer shut with closed fingers."""

import numpy as np

from libra_vla.simulation.goals import Goal
from libra_vla.simulation.grasping import hand_rotation
from libra_vla.simulation.scene import Scene
from libra_vla.simulation.skills.handles import BAR_DEPTH, outermost
from libra_vla.simulation.skills.motion import (
    UP,
    action,
    funnel,
    highest,
    lean,
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
SHUT = 0.003
RETREAT = 0.08
SPEED = 0.9


class CloseDrawer(Skill):
    """Comes down before the drawer, pushes it shut and retreats."""

    def __init__(self, scene: Scene, goal: Goal) -> None:
        super().__init__(scene, goal)
        self._joint = scene.joint(goal.target)
        self._outwards = -self._joint.axis
        self._rotation = lean(self._outwards, LEAN) @ hand_rotation(np.pi / 2)  # palm edge on
        self._contact = outermost(scene.body_points(self._joint.body), self._outwards, BAR_DEPTH)
        hand, _ = scene.hand()
        self._transit = highest(scene.points(), hand, self._contact, RUN_UP) + CLEARANCE
        pushing = scene.fingers_on(self._joint.body)  # whoever brought the hand there
        self._enter(self._push if pushing else self._approach)

    def _approach(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        way = self._contact + RUN_UP * self._outwards - hand
        turn = rotation_vector(self._rotation @ frame.T)
        error = sideways(way) + TURN_ARM * float(np.linalg.norm(turn))
        height = funnel(error, ROOM, INSERTION, max(self._transit - self._contact[2], INSERTION))
        self.phase = "reach" if height > INSERTION else "descend"
        if error + abs(way[2]) < TOLERANCE or self._stalled(hand):
            return self._go(self._push, hand, frame)
        return action(steer(way, height), turn, gripper=1.0)

    def _push(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "push"
        bar = outermost(self.scene.body_points(self._joint.body), self._outwards, BAR_DEPTH)
        if self._joint.value > SHUT or self._stalled(hand):
            self._release = hand
            return self._go(self._retreat, hand, frame)
        way = bar - PUSH * self._outwards - hand
        way[2] = self._contact[2] - hand[2]
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0, speed=SPEED)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        back = (self._outwards + UP) / np.sqrt(2.0)
        if float((hand - self._release) @ back) > RETREAT or self._stalled(hand):
            self.finished = True
        way = self._release + (RETREAT + 0.02) * back - hand
        return action(way, rotation_vector(self._rotation @ frame.T), gripper=1.0)
