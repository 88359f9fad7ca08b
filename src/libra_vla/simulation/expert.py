"""A closed-loop scripted expert for LIBERO's pick-and-place tasks.

At every step it looks at the live state, so that it labels states it did not choose as well as its
own (noisy execution, DAgger). Motions are laws of the position error rather than of time: above an
error the hand stays high, and the height shrinks with the error like a funnel, so that reaching
and descending, or carrying and lowering, blend into one motion that a policy can read off the
image.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.simulation.grasping import (
    FINGER_TIP,
    Grasp,
    hand_collides,
    hand_rotation,
    nearest_yaw,
    plan_grasp,
)
from libra_vla.simulation.scene import Goal, Scene, placement_goals

if TYPE_CHECKING:
    from libra_vla.simulation.libero import LiberoEnv
    from libra_vla.simulation.suites import Task

METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5
"""Scale of OSC_POSE's action; a unit command moves the hand by about 12 mm per step."""
MOVE_GAIN, TURN_GAIN, TURN_LIMIT = 1.4, 1.2, 0.6
YAW_ARM = 0.06
"""Metres at which an error in yaw counts as one in position: a finger's distance from the axis."""

CLEARANCE = 0.03
"""Metres kept above what lies in the way."""
HOVER = 0.08
"""Least height above a grasp at which the hand arrives, m."""
CORRIDOR = 0.09
"""Half width of the corridor that must be clear, m: an object's radius and the open hand's."""
GATE = 0.03
"""Metres below the wanted height within which sideways motion fades out."""

GRASP_TOLERANCE, PLACE_TOLERANCE = 0.008, 0.010
HEIGHT_TOLERANCE = 0.005
DROP = 0.006
"""Height above the surface at which an object is released, m."""
SLIP = 0.04
"""Metres by which a held object may move in the hand before it counts as lost."""
STALL_STEPS, STALL_RADIUS = 15, 0.01
STALLED_TOLERANCE = 0.02
CLOSE_STEPS, OPEN_STEPS = 7, 3
FINGERS_STOPPED = 0.0005
"""Metres per step below which the fingers count as at rest."""
OPENED = 0.07
RETREAT = 0.10
SETTLED = 0.02
"""Speed below which a released object counts as at rest, m/s."""
ATTEMPTS = 4


def supports(task: "Task") -> bool:
    """Tells whether the expert has the skill for a task."""
    try:
        placement_goals(task)
    except LibraError:
        return False
    return True


