"""Where and how turned an object is to stand or lie in its receptacle, and from where it comes."""

from dataclasses import dataclass, field, replace

import numpy as np

from libra_vla.simulation.libero.goals import Goal, is_oven, is_pushed, is_rack
from libra_vla.simulation.libero.grasping import hand_collides
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.motion import UP, level, rotation_about

DROP = 0.006
"""Height above the surface at which an object is released, m."""
FIT_MARGIN = 0.006
"""Room that an object should have in a compartment at each side, m."""
TIGHT = 0.01
"""Room (m) beyond the margin under which an object only just fits."""
APART = 0.01
"""Metres between two objects that share a receptacle."""
SHIFT, RAISE = 0.01, 0.005
HIGHEST_DROP = 0.2
OVER_RIM = 0.015
"""Metres that the fingers stay above the walls of what they let an object fall into."""
NEARBY = 0.25
"""Metres around the hand in which it may touch something."""
TURN_STEP = np.pi / 36
LIP = 0.02
"""Metres above the middle of a rack's region at which a bottle's foot is let go of."""
INSIDE = 0.03
"""Metres behind the front of an oven's region at which an object's origin comes to rest."""
RAMP = 0.12
"""Angle (rad) at which an object comes down into an oven: what comes in level, and has dipped a
little in the hand, meets the sill."""
EDGE = 0.008
"""Metres that what is pushed stays clear of the edge of its region."""
AWAY = np.array([1.0, 0.0, 0.0])
"""From the robot: the side on which what is pushed goes past other things."""


@dataclass(frozen=True)
class Placement:
    """Where an object is let go of.

    Attributes:
        position: of the object's origin, metres [3].
        rotation: by which to turn the object on the way [3, 3].
        up: unit vector [3] against the direction in which the object arrives.
        tight: the object only just fits.
        slack: metres by which the place may be shifted along the world's axes [2].
    """

    position: np.ndarray
    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    up: np.ndarray = field(default_factory=lambda: UP)
    tight: bool = False
    slack: np.ndarray = field(default_factory=lambda: np.zeros(2))

    @property
    def falls(self) -> bool:
        """Whether the object may be let go of higher up, since it arrives from above."""
        return bool(self.up @ UP > np.sqrt(0.5))

    @property
    def tips(self) -> bool:
        """Whether the object is not to stand upright."""
        return bool((self.rotation @ UP) @ UP < np.sqrt(0.5))

    def shifts(self) -> list[np.ndarray]:
        """Offsets [3] (m) within the slack, the shortest first."""
        axes = [np.arange(-int(s / SHIFT), int(s / SHIFT) + 1) * SHIFT for s in self.slack]
        grid = np.stack(np.meshgrid(*axes, [0.0], indexing="ij"), axis=-1).reshape(-1, 3)
        return sorted(grid, key=lambda shift: float(np.linalg.norm(shift)))


def plan_placement(scene: Scene, goal: Goal, points: np.ndarray, position: np.ndarray) -> Placement:
    """Returns where to let go of the object of a goal.

    Args:
        points: surface samples of the object as it is now [K, 3].
        position: of the object's origin [3].
    """
    assert goal.receptacle is not None
    relative = points - position
    if is_rack(goal.receptacle):
        return _laid(scene, goal.receptacle, relative, position)
    if is_oven(goal.receptacle):
        return _inserted(scene, goal.receptacle, relative)
    if is_pushed(goal):
        return _slid(scene, goal, relative, position)
    return _stood(scene, goal, relative)


def _stood(scene: Scene, goal: Goal, relative: np.ndarray) -> Placement:
    """On an object or a surface, or in a compartment that is open above."""
    assert goal.receptacle is not None
    centre, surface = scene.receptacle(goal.receptacle)
    height = surface - float(relative[:, 2].min()) + DROP
    if goal.receptacle in scene.env.obj_body_id:
        return Placement(np.array([*centre, height]))
    half = scene.region(goal.receptacle)[1][:2]
    if goal.turns > 1:
        width = float(np.ptp(relative[:, 0])) + APART
        aside = ((goal.turns - 1) / 2 - goal.turn) * width
        centre[0] += np.clip(aside, -half[0] + APART, half[0] - APART)
    if goal.predicate == "on":
        return Placement(np.array([*centre, height]))
    turn = fitting_turn(relative, half - FIT_MARGIN)
    turned = relative @ rotation_about(UP, turn).T
    middle = (turned[:, :2].max(axis=0) + turned[:, :2].min(axis=0)) / 2
    slack = np.maximum(half - FIT_MARGIN - np.ptp(turned[:, :2], axis=0) / 2, 0.0)
    tight = bool(slack.min() < TIGHT)
    return Placement(
        np.array([*(centre - middle), height]), rotation_about(UP, turn), tight=tight, slack=slack
    )


