"""Where and how turned an object is to stand in its receptacle."""

from dataclasses import dataclass

import numpy as np

from libra_vla.simulation.goals import Goal
from libra_vla.simulation.scene import Scene
from libra_vla.simulation.skills.motion import UP, rotation_about

DROP = 0.006
"""Height above the surface at which an object is released, m."""
FIT_MARGIN = 0.006
"""Room that an object should have in a compartment at each side, m."""
APART = 0.01
"""Metres between two objects that share a receptacle."""
TURN_STEP = np.pi / 36


@dataclass(frozen=True)
class Placement:
    """Where an object is let go of.

    Attributes:
        position: of the object's origin, metres [3].
        turn: rad about the vertical by which to turn the object on the way.
    """

    position: np.ndarray
    turn: float = 0.0


def plan_placement(scene: Scene, goal: Goal, points: np.ndarray, position: np.ndarray) -> Placement:
    """Returns where to let go of the object of a goal.

    Args:
        points: surface samples of the object as it is now [K, 3].
        position: of the object's origin [3].
    """
    assert goal.receptacle is not None
    relative = points - position
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
    return Placement(np.array([*(centre - middle), height]), turn)


def fitting_turn(relative: np.ndarray, half: np.ndarray) -> float:
    """The least turn (rad) about the vertical after which samples [K, 3] fit a compartment.

    Args:
        half: half sizes of the compartment along the world's axes [2], metres.

    Returns:
        The turn in [-pi/2, pi/2]; where nothing fits, the one that sticks out least.
    """
    steps = round(np.pi / 2 / TURN_STEP)
    turns = sorted((TURN_STEP * np.arange(-steps, steps + 1)).tolist(), key=abs)
    excess = []
    for turn in turns:
        turned = relative @ rotation_about(UP, turn).T
        extent = np.ptp(turned[:, :2], axis=0) / 2
        excess.append(float(np.maximum(extent - half, 0.0).sum()))
    return turns[int(np.argmin(excess))]
