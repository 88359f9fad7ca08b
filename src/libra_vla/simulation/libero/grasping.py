"""Grasps of a parallel gripper from above, from collision geometry alone.

No table per object: the surface samples of the target are cut into slices across candidate finger
axes, and whatever fits between the fingers without touching the open hand is a candidate. Costs
are continuous in the object's position, so that alike scenes are grasped alike: what a policy is to
learn from must not flip between two equally good grasps.

The hand frame: x along the finger axis, y across, z the approach; the origin is the grip site.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

FINGER_INNER, FINGER_OUTER = 0.0385, 0.054
"""Metres from the grip site to the inner and outer side of an open finger."""
FINGER_ACROSS = 0.0105
"""Half width of a finger across the finger axis, m."""
FINGER_TIP = 0.0095
"""Metres by which the finger tips reach past the grip site."""
PAD_BACK = 0.012
"""Metres by which the finger pads reach back behind the grip site."""
PALM_BACK = 0.031
"""Metres behind the grip site at which the palm begins."""
PALM_ALONG, PALM_ACROSS = 0.104, 0.032
"""Half sizes of the palm along and across the finger axis, m."""
WIDEST = 0.068
"""Widest part to grasp, m: 6 mm of room at each side of the open fingers."""

SLICE = 0.008
HOLD, SPACING = 0.010, 0.006
"""Metres by which an object should rise between the pads of a leaning hand above the grip site,
and between its samples: seen from the side its top is not level."""
YAW_STEP = np.pi / 12
DEPTHS = (0.029, 0.022, 0.015)
KNOB_DEPTH = 0.008
"""How deep a hand from above reaches round a knob. Around a moka pot's it has 3 cm of room to each
side, around its body 5 mm."""
FLOOR_CLEARANCE = 0.012
REACH = 0.74
"""Metres from the robot's base up to which a grasp from above costs nothing extra; the elbow is
straight near 0.78 m."""

WIDTH_COST = 1.0
ALONG_COST, ACROSS_COST = 0.3, 2.0
YAW_COST = 0.06
TAPER_COST, TAPER_FREE = 0.1, 1.2
"""What tapers across the fingers slips out of them; 2 is the corner of an octagon."""
SHALLOW_COST = 2.0
REACH_COST = 3.0
RIGHT, FAR, SIDE_COST = 0.01, 0.025, 0.12
"""An object is not held on its right or far side, seen from the robot, beyond so many metres from
its origin, if it can be helped. Where millimetres decide on a side, a policy learns to go between
the two."""
COLLISION_COST = 8.0
CROWDED_COST = 4.0
"""Where the object goes; there it may be let go of higher up."""
AVOID_COST = 0.05
LEANS = 0.25
"""Angle (rad) from which on a hand that holds something counts as leaning on purpose."""
MARGIN = 0.006
"""Metres of room that the hand should keep from other things."""


@dataclass(frozen=True)
class Grasp:
    """Where the hand must be to close on an object.

    Attributes:
        offset: grip site relative to the object's origin, in the object's frame, metres [3].
        axis: direction of the finger axis in the object's frame, unit vector [3].
        yaw: of the finger axis when the grasp was planned, see `finger_yaw`.
        width: of what is grasped, metres.
        depth: of the grip site below the object's top, metres.
        cost: what the planner minimised.
        tilt: rotation [3, 3] by which the hand leans away from pointing straight down.
    """

    offset: np.ndarray
    axis: np.ndarray
    yaw: float
    width: float
    depth: float
    cost: float
    tilt: np.ndarray = field(default_factory=lambda: np.eye(3))

    def hand(self, yaw: float) -> np.ndarray:
        """Rotation [3, 3] of the hand that carries what was grasped, with its fingers at `yaw`."""
        return self.tilt @ hand_rotation(yaw)

    def yaw_of(self, axis: np.ndarray) -> float:
        """Yaw of the hand whose fingers lie along `axis` [3], nearest to that of the grasp."""
        return nearest_yaw(self.tilt.T @ axis, self.yaw)


def present_grasp(
    hand: np.ndarray, frame: np.ndarray, position: np.ndarray, rotation: np.ndarray, width: float
) -> Grasp:
    """Returns the grasp with which a hand, [3] and [3, 3], holds an object, [3] and [3, 3].

    A hand that leans a little is taken for one that should not.

    Args:
        width: of what is between the fingers, metres.
    """
    yaw = float(np.arctan2(-frame[0, 0], frame[1, 0]))
    tilt = frame @ hand_rotation(yaw).T
    upright = np.trace(tilt) > 1.0 + 2.0 * np.cos(LEANS)
    return Grasp(
        offset=rotation.T @ (hand - position),
        axis=rotation.T @ frame[:, 0],
        yaw=yaw,
        width=width,
        depth=0.0,
        cost=0.0,
        tilt=np.eye(3) if upright else tilt,
    )


def hand_rotation(yaw: float) -> np.ndarray:
    """Rotation [3, 3] of a hand that points down with its finger axis `yaw` from world y."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[-s, c, 0.0], [c, s, 0.0], [0.0, 0.0, -1.0]])


