"""What may happen to a scene in mid-episode: LIBERO's objects hardly move by themselves."""

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.simulation.libero.environment import LiberoEnv

DIRECTIONS = 12
DEEPEST = 0.002
"""Metres by which an object may overlap another one where it is put."""


def move_object(env: LiberoEnv, metres: float, rng: np.random.Generator) -> str:
    """Moves the first movable object that the task is about, along the table, and returns its name.

    The direction is drawn; where another object is in the way, the next one is tried. An object in
    the hand is taken out of it.

    Args:
        metres: how far.
        rng: of the direction.

    Raises:
        LibraError: the task is about no movable object.
    """
    scene = env.robosuite_env
    movable = [name for name in scene.obj_of_interest if name in scene.objects_dict]
    if not movable:
        raise LibraError(f"{env.task.name}: no object to move; leave out move_object")
    joint = scene.objects_dict[movable[0]].joints[-1]
    body = scene.obj_body_id[movable[0]]
    pose = np.array(scene.sim.data.get_joint_qpos(joint))
    turn = rng.uniform(0.0, 2.0 * np.pi)
    for angle in turn + np.linspace(0.0, 2.0 * np.pi, DIRECTIONS, endpoint=False):
        moved = pose.copy()
        moved[:2] += metres * np.array([np.cos(angle), np.sin(angle)])
        scene.sim.data.set_joint_qpos(joint, moved)
        scene.sim.data.set_joint_qvel(joint, np.zeros(6))
        scene.sim.forward()
        if _overlap(scene.sim, body) <= DEEPEST:
            break
    return movable[0]


def _overlap(sim: object, body: int) -> float:
    """Metres by which the object with root `body` overlaps anything, at most."""
    model, data = sim.model._model, sim.data._data  # pyright: ignore[reportAttributeAccessIssue]
    roots = model.body_rootid[model.geom_bodyid]
    deepest = 0.0
    for contact in data.contact:
        if body in (roots[contact.geom1], roots[contact.geom2]):
            deepest = max(deepest, -float(contact.dist))
    return deepest
