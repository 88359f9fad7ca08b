"""Picking an object up and placing it on or in something, by any grasp the planner finds."""

import numpy as np

from libra_vla.simulation.libero.goals import Goal, is_drawer
from libra_vla.simulation.libero.grasping import FINGER_TIP, Grasp, present_grasp
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.grips import choose_grasp
from libra_vla.simulation.libero.skills.motion import (
    GATE,
    STAY,
    UP,
    action,
    clear_slope,
    from_under,
    funnel,
    highest,
    level,
    rotation_vector,
    sideways,
    steer,
)
from libra_vla.simulation.libero.skills.placing import clear_placement, over_rim, plan_placement
from libra_vla.simulation.libero.skills.skill import STALL_STEPS, Skill

YAW_ARM = 0.06
"""Metres at which an error in yaw counts as one in position: a finger's distance from the axis."""
CLEARANCE = 0.03
"""Metres kept above what lies in the way of the hand..."""
CARRIED, CARRIED_PASSING = 0.05, 0.02
"""...and of what it carries, until that comes down, and from then on. A small policy carries some
centimetres lower than it was shown, and what is too low shoves the plate along."""
ABOVE, PASSING = 0.01, 0.01
"""Metres kept between the fingers' tips and a target's top until they go around it, and between
what comes down and the target's neighbours."""
ASTRAY = 0.02
"""Metres up to which a hand that has its fingers around a target moves sideways where it is: up
again costs time, and takes a leaning hand a decimetre aside."""
HOVER = 0.08
"""Least height above a grasp at which the hand arrives, m."""
CORRIDOR = 0.09
"""Half width of the corridor that must be clear, m: an object's radius and the open hand's."""
PLACE_TOLERANCE = 0.010
HEIGHT_TOLERANCE = 0.005
SLIP = 0.04
"""Metres by which a held object may move in the hand before it counts as lost."""
STALLED_TOLERANCE = 0.02
RESTING_STEPS = 7
"""Steps for which the hand presses what it lowers on something that lies there already."""
CLOSE_STEPS = 3
"""Steps after which fingers that do not move have closed on something: they start slowly. Whoever
lingers shows the same picture with one answer, then with another."""
FINGERS_STOPPED = 0.0005
"""Metres per step below which the fingers count as at rest."""
STRAIGHT, BENT, INWARDS = 0.03, 0.4, 0.05
"""Angle (rad) of an elbow that cannot be bent by a pull of the hand towards the base, from which on
it can, and how far (m) inwards the hand has to go for that to matter."""
OPENED = 0.07
RETREAT = 0.10
SETTLED = 0.02
"""Speed below which a released object counts as at rest, m/s."""
ATTEMPTS = 4