def finger_yaw(axis: np.ndarray) -> float:
    """Angle of a finger axis [3] from world y about world z, radians in (-pi/2, pi/2].

    The fingers are alike, so an axis and its opposite are the same.
    """
    yaw = float(np.arctan2(-axis[0], axis[1]))
    wrapped = (yaw + np.pi / 2) % np.pi - np.pi / 2
    return np.pi / 2 if wrapped < -np.pi / 2 + 1e-6 else wrapped


def nearest_yaw(axis: np.ndarray, to: float) -> float:
    """The yaw (rad) of a hand whose fingers lie along `axis` [3], the one nearest to `to`.

    A hand has two, half a turn apart. One that is chosen must not flip to the other while an
    object moves a little: the wrist would hit its limit.
    """
    yaw = finger_yaw(axis)
    return yaw - np.pi * round((yaw - to) / np.pi)


def plan_grasp(
    target: np.ndarray,
    others: np.ndarray,
    position: np.ndarray,
    rotation: np.ndarray,
    goal: np.ndarray,
    base: np.ndarray,
    avoid: Sequence[Grasp] = (),
    *,
    around_goal: np.ndarray | None = None,
    tilt: np.ndarray | None = None,
    hold: float = 0.0,
) -> Grasp | None:
    """Returns the cheapest grasp, or None where there is none.

    Args:
        target: surface samples of the object, world frame [K, 3], metres.
        others: surface samples of everything else but the table [M, 3].
        position, rotation: pose of the object, [3] and [3, 3].
        goal: where the object's origin is to go, [3]; the hand must be able to reach that too.
        base: position of the robot's base [3].
        avoid: grasps that failed before; what is like them costs more.
        around_goal: surface samples [L, 3] that the hand should not touch at `goal` either.
        tilt: rotation [3, 3] by which the hand is to lean; by default it comes from above.
        hold: metres by which what is grasped must rise above the grip site, see `HOLD`.
    """
    if tilt is not None:
        # The same world, turned about the object until the leaning hand points down.
        target, others = (position + (points - position) @ tilt for points in (target, others))
        goal, base = (position + (point - position) @ tilt for point in (goal, base))
        if around_goal is not None:
            around_goal = position + (around_goal - position) @ tilt
        avoid = [grasp for grasp in avoid if np.allclose(grasp.tilt, tilt)]
        grasp = plan_grasp(
            target,
            others,
            position,
            tilt.T @ rotation,
            goal,
            base,
            avoid,
            around_goal=around_goal,
            hold=HOLD,
        )
        return grasp and replace(grasp, tilt=tilt)
    avoid = [grasp for grasp in avoid if np.allclose(grasp.tilt, np.eye(3))]
    candidates = _candidates(target, position, rotation, goal, base, hold)
    near = (np.abs(others - position)[:, :2] < 0.2).all(axis=1)
    nearby = others[near & (others[:, 2] > target[:, 2].min())]
    if around_goal is not None:
        around_goal = around_goal[(np.abs(around_goal - goal)[:, :2] < 0.3).all(axis=1)]
    best = None
    for grasp in sorted(candidates, key=lambda grasp: grasp.cost):
        if best is not None and grasp.cost >= best.cost:
            break  # what is still to be added is never negative
        site = position + rotation @ grasp.offset
        frame = hand_rotation(grasp.yaw)
        if _intrusion((target - site) @ frame, 0.0) > 0.0:
            continue
        cost = grasp.cost + COLLISION_COST * _intrusion((nearby - site) @ frame, MARGIN)
        if around_goal is not None:
            there = (around_goal - (goal + site - position)) @ frame
            cost += CROWDED_COST * _intrusion(there, MARGIN)
        cost += sum(AVOID_COST for other in avoid if _alike(grasp, other))
        if best is None or cost < best.cost:
            best = replace(grasp, cost=cost)
    return best


