"""robosuite's operational-space control of the arm, bit for bit, without its detours.

robosuite looks joints and sites up by their names and asks for the same Jacobian four times, at
each of the 25 physics steps of a control step. What such a step needs is looked up once here; the
arithmetic is left to robosuite's own functions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


class ArmControl:
    """Torques of the arm and command of the gripper, for a goal that robosuite has set.

    Args:
        env: robosuite's environment of one arm; for as long as its model is not compiled anew.
    """

    def __init__(self, env: Any) -> None:
        from robosuite.controllers.osc import OperationalSpaceController

        self._robot = env.robots[0]
        self._model, self._data = env.sim.model._model, env.sim.data._data
        controller, gripper, model = self._robot.controller, self._robot.gripper, self._model
        assert isinstance(controller, OperationalSpaceController) and controller.uncoupling
        assert controller.interpolator_pos is None and controller.interpolator_ori is None
        self._site = env.sim.model.site_name2id(controller.eef_name)
        self._arm = np.array(self._robot._ref_joint_actuator_indexes)
        self._low, self._high = model.actuator_ctrlrange[self._arm].T
        fingers = [env.sim.model.actuator_name2id(name) for name in gripper.actuators]
        self._fingers, (low, high) = np.array(fingers), model.actuator_ctrlrange[fingers].T
        self._middle, self._reach = 0.5 * (high + low), 0.5 * (high - low)
        # The arm's joints follow one another, and a slice is taken far faster than a list.
        self._joints = _consecutive(controller.qpos_index)
        self._speeds = _consecutive(controller.qvel_index)
        self._jacobian = np.zeros((2, 3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def apply(self, fingers: np.ndarray, solve: Callable[[], None]) -> None:
        """Commands the actuators for one physics step.

        Args:
            fingers: the action's last number [1]: -1 opens, +1 closes.
            solve: for accelerations, as robosuite does whenever its controller looks.
        """
        import mujoco
        from robosuite.utils.control_utils import (
            nullspace_torques,
            opspace_matrices,
            orientation_error,
        )

        model, data, controller = self._model, self._data, self._robot.controller
        speeds = self._speeds
        solve()
        position, frame = data.site_xpos[self._site], data.site_xmat[self._site].reshape(3, 3)
        mujoco.mj_jacSite(model, data, *self._jacobian, self._site)
        moved, turned = self._jacobian @ data.qvel
        # Rounding follows the order in memory: columns, as robosuite's way to take them has it.
        along, about = (np.array(part[:, speeds], order="F") for part in self._jacobian)
        full = np.vstack([along, about])
        mujoco.mj_fullM(model, self._mass, data.qM)
        mass = np.array(self._mass[speeds, speeds], order="F")

        missing = orientation_error(controller.goal_ori, np.array(frame))
        kp, kd = controller.kp, controller.kd
        force = (controller.goal_pos - position) * kp[:3] + -moved * kd[:3]
        torque = missing * kp[3:6] + -turned * kd[3:6]
        _, inertia, angular_inertia, nullspace = opspace_matrices(mass, full, along, about)
        wrench = np.concatenate([np.dot(inertia, force), np.dot(angular_inertia, torque)])
        torques = np.dot(full.T, wrench) + data.qfrc_bias[speeds]
        torques += nullspace_torques(
            mass, nullspace, controller.initial_joint, data.qpos[self._joints], data.qvel[speeds]
        )
        data.ctrl[self._arm] = np.clip(torques, self._low, self._high)
        opening = self._robot.gripper.format_action(fingers)
        data.ctrl[self._fingers] = self._middle + self._reach * opening


def _consecutive(indices: Sequence[int]) -> slice:
    """The slice that takes `indices`, which follow one another."""
    taken = slice(int(indices[0]), int(indices[-1]) + 1)
    assert list(indices) == list(range(taken.start, taken.stop))
    return taken