def _laid(scene: Scene, rack: str, relative: np.ndarray, position: np.ndarray) -> Placement:
    """In a rack: tipped over with its foot against the lip, on its own side of the rack's post."""
    centre, half = scene.region(rack)
    along = scene.upright(rack)
    above = UP - (UP @ along) * along
    above /= np.linalg.norm(above)
    tip = rotation_about(level(np.cross(UP, along)), float(np.arccos(along @ UP)))
    lying = float(np.ptp(relative[:, 0])) / 2
    aside = np.array([np.copysign(half[0] / 2, position[0] - centre[0]), 0.0, 0.0])
    return Placement(centre + aside + LIP * along + lying * above, tip)


def _inserted(scene: Scene, oven: str, relative: np.ndarray) -> Placement:
    """In an oven: in through its door, just far enough, and along one that is only half open."""
    centre, half = scene.region(oven)
    outwards = scene.front(oven)
    _, surface = scene.receptacle(oven)
    depth = float(half @ np.abs(outwards))
    position = centre + (depth - INSIDE) * outwards
    # The region reaches into the walls: what counts is the middle between these.
    walls = scene.points(only=scene.owner(oven)) - centre
    walls = walls[(np.abs(walls @ outwards) < depth / 2) & (np.abs(walls[:, 2]) < half[2] / 2)]
    across = np.cross(UP, outwards)
    aside = walls @ across
    position += (aside[aside < 0].max() + aside[aside > 0].min()) / 2 * across
    position[2] = surface - float(relative[:, 2].min()) + DROP
    out = _way_out(scene, oven)
    return Placement(position, up=np.cos(RAMP) * out + np.sin(RAMP) * UP)


def _way_out(scene: Scene, oven: str) -> np.ndarray:
    """Unit vector [3] straight out of an oven, or along its door where that reaches in front.

    A palm that meets the edge of such a door head-on can neither pass nor push it open.
    """
    door = scene.joint(scene.owner(oven) or oven)
    leans_in = max(door.value + np.pi / 2, 0.0)  # a door shuts as its joint turns forwards, at 0
    return rotation_about(door.axis, leans_in) @ scene.front(oven)


def _slid(scene: Scene, goal: Goal, relative: np.ndarray, position: np.ndarray) -> Placement:
    """Over the table, round what stands in between, to where nothing else stands."""
    assert goal.receptacle is not None
    centre, half = scene.region(goal.receptacle)
    middle = np.array([*centre[:2], position[2]])
    placement = Placement(middle, up=AWAY, slack=half[:2] - EDGE)
    others = scene.points(without=goal.target)
    others = others[others[:, 2] < position[2] + relative[:, 2].max(), :2]
    radius = float(np.linalg.norm(relative[:, :2], axis=1).max()) + APART
    for shift in placement.shifts():
        if np.linalg.norm(others - (middle + shift)[:2], axis=1).min() > radius:
            return replace(placement, position=middle + shift)
    return placement


def clear_placement(
    placement: Placement, points: np.ndarray, grip: np.ndarray, rotation: np.ndarray
) -> Placement:
    """Shifts or raises a placement until the hand that holds the object touches nothing.

    Args:
        points: surface samples of everything but the object [K, 3].
        grip: from the object's origin to the grip site when it is let go of, [3], metres.
        rotation: of the hand then [3, 3].
    """
    site = placement.position + grip
    near = points[(np.abs(points - site)[:, :2] < NEARBY).all(axis=1)]
    best, least = np.zeros(3), np.inf
    for shift in placement.shifts():
        for height in np.arange(0.0, HIGHEST_DROP, RAISE):
            moved = shift + height * UP
            cost = float(height + np.linalg.norm(shift))
            if cost >= least:
                break
            if not hand_collides(near, site + moved, rotation):
                best, least = moved, cost
                break
    return replace(placement, position=placement.position + best)


def over_rim(placement: Placement, rim: float, tips: float) -> Placement:
    """Raises a placement until no finger reaches below a rim: the object falls the rest.

    Between walls that fingers barely fit into, a centimetre to the side shoves the walls along.

    Args:
        rim: height of the walls, m.
        tips: metres from the object's origin up to the fingers' tips.
    """
    lacking = rim + OVER_RIM - float(placement.position[2] + tips)
    return replace(placement, position=placement.position + max(lacking, 0.0) * UP)


def fitting_turn(relative: np.ndarray, half: np.ndarray) -> float:
    """The turn (rad) about the vertical after which samples [K, 3] fit a compartment.

    Args:
        half: half sizes of the compartment along the world's axes [2], metres.

    Returns:
        Zero if it fits as it is; otherwise the turn in [-pi/2, pi/2] that leaves most room.
    """
    steps = round(np.pi / 2 / TURN_STEP)
    turns = sorted((TURN_STEP * np.arange(-steps, steps + 1)).tolist(), key=abs)
    filled = []
    for turn in turns:
        turned = relative @ rotation_about(UP, turn).T
        filled.append(float((np.ptp(turned[:, :2], axis=0) / 2 / half).max()))
    return 0.0 if filled[0] < 1.0 else turns[int(np.argmin(filled))]
