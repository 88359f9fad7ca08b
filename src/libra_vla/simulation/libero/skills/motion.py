"""Motion laws of the scripted skills: pure functions of where the hand is and should be.

They are laws of the position error rather than of time: above an error the hand keeps its distance,
and the distance shrinks with the error like a funnel, so that reaching and descending, or carrying
and lowering, blend into one motion that a policy can read off the image.
"""

import numpy as np

METRES_PER_UNIT, RADIANS_PER_UNIT = 0.05, 0.5
"""Scale of OSC_POSE's action; a unit command moves the hand by about 12 mm per step."""
MOVE_GAIN, TURN_GAIN, TURN_LIMIT = 1.4, 1.2, 0.6
GATE = 0.03
"""Metres below the wanted height within which sideways motion fades out."""
STEEP, GENTLE, STEEPEST = 3.0, 1.0, 6.0
"""Slopes of a funnel, m per m: where fingers go around something, above that where nothing is in
the way, and the most that obstacles make of both. The steeper it is, the smaller the errors that
decide between down and up at full speed. Cameras do not show millimetres: a policy that learned
from a slope of 6 hovers and dithers where it is a centimetre off, and one that comes down a gentle
slope has seen from below, and from beside, what it is going to grasp."""
BESIDE = 0.004
"""Metres by which what rises keeps clear of what it lay below."""
UP = np.array([0.0, 0.0, 1.0])
STAY = np.zeros(3)


def action(way: np.ndarray, turn: np.ndarray, *, gripper: float, speed: float = 1.0) -> np.ndarray:
    """Turns an offset [3] (m) and a rotation vector [3] (rad) into an action [7] in [-1, 1].

    Args:
        speed: largest norm of the translation.
    """
    move = _limited(MOVE_GAIN * way / METRES_PER_UNIT, speed)
    rotate = _limited(TURN_GAIN * turn / RADIANS_PER_UNIT, TURN_LIMIT)
    return np.array([*move, *rotate, gripper])


def funnel(
    error: float, room: float, insertion: float, ceiling: float, slope: float = GENTLE
) -> float:
    """Height (m) to keep above a goal while `error` (m) is left.

    It is zero up to half the `room`, rises to `insertion` where the room is used up (or later: see
    `STEEP`) and from there by `slope`, and is never more than `ceiling`; all but the slope in
    metres.
    """
    inner = min(insertion / (0.5 * room), max(STEEP, slope))
    beyond = error - 0.5 * room
    rising = min(inner * beyond, insertion) + slope * max(beyond - insertion / inner, 0.0)
    return float(np.clip(rising, 0.0, ceiling))


def steer(
    way: np.ndarray, height: float, up: np.ndarray = UP, rise: np.ndarray | None = None
) -> np.ndarray:
    """Turns the way to a goal [3] into the step to take while `height` must be kept above it.

    What is too low rises before it moves sideways.

    Args:
        up: unit vector [3] along which height is measured: against the direction of approach.
        rise: vector [3] along which what is too low rises; `up` where nothing is overhead.
    """
    vertical = float(way @ up) + height
    gate = np.clip(1.0 - (vertical - GATE / 2) / GATE, 0.0, 1.0)
    upwards = up if rise is None or vertical < 0.0 else rise / float(rise @ up)
    return gate * (way - (way @ up) * up) + vertical * upwards


def sideways(way: np.ndarray, up: np.ndarray = UP) -> float:
    """Length (m) of an offset [3] across `up`."""
    return float(np.linalg.norm(way - (way @ up) * up))


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
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


def rotation_about(axis: np.ndarray, angle: float) -> np.ndarray:
    """Rotation [3, 3] by `angle` (rad) about a unit vector [3]."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def lean(towards: np.ndarray, angle: float) -> np.ndarray:
    """Rotation [3, 3] that tips the vertical by `angle` (rad) towards a level unit vector [3]."""
    return rotation_about(np.cross(UP, towards), angle)


def highest(
    points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, up: np.ndarray = UP
) -> float:
    """Height (m) of the highest sample [K, 3] near the straight way from `start` to `end`.

    Args:
        up: unit vector [3] along which height is measured, and across which the way is seen.
    """
    _, near = _along(points, start, end, radius, up)
    return float((points[near] @ up).max()) if near.any() else float(min(start @ up, end @ up))


def from_under(mine: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, float]:
    """How what lies partly below something has to rise: along a vector [3] until it has gone so far
    sideways, m, and straight up from there on. It comes out the shortest way along the world's
    axes.

    Args:
        mine, others: surface samples [K, 3] and [M, 3].
    """
    low, high = mine.min(axis=0), mine.max(axis=0)
    within = (others > low + BESIDE)[:, :2] & (others < high - BESIDE)[:, :2]
    over = others[within.all(axis=1) & (others[:, 2] > high[2])]
    if len(over):  # a round thing does not fill its corners
        apart = np.linalg.norm(over[:, None, :2] - mine[None, :, :2], axis=2).min(axis=1)
        over = over[apart < BESIDE]
    if not len(over):
        return UP, 0.0
    ways = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    inside = (over @ ways.T).max(axis=0) - (mine @ ways.T).min(axis=0)
    away, aside = ways[int(inside.argmin())], float(inside.min()) + BESIDE
    room = max(float(over[:, 2].min() - high[2]) - BESIDE, BESIDE)
    return UP + aside / room * away, aside


def clear_slope(
    points: np.ndarray, start: np.ndarray, goal: np.ndarray, radius: float, up: np.ndarray = UP
) -> float:
    """Slope of the gentlest way down to a goal that passes over the samples [K, 3] near it.

    Args:
        radius: half the width (m) of what comes down.
        up: unit vector [3] along which height is measured, and across which the way is seen.

    Returns:
        Between `GENTLE` and `STEEPEST`, m per m.
    """
    forward, near = _along(points, start, goal, radius, up)
    left = sideways(goal - start, up) - forward[near] - radius
    height = (points[near] - goal) @ up
    steepness = height[height > 0.0] / np.maximum(left[height > 0.0], 1e-9)
    return float(np.clip(steepness.max(initial=GENTLE), GENTLE, STEEPEST))


def outermost(points: np.ndarray, direction: np.ndarray, depth: float) -> np.ndarray:
    """Middle [3] of the part of samples [K, 3] that lies within `depth` of the farthest one."""
    along = points @ direction
    part = points[along > along.max() - depth]
    return (part.max(axis=0) + part.min(axis=0)) / 2


def level(vector: np.ndarray) -> np.ndarray:
    """Unit vector [3] of the level part of a vector [3]."""
    flat = vector - (vector @ UP) * UP
    return flat / np.linalg.norm(flat)


def _limited(vector: np.ndarray, limit: float) -> np.ndarray:
    return vector * min(1.0, limit / max(float(np.linalg.norm(vector)), 1e-9))


def _along(
    points: np.ndarray, start: np.ndarray, end: np.ndarray, radius: float, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How far along the straight way samples lie, m [K], and which are within `radius` of it."""
    across = np.eye(3) - np.outer(up, up)
    along = across @ (end - start)
    length = float(np.linalg.norm(along))
    unit = along / max(length, 1e-9)
    relative = (points - start) @ across
    forward = relative @ unit
    aside = np.linalg.norm(relative - np.outer(forward, unit), axis=1)
    return forward, (aside < radius) & (forward > -0.02) & (forward < length + radius)
