"""Which grasp suits a goal: from above where that is possible, otherwise from where it goes."""

from collections.abc import Sequence

import numpy as np

from libra_vla.simulation.libero.goals import Goal, is_drawer, is_oven, is_rack
from libra_vla.simulation.libero.grasping import Grasp, nearest_yaw, plan_grasp
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.motion import UP, lean, level, outermost, sideways

LEAN, LEAN_COST = 0.44, 0.04
"""Angle (rad) by which a hand leans, and what that costs in a choice of grasps."""
NECK = 0.55
"""Part of a bottle's height at which it is grasped."""
BAND = 0.008
HANDLE_DEPTH = 0.012
"""Depth (m) of a mug's handle, as its outermost part."""
OVEN_LEAN = 0.96
"""Angle (rad) from the vertical of a hand before an oven: below its roof, above the table."""
FOLDED, STRAIGHT, SPAN, BENT = 0.46, 0.75, 0.12, 0.5
"""Distances (m) of an object from the robot's base under which a hand from above leans away from
the base, and over which it leans towards it, metres over which that grows, and the angle (rad) that
it grows to: lest the elbow can fold no further, or is straight and cannot be bent by any pull."""
UPRIGHT = 0.08
"""Angle (rad) up to which it does not lean at all."""
SIDE_DEPTH = 0.02
"""How far a hand from the side reaches round what it grasps, m."""


def choose_grasp(
    scene: Scene, goal: Goal, place: np.ndarray, failed: Sequence[Grasp]
) -> Grasp | None:
    """Returns how to hold the object of a goal, or None where it cannot be held.

    Args:
        place: where the object's origin is to go [3], metres.
        failed: grasps to keep away from.
    """
    assert goal.receptacle is not None
    if is_oven(goal.receptacle):
        front = scene.front(goal.receptacle)
        handle = outermost(scene.points(only=goal.target), front, HANDLE_DEPTH)
        return _from_the_side(scene, goal, handle, front, OVEN_LEAN)
    if is_rack(goal.receptacle):
        # The hand leans as the rack does, so that it points down when the bottle lies there.
        along = scene.upright(goal.receptacle)
        points = scene.points(only=goal.target)
        low, high = points[:, 2].min(), points[:, 2].max()
        neck = points[np.abs(points[:, 2] - low - NECK * (high - low)) < BAND]
        middle = (neck.max(axis=0) + neck.min(axis=0)) / 2
        return _from_the_side(scene, goal, middle, -level(along), float(np.arccos(along[2])))
    tilts: list[np.ndarray | None] = [None]
    if is_drawer(goal.receptacle):
        aside = lean(level(scene.pose(goal.target)[0] - scene.region(goal.receptacle)[0]), LEAN)
        tilts = [aside] if _overhung(scene, goal.target) else [None, aside]
    elif (eased := _eased(scene, scene.pose(goal.target)[0])) is not None:
        grasp = _planned(scene, goal, place, failed, [eased])
        if grasp is not None:
            return grasp
    return _planned(scene, goal, place, failed, tilts)


def _eased(scene: Scene, position: np.ndarray) -> np.ndarray | None:
    """How a hand leans that is to reach an object at `position` [3] close to the robot's base, or
    far from it; None where it needs not."""
    distance = sideways(position - scene.base)
    near, far = (FOLDED - distance) / SPAN, (distance - STRAIGHT) / SPAN
    angle = BENT * min(max(near, far), 1.0)
    if angle < UPRIGHT:
        return None
    outwards = level(position - scene.base)
    return lean(outwards if near > far else -outwards, angle)


def _overhung(scene: Scene, target: str) -> bool:
    """Tells whether an object lies below something, such as an open drawer."""
    mine, others = scene.points(only=target), scene.points(without=target)
    above = others[others[:, 2] > mine[:, 2].max(), :2]
    low, high = mine[:, :2].min(axis=0), mine[:, :2].max(axis=0)
    return bool(((above > low) & (above < high)).all(axis=1).any())


def _planned(
    scene: Scene,
    goal: Goal,
    place: np.ndarray,
    failed: Sequence[Grasp],
    tilts: list[np.ndarray | None],
) -> Grasp | None:
    """The best grasp with the hand leaning in one of several ways; None is not at all."""
    position, rotation = scene.pose(goal.target)
    mine, others = scene.points(only=goal.target), scene.points(without=goal.target)
    grasps = [
        plan_grasp(
            mine,
            others,
            position,
            rotation,
            place,
            scene.base,
            failed,
            around_goal=others if is_drawer(goal.receptacle or "") else None,
            tilt=tilt,
        )
        for tilt in tilts
    ]
    costs = [
        np.inf if grasp is None else grasp.cost + LEAN_COST * (tilt is not None)
        for grasp, tilt in zip(grasps, tilts, strict=True)
    ]
    return grasps[int(np.argmin(costs))]


def _from_the_side(
    scene: Scene, goal: Goal, site: np.ndarray, towards: np.ndarray, angle: float
) -> Grasp:
    """The grasp at `site` [3] of a hand that leans by `angle` (rad) to the side `towards` [3]."""
    position, rotation = scene.pose(goal.target)
    tilt = lean(towards, angle)
    axis = np.cross(UP, towards)
    return Grasp(
        offset=rotation.T @ (site - position),
        axis=rotation.T @ axis,
        yaw=nearest_yaw(tilt.T @ axis, 0.0),
        width=2 * BAND,
        depth=SIDE_DEPTH,
        cost=0.0,
        tilt=tilt,
    )