def _candidates(
    target: np.ndarray,
    position: np.ndarray,
    rotation: np.ndarray,
    goal: np.ndarray,
    base: np.ndarray,
    hold: float,
) -> Iterator[Grasp]:
    """Yields what fits between the fingers, with its cost short of collisions."""
    level = [axis for axis in rotation.T if abs(axis[2]) < 0.5]
    yaws = [*np.arange(-5, 7) * YAW_STEP, *map(finger_yaw, level)]
    top = target[:, 2].max()
    lowest = target[:, 2].min() + FLOOR_CLEARANCE
    depths = DEPTHS if hold > 0.0 else (*DEPTHS, KNOB_DEPTH)
    heights = sorted({max(top - depth, lowest) for depth in depths})
    for yaw in map(float, yaws):
        frame = hand_rotation(yaw)
        flat = (target - position) @ frame  # along, across, down
        for height in heights:
            down = position[2] - height
            for centre, width, taper in _slices(flat, down, min(hold, top - height)):
                offset = frame @ np.array([*centre, down])
                cost = (
                    WIDTH_COST * width
                    + ALONG_COST * float(abs(centre[0]))
                    + ACROSS_COST * float(abs(centre[1]))
                    + TAPER_COST * max(0.0, taper - TAPER_FREE)
                    + YAW_COST * abs(yaw)
                    + SHALLOW_COST * (height - heights[0])
                    + REACH_COST * _excess_reach(position + offset, base)
                    + REACH_COST * _excess_reach(goal + offset, base)
                    + SIDE_COST * float(offset[1] < -RIGHT or offset[0] > FAR)
                )
                yield Grasp(
                    offset=rotation.T @ offset,
                    axis=rotation.T @ frame[:, 0],
                    yaw=yaw,
                    width=width,
                    depth=float(top - height),
                    cost=cost,
                )


def _alike(one: Grasp, other: Grasp) -> bool:
    parallel = abs(float(one.axis @ other.axis)) > np.cos(YAW_STEP)
    return parallel and bool(np.linalg.norm(one.offset - other.offset) < 0.012)


def hand_collides(points: np.ndarray, site: np.ndarray, rotation: np.ndarray) -> bool:
    """Tells whether samples [K, 3] touch an open hand at `site` [3] with `rotation` [3, 3]."""
    return _intrusion((points - site) @ rotation, 0.004) > 0.0


def _slices(flat: np.ndarray, down: float, hold: float) -> list[tuple[np.ndarray, float, float]]:
    """Finds what fits between the pads at depth `down` (m, hand frame about the object's origin).

    What does not rise above that by nearly `hold` (m) is only pinched by the finger tips.

    Returns:
        The centre [2] (along and across the finger axis), the width, and how much that changes per
        metre across the finger axis.
    """
    band = flat[(flat[:, 2] > down - PAD_BACK) & (flat[:, 2] < down + FINGER_TIP)]
    if not len(band):
        return []
    found = []
    reach = np.abs(band[:, 1]).max()
    for step in range(-int(reach / SLICE), int(reach / SLICE) + 1):
        across = step * SLICE
        window = band[np.abs(band[:, 1] - across) < SLICE]
        window = window[np.argsort(window[:, 0])]
        along = window[:, 0]
        if len(along) < 2:
            continue
        gaps = np.flatnonzero(np.diff(along) > 0.012)
        starts = along[np.concatenate([[0], gaps + 1])]
        ends = along[np.concatenate([gaps, [len(along) - 1]])]
        before = np.concatenate([[-np.inf], ends[:-1]])
        after = np.concatenate([starts[1:], [np.inf]])
        for i, start in enumerate(starts):
            for j, end in enumerate(ends[i:], i):
                centre = (start + end) / 2
                # Closing fingers squeeze all that is between them.
                alone = before[i] < centre - FINGER_INNER and after[j] > centre + FINGER_INNER
                if alone and end - start < WIDEST:
                    between = window[(along >= start) & (along <= end)]
                    if hold > 0.0 and between[:, 2].min() > down - hold + SPACING / 2:
                        continue
                    taper = _taper(between, across)
                    found.append((np.array([centre, across]), float(end - start), taper))
    return found


def _taper(points: np.ndarray, across: float) -> float:
    """How much wider samples [K, 3] are on one side of `across` than on the other, per metre."""
    sides = [points[points[:, 1] < across, 0], points[points[:, 1] > across, 0]]
    if not all(len(side) for side in sides):
        return 0.0
    return abs(float(np.ptp(sides[0]) - np.ptp(sides[1]))) / SLICE


def _intrusion(points: np.ndarray, margin: float) -> float:
    """How deep samples [K, 3] in the hand frame enter the open hand grown by `margin`, metres.

    The hand comes from above, so everything above its parts belongs to them.
    """
    if not len(points):
        return 0.0
    along, across, down = np.abs(points[:, 0]), np.abs(points[:, 1]), points[:, 2]
    finger = np.minimum.reduce(
        [
            np.minimum(along - FINGER_INNER, FINGER_OUTER - along),
            FINGER_ACROSS - across,
            FINGER_TIP - down,
        ]
    )
    palm = np.minimum.reduce([PALM_ALONG - along, PALM_ACROSS - across, -PALM_BACK - down])
    return max(0.0, float(np.maximum(finger, palm).max()) + margin)


def _excess_reach(site: np.ndarray, base: np.ndarray) -> float:
    return max(0.0, float(np.hypot(*(site - base)[:2])) - REACH)
