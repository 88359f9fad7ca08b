"""Grasping a part of a fixture and moving it along its joint: drawers and knobs."""

from abc import abstractmethod

import numpy as np

from libra_vla.simulation.libero.goals import Goal
from libra_vla.simulation.libero.grasping import FINGER_TIP, hand_rotation, nearest_yaw
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.motion import (
    STAY,
    UP,
    action,
    funnel,
    highest,
    lean,
    outermost,
    rotation_about,
    rotation_vector,
    sideways,
    steer,
)
from libra_vla.simulation.libero.skills.skill import STALL_STEPS, Skill

TURN_ARM = 0.06
"""Metres at which an error in rotation counts as one in position."""
ROOM, INSERTION = 0.016, 0.05
HOVER, CLEARANCE, CORRIDOR = 0.08, 0.03, 0.09
TOLERANCE = 0.010
CLOSE_STEPS = 7
FINGERS_STOPPED = 0.0005
OPENED = 0.06
RETREAT, UNHURRIED = 0.10, 0.6
"""Metres that the hand goes back from what it has moved, and the share of its speed with which it
goes back and pulls. Faster, it slips off a bar, and goes on until its elbow is straight."""
BAR_DEPTH = 0.018
"""Depth (m) of a drawer's bar, as its outermost part."""
BEHIND = 0.006
"""Metres behind the middle of a drawer's bar at which the hand takes hold of it."""
LEVEL = 1.25
"""Angle (rad) from the vertical of a hand that holds a bar: nearly level, but clear of what stands
on the table before the cabinet, and of the bars above."""
KNOB_DEPTH = 0.02
SLIP = 0.03
"""Metres by which the hand may be off the bar that it pulls before that counts as lost."""
ATTEMPTS = 4
"""Times that it takes hold of a bar before it gives up."""
OPEN, OPEN_ENOUGH = -0.152, -0.147
"""Position (m) that a drawer is pulled to, and from which on it is let go; -0.14 counts as open."""
ON, ON_ENOUGH = 1.3, 0.70
"""Angle (rad) that a knob is turned to, and from which on it is let go; 0.5 counts as on."""
TURN_AHEAD = 0.6
NEAR, FAR, MOST_LEAN = 0.30, 0.50, 0.5
"""Distances (m) from the robot's base from which, and up to which, the hand leans, and how much
(rad)."""


class Handle(Skill):
    """Reaches, closes, moves what it holds, opens and retreats."""

    def __init__(self, scene: Scene, goal: Goal) -> None:
        super().__init__(scene, goal)
        self._joint, self._attempts = scene.joint(goal.target), 1
        hand, frame = scene.hand()
        if scene.fingers_on(self._joint.body) == 2:  # whoever took hold of it
            self._hold(hand, frame)
            self._enter(self._move)
            return
        self._begin()

    def _begin(self) -> None:
        """Plans how high the hand has to be on the way."""
        (hand, _), (site, _) = self.scene.hand(), self._pose()
        top = highest(self.scene.points(), hand, site, CORRIDOR)
        self._transit = top + CLEARANCE + FINGER_TIP
        self._enter(self._approach)

    def _retry(self) -> np.ndarray:
        """Begins anew when it has slipped off, or gives up."""
        self._attempts += 1
        if self._attempts <= ATTEMPTS:
            self._begin()
        else:
            self.finished = True
        return action(STAY, STAY, gripper=-1.0)

    def _hold(self, hand: np.ndarray, frame: np.ndarray) -> None:
        """Remembers how the handle was grasped."""
        self._held, self._held_frame, self._held_value = hand, frame, self._joint.value

    @abstractmethod
    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        """Grip site [3] and hand rotation [3, 3] to grasp with, for the present state."""

    @abstractmethod
    def _move(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """The stage that moves what is held, and goes on to `_open`."""

    def _approach(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        site, rotation = self._pose()
        way, turn, up = site - hand, rotation_vector(rotation @ frame.T), -rotation[:, 2]
        error = sideways(way, up) + TURN_ARM * float(np.linalg.norm(turn))
        ceiling = max((self._transit - site[2]) * up[2], HOVER)
        height = funnel(error, ROOM, INSERTION, ceiling)
        self.phase = "reach" if height > INSERTION else "descend"
        if error + abs(float(way @ up)) < TOLERANCE or self._stalled(hand):
            return self._go(self._close, hand, frame)
        return action(steer(way, height, up), turn, gripper=-1.0)

    def _close(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "close"
        at_rest = abs(self._opening - self._opening_before) < FINGERS_STOPPED
        if self._steps > CLOSE_STEPS and at_rest:
            self._hold(hand, frame)
            return self._go(self._move, hand, frame)
        return action(self._pose()[0] - hand, STAY, gripper=1.0)

    def _open(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "open"
        if self._opening > OPENED or self._steps > STALL_STEPS:
            self._release, self._frame = hand, frame
            return self._go(self._retreat, hand, frame)
        return action(STAY, STAY, gripper=-1.0)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        back = -self._frame[:, 2]
        if float((hand - self._release) @ back) > RETREAT or self._stalled(hand):
            self.finished = True
        way = self._release + (RETREAT + 0.02) * back - hand
        turn = rotation_vector(self._frame @ frame.T)
        return action(way, turn, gripper=-1.0, speed=UNHURRIED)


class OpenDrawer(Handle):
    """Pulls a drawer open by its bar, with one finger above and one below."""

    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        outwards = -self._joint.axis
        bar = outermost(self.scene.body_points(self._joint.body), outwards, BAR_DEPTH)
        return bar - BEHIND * outwards, lean(outwards, LEVEL) @ hand_rotation(0.0)

    def _move(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "pull"
        if self._joint.value < OPEN_ENOUGH or self._stalled(hand):
            return self._go(self._open, hand, frame)
        site, rotation = self._pose()
        if np.linalg.norm(site - hand) > SLIP:
            return self._retry()
        outwards = -self._joint.axis
        aside = site - hand - ((site - hand) @ outwards) * outwards
        way = aside + max(self._joint.value - OPEN, 0.0) * outwards
        turn = rotation_vector(rotation @ frame.T)
        return action(way, turn, gripper=1.0, speed=UNHURRIED)


class TurnKnob(Handle):
    """Turns a stove's knob by its bar, from above."""

    def _pose(self) -> tuple[np.ndarray, np.ndarray]:
        points = self.scene.body_points(self._joint.body)
        bar = points[points[:, 2] > points[:, 2].max() - KNOB_DEPTH]
        middle = (bar.max(axis=0) + bar.min(axis=0)) / 2
        along = np.linalg.eigh(np.cov(bar[:, :2].T))[1][:, -1]
        yaw = nearest_yaw(np.array([-along[1], along[0], 0.0]), 0.0)
        site = np.array([*middle[:2], points[:, 2].max() - KNOB_DEPTH])
        # Near its base the arm cannot fold up enough to come from straight above.
        near = np.clip((FAR - np.hypot(*(site - self.scene.base)[:2])) / (FAR - NEAR), 0.0, 1.0)
        level = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        return site, lean(level, near * MOST_LEAN) @ hand_rotation(yaw)

    def _move(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "turn"
        left = ON - self._joint.value
        if self._joint.value > ON_ENOUGH or self._steps > 4 * STALL_STEPS:
            return self._go(self._open, hand, frame)
        turned = self._joint.value - self._held_value + min(left, TURN_AHEAD)
        wanted = rotation_about(UP, turned) @ self._held_frame
        return action(self._held - hand, rotation_vector(wanted @ frame.T), gripper=1.0)
