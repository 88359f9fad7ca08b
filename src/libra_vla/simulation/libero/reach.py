"""Joint angles that bring the hand somewhere, by kinematics alone."""

from typing import Any

import numpy as np

ITERATIONS, DAMPING, LONGEST = 60, 1e-3, 0.3
"""Of damped least squares; the longest step is in metres and radians together."""
REST = 0.05
"""How much of the way back to the first posture is gone in each step, where the hand allows it."""
CLOSE, TURNED = 1e-3, 5e-3
"""Error (m, rad) at which it is there."""
REACHED = 0.01
"""Error (m) up to which a place counts as reached when there are no steps left."""


def reach(
    robosuite_env: Any, joints: np.ndarray, position: np.ndarray, rotation: np.ndarray
) -> np.ndarray | None:
    """Returns joint positions of the scene whose grip site is at a pose, or None.

    Nothing is simulated and collisions are not looked for: the hand may reach into things.

    Args:
        robosuite_env: LIBERO's robosuite environment; left as it is.
        joints: of the whole scene, [nq]; all but the arm's are kept.
        position, rotation: wanted, [3] (m) and [3, 3].
    """
    import mujoco

    robot, model = robosuite_env.robots[0], robosuite_env.sim.model._model
    arm = np.array(robot._ref_joint_pos_indexes)
    moved = np.array(robot._ref_joint_vel_indexes)
    low, high = model.jnt_range[robot._ref_joint_indexes].T
    data = mujoco.MjData(model)
    data.qpos[:] = joints
    translation, turn = np.zeros((3, model.nv)), np.zeros((3, model.nv))
    for _ in range(ITERATIONS):
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        off = _off(data, robot.eef_site_id, position, rotation)
        if np.linalg.norm(off[:3]) < CLOSE and np.linalg.norm(off[3:]) < TURNED:
            break
        mujoco.mj_jacSite(model, data, translation, turn, robot.eef_site_id)
        jacobian = np.vstack([translation[:, moved], turn[:, moved]])
        off *= min(1.0, LONGEST / float(np.linalg.norm(off)))
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + DAMPING * np.eye(6))
        home = REST * (joints[arm] - data.qpos[arm])
        step = inverse @ off + home - inverse @ (jacobian @ home)
        data.qpos[arm] = np.clip(data.qpos[arm] + step, low, high)
    mujoco.mj_kinematics(model, data)
    near = np.linalg.norm(position - data.site_xpos[robot.eef_site_id]) < REACHED
    return np.array(data.qpos) if near else None


def _off(data: Any, site: int, position: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """What is missing to a pose, [6]: metres, then radians (for small angles)."""
    frame = data.site_xmat[site].reshape(3, 3)
    turn = 0.5 * np.cross(frame, rotation, axis=0).sum(axis=1)
    return np.concatenate([position - data.site_xpos[site], turn])