class PickAndPlace(Skill):
    """Reaches, descends, closes, lifts, carries, lowers, opens and retreats."""

    def __init__(self, scene: Scene, goal: Goal) -> None:
        super().__init__(scene, goal)
        assert goal.receptacle is not None
        self._receptacle, self._in_drawer = goal.receptacle, is_drawer(goal.receptacle)
        self._failed: list[Grasp] = []
        if scene.fingers_on(scene.env.obj_body_id[goal.target]) == 2:
            self._take_over()
        else:
            self._begin()

    # Stages

    def _approach(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        grasp = self._grasp
        site, yaw = self._grasp_pose(*self.scene.pose(self.goal.target))
        if self.scene.elbow() < STRAIGHT and (site - hand) @ self._outwards(hand) < -INWARDS:
            return self._go(self._bend, hand, frame)
        turn = rotation_vector(grasp.hand(yaw) @ frame.T)
        up = grasp.tilt @ UP
        error = sideways(site - hand, up) + YAW_ARM * abs(float(turn @ up))
        # The wider the object, the less may be missing before the fingers pass its top.
        room = float(np.clip(0.036 - grasp.width / 2, 0.010, 0.015))
        insertion = grasp.depth + FINGER_TIP + ABOVE
        ceiling = max((self._transit - site[2]) * up[2], HOVER)
        missing = abs(float((site - hand) @ up))
        around = missing < insertion / 2 and error < ASTRAY
        height = 0.0 if around else funnel(error, room, insertion, ceiling, self._slope)
        self.phase = "reach" if height > insertion else "descend"
        stalled = self._stalled(hand)
        if stalled and error + missing > STALLED_TOLERANCE:
            return self._retry()
        if stalled or (error < room and missing < HEIGHT_TOLERANCE):
            return self._go(self._close, hand, frame)
        return action(steer(site - hand, height, up), turn, gripper=-1.0)

    def _bend(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        """Rises and turns the fingers towards the base, which bends an elbow that no pull can."""
        self.phase = "reach"
        if self.scene.elbow() > BENT or self._steps > STALL_STEPS:
            return self._go(self._approach, hand, frame)
        return action(UP, np.cross(UP, self._outwards(hand)), gripper=-1.0)

    def _close(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "close"
        position, rotation = self.scene.pose(self.goal.target)
        site, _ = self._grasp_pose(position, rotation)
        at_rest = abs(self._opening - self._opening_before) < FINGERS_STOPPED
        if self._steps > CLOSE_STEPS and at_rest:
            self._held = frame.T @ (position - hand)
            self._plan_transport(position)
            return self._go(self._transport, hand, frame)
        if np.linalg.norm(site - hand) > 2 * STALLED_TOLERANCE:
            return self._retry()
        return action(site - hand, STAY, gripper=1.0)

    def _transport(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        position, _ = self.scene.pose(self.goal.target)
        if np.linalg.norm(frame.T @ (position - hand) - self._held) > SLIP:
            return self._retry()
        up = self._placement.up
        way = self._placement.position - position
        turn = rotation_vector(self._carry_frame @ frame.T)
        about = turn if self._placement.tips else (turn @ up) * up
        error = sideways(way, up) + YAW_ARM * float(np.linalg.norm(about))
        # What goes into a tight compartment comes down only where it fits.
        insertion = self._carry if self._placement.tight else CLEARANCE
        room = PLACE_TOLERANCE / 2 if self._placement.tight else PLACE_TOLERANCE
        height = funnel(error, room, insertion, self._carry, self._slope)
        left = float(way @ up)
        if error < 2 * PLACE_TOLERANCE:
            self.phase = "lower"
        else:
            self.phase = "lift" if left + height > GATE / 2 else "carry"
        arrived = error < PLACE_TOLERANCE and left > -HEIGHT_TOLERANCE
        patience = RESTING_STEPS if self.phase == "lower" else STALL_STEPS
        if arrived or self._stalled(hand, patience):
            self._release = hand
            self._held_true = self.scene.holds(self.goal)
            return self._go(self._open, hand, frame)
        out = sideways(position - self._lifted_from, up) < self._aside
        return action(steer(way, height, up, self._rise if out else up), turn, gripper=1.0)

    def _open(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "open"
        if self._opening > OPENED or self._steps > STALL_STEPS:
            return self._go(self._retreat, hand, frame)
        return action(STAY, STAY, gripper=-1.0)

    def _retreat(self, hand: np.ndarray, frame: np.ndarray) -> np.ndarray:
        self.phase = "retreat"
        up = -self._carry_frame[:, 2]
        way = self._release + (RETREAT + 0.02) * up - hand
        risen = float((hand - self._release) @ up) > RETREAT
        still = self.scene.speed(self.goal.target) < SETTLED
        if (risen and still) or self._steps > 2 * STALL_STEPS:
            holds = self.scene.holds(self.goal)
            self.achieved = holds or (self._held_true and self.scene.rests(self.goal))
            if not self.achieved:
                return self._retry()
            self.finished = True
        return action(way, rotation_vector(self._carry_frame @ frame.T), gripper=-1.0)

    # Planning

    def _outwards(self, hand: np.ndarray) -> np.ndarray:
        """Level unit vector [3] from the robot's base to the hand."""
        return level(hand - self.scene.base)

    def _begin(self) -> None:
        """Plans a grasp, and how high the hand has to be on the way to it."""
        scene, target = self.scene, self.goal.target
        position, rotation = scene.pose(target)
        place = plan_placement(scene, self.goal, scene.points(only=target), position).position
        grasp = choose_grasp(scene, self.goal, place, self._failed)
        if grasp is None:
            return self._enter(self._give_up)
        self._grasp = grasp
        hand, _ = scene.hand()
        site = position + rotation @ grasp.offset
        self._transit = highest(scene.points(), hand, site, CORRIDOR) + CLEARANCE + FINGER_TIP
        passed = site + (grasp.depth + ABOVE - PASSING) * UP
        self._slope = clear_slope(scene.points(without=target), hand, passed, CORRIDOR)
        return self._enter(self._approach)

    def _take_over(self) -> None:
        """Goes on with what is in the hand already, whoever grasped it."""
        scene, (hand, frame) = self.scene, self.scene.hand()
        position, rotation = scene.pose(self.goal.target)
        self._grasp = present_grasp(hand, frame, position, rotation, scene.opening())
        self._held = frame.T @ (position - hand)
        self._plan_transport(position)
        self._enter(self._transport)

    def _plan_transport(self, position: np.ndarray) -> None:
        """Plans how high to carry the object and where to let go of it."""
        scene, target = self.scene, self.goal.target
        hand, frame = scene.hand()
        mine, others = scene.points(only=target), scene.points(without=target)
        placement = plan_placement(scene, self.goal, mine, position)
        upright = self._grasp.hand(self._grasp.yaw_of(frame[:, 0]))
        self._carry_frame = placement.rotation @ upright
        if placement.falls:
            grip = self._carry_frame @ frame.T @ (hand - position)
            placement = clear_placement(placement, others, grip, self._carry_frame)
            if self.goal.predicate == "in" and not (placement.tight or self._in_drawer):
                walls = scene.points(only=scene.owner(self._receptacle))
                placement = over_rim(placement, walls[:, 2].max(), grip[2] - FINGER_TIP)
        place, up = placement.position, placement.up
        bottom = float(position @ up - (mine @ up).min())
        top = highest(others, position, place, CORRIDOR, up)
        self._placement = placement
        self._rise, self._aside = from_under(mine, others) if placement.falls else (up, 0.0)
        if self._in_drawer:
            # What lies under an open drawer comes out the way the hand went in.
            self._rise, self._aside = self._grasp.tilt @ UP, np.inf
        self._lifted_from = position
        self._carry = max(top + CARRIED + bottom - float(place @ up), CLEARANCE)
        passed = place - (bottom - CLEARANCE + CARRIED_PASSING) * up
        self._slope = clear_slope(others, position, passed, CORRIDOR, up)

    def _grasp_pose(self, position: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, float]:
        """Grip site [3] and yaw of the planned grasp for the object's present pose."""
        grasp = self._grasp
        return position + rotation @ grasp.offset, grasp.yaw_of(rotation @ grasp.axis)

    def _retry(self) -> np.ndarray:
        """Plans anew after a failure, or gives up."""
        self._failed.append(self._grasp)
        if len(self._failed) < ATTEMPTS:
            self._begin()
        else:
            self.finished = True
        return action(STAY, STAY, gripper=-1.0)