class PickAndPlaceExpert:
    """Picks objects up from above and places them, with privileged state.

    Args:
        env: the environment that is going to be stepped, by whomever.
        seed: kept for callers' bookkeeping; nothing here is random.

    Attributes:
        done: the task is finished and the hand retreated, or the expert gave up.
        succeeded: done, and the benchmark's check still holds after the release.
        phase: reach, descend, close, lift, carry, lower, open or retreat.

    Raises:
        LibraError: the task asks for more than placing objects.
    """

    def __init__(self, env: "LiberoEnv", *, seed: int = 0) -> None:
        self.env, self.seed = env, seed
        self._goals = placement_goals(env.task)
        self.done, self.succeeded, self.phase = False, False, "reach"

    def reset(self) -> None:
        """Reads the scene after `env.reset()` and plans the first grasp."""
        self._scene = Scene(self.env.robosuite_env)
        self._pending = list(self._goals)
        self.done, self.succeeded = False, False
        self._next_goal()

    def act(self) -> np.ndarray:
        """Returns the clean action [7] in [-1, 1] for the present state; gripper -1 or +1."""
        hand, frame = self._scene.hand()
        self._opening_before, self._opening = self._opening, self._scene.opening()
        self._steps += 1
        return self._stage(hand, frame)

    # Stages: each returns an action, and says in `_stage` who acts next.

    def _approach(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        position, rotation = self._scene.pose(self._goal.target)
        site, yaw = self._grasp_pose(position, rotation)
        turn = _rotation_vector(hand_rotation(yaw) @ frame.T)
        error = float(np.hypot(*(site - hand)[:2])) + YAW_ARM * abs(turn[2])
        # The wider the object, the less may be missing before the fingers pass its top.
        room = float(np.clip(0.036 - self._grasp.width / 2, 0.006, 0.015))
        insertion = self._grasp.depth + FINGER_TIP + 0.01
        height = _funnel(error, room, insertion, max(self._transit - site[2], HOVER))
        self.phase = "reach" if height > insertion else "descend"
        missing = abs(hand[2] - site[2])
        stalled = self._stalled(hand)
        if stalled and error + missing > STALLED_TOLERANCE:
            return self._retry(hand, frame)
        if stalled or (error < max(GRASP_TOLERANCE, room / 2) and missing < HEIGHT_TOLERANCE):
            self._enter(self._close)
            return self._stage(hand, frame)
        return _action(_steer(site - hand, height), turn, gripper=-1.0)

    def _close(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "close"
        position, rotation = self._scene.pose(self._goal.target)
        site, _ = self._grasp_pose(position, rotation)
        at_rest = abs(self._opening - self._opening_before) < FINGERS_STOPPED
        if self._steps > CLOSE_STEPS and at_rest:
            self._held = frame.T @ (position - hand)
            self._lifted_from = position[2]
            self._plan_transport(position)
            self._enter(self._transport)
            return self._stage(hand, frame)
        if np.linalg.norm(site - hand) > 2 * STALLED_TOLERANCE:
            return self._retry(hand, frame)
        return _action(site - hand, np.zeros(3), gripper=1.0)

    def _transport(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        position, _ = self._scene.pose(self._goal.target)
        if np.linalg.norm(frame.T @ (position - hand) - self._held) > SLIP:
            return self._retry(hand, frame)
        way = self._place - position
        error = float(np.hypot(*way[:2]))
        height = _funnel(error, PLACE_TOLERANCE, CLEARANCE, self._carry - self._place[2])
        if error < 2 * PLACE_TOLERANCE:
            self.phase = "lower"
        else:
            self.phase = "lift" if way[2] + height > GATE / 2 else "carry"
        stalled = self._stalled(hand)
        arrived = error < PLACE_TOLERANCE and way[2] > -HEIGHT_TOLERANCE
        if stalled or arrived:
            self._release = hand
            self._enter(self._open)
            return self._stage(hand, frame)
        turn = _rotation_vector(hand_rotation(self._carry_yaw) @ frame.T)
        return _action(_steer(way, height), turn, gripper=1.0)

    def _open(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "open"
        if self._opening > OPENED or self._steps > STALL_STEPS:
            self._enter(self._retreat)
            return self._stage(hand, frame)
        return _action(np.zeros(3), np.zeros(3), gripper=-1.0)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        way = self._release + np.array([0.0, 0.0, RETREAT + 0.02]) - hand
        risen = hand[2] - self._release[2] > RETREAT
        still = self._scene.speed(self._goal.target) < SETTLED
        if (risen and still) or self._steps > 2 * STALL_STEPS:
            if not self._scene.holds(self._goal):
                return self._retry(hand, frame)
            self._pending.pop(0)
            self._next_goal()
            if not self.done:
                return self._stage(hand, frame)
        turn = _rotation_vector(hand_rotation(self._carry_yaw) @ frame.T)
        return _action(way, turn, gripper=-1.0)

    # Planning

    def _next_goal(self) -> None:
        self._failed: list[Grasp] = []
        self._attempts = 0
        self._opening = self._opening_before = self._scene.opening()
        if self._pending:
            self._goal: Goal = self._pending[0]
            self._begin()
        else:
            self.done, self.succeeded = True, self._scene.succeeded()

    def _begin(self) -> None:
        """Plans a grasp of the present goal's object."""
        scene, goal = self._scene, self._goal
        position, rotation = scene.pose(goal.target)
        target, others = scene.points(only=goal.target), scene.points(without=goal.target)
        centre, surface = scene.receptacle(goal.receptacle)
        bottom = position[2] - float(target[:, 2].min())
        self._place = np.array([*centre, surface + bottom + DROP])
        grasp = plan_grasp(
            target, others, position, rotation, self._place, scene.base, self._failed
        )
        if grasp is None:
            self.done = True
            return
        self._grasp = grasp
        hand, _ = scene.hand()
        site = position + rotation @ grasp.offset
        self._transit = _highest(scene.points(), hand, site, CORRIDOR) + CLEARANCE + FINGER_TIP
        self._enter(self._approach)

    def _plan_transport(self, position: np.ndarray) -> None:
        """Plans how high to carry the object and where to let go of it."""
        scene, goal = self._scene, self._goal
        hand, frame = scene.hand()
        target, others = scene.points(only=goal.target), scene.points(without=goal.target)
        centre, surface = scene.receptacle(goal.receptacle)
        bottom = position[2] - float(target[:, 2].min())
        place = np.array([*centre, surface + bottom + DROP])
        self._carry_yaw = nearest_yaw(frame[:, 0], self._grasp.yaw)
        site = place + hand - position
        near = others[(np.abs(others - site)[:, :2] < 0.2).all(axis=1)]
        for _ in range(40):
            if not hand_collides(near, site, self._carry_yaw):
                break
            place[2] += 0.005
            site[2] += 0.005
        self._place = place
        top = _highest(others, position, place, CORRIDOR)
        self._carry = max(top + CLEARANCE + bottom, place[2] + CLEARANCE)

    def _grasp_pose(self, position: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, float]:
        """Grip site [3] and yaw of the planned grasp for the object's present pose."""
        grasp = self._grasp
        return position + rotation @ grasp.offset, nearest_yaw(rotation @ grasp.axis, grasp.yaw)

    def _retry(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Plans anew after a failure, or gives up."""
        self._attempts += 1
        self._failed.append(self._grasp)
        if self._attempts < ATTEMPTS:
            self._begin()
        else:
            self.done = True
        return _action(np.zeros(3), np.zeros(3), gripper=-1.0)

    def _enter(self, stage: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self._stage = stage
        self._steps = 0
        self._anchor, self._anchor_step = self._scene.hand()[0], 0

    def _stalled(self, hand: np.ndarray) -> bool:
        """Tells whether the hand has stayed in one place for a while in this stage."""
        if np.linalg.norm(hand - self._anchor) > STALL_RADIUS:
            self._anchor, self._anchor_step = hand, self._steps
        return self._steps - self._anchor_step > STALL_STEPS


def _funnel(error: float, room: float, insertion: float, ceiling: float) -> float:
    """Height (m) to keep above a goal while `error` (m) is left: zero at half the room."""
    slope = insertion / (0.5 * room)
    return float(np.clip(slope * (error - 0.5 * room), 0.0, ceiling))


def _steer(way: np.ndarray, height: float) -> np.ndarray:
    """Turns the way to a goal [3] into the step to take while `height` must be kept above it.

    What is too low rises before it moves sideways.
    """
    vertical = way[2] + height
    gate = np.clip(1.0 - (vertical - GATE / 2) / GATE, 0.0, 1.0)
    return np.array([*(gate * way[:2]), vertical])


def _action(way: np.ndarray, turn: np.ndarray, *, gripper: float) -> np.ndarray:
    """Turns an offset [3] (m) and a rotation vector [3] (rad) into an action [7]."""
    move = _limited(MOVE_GAIN * way / METRES_PER_UNIT, 1.0)
    rotate = _limited(TURN_GAIN * turn / RADIANS_PER_UNIT, TURN_LIMIT)
    return np.array([*move, *rotate, gripper])


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-9))


def _rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """Axis times angle [3] (rad) of a rotation [3, 3] that turns by less than pi."""
    twice = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine = float(np.linalg.norm(twice)) / 2
    angle = float(np.arctan2(sine, (np.trace(rotation) - 1) / 2))
    return twice / 2 * (angle / sine if sine > 1e-9 else 1.0)


def _highest(points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float) -> float:
    """Height (m) of the highest sample [K, 3] near the straight way from `start` to `end`."""
    along = (end - start)[:2]
    length = float(np.linalg.norm(along))
    unit = along / max(length, 1e-9)
    relative = points[:, :2] - start[:2]
    forward = relative @ unit
    sideways = np.abs(relative @ np.array([-unit[1], unit[0]]))
    near = (sideways < radius) & (forward > -0.02) & (forward < length + radius)
    return float(points[near, 2].max()) if near.any() else float(min(start[2], end[2]))
