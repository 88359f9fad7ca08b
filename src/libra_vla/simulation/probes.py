"""What an evaluation reads from a scene beside observations; none of it is shown to a policy."""

from collections.abc import Callable

import numpy as np

from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero import LiberoEnv
from libra_vla.simulation.suites import bddl_file


def end_effector(env: LiberoEnv) -> np.ndarray:
    """Returns the present position of the end effector, float64 [3], m, without rendering."""
    scene = env.robosuite_env
    return scene.sim.data.site_xpos[scene.robots[0].eef_site_id].copy()


def watch_goal(env: LiberoEnv, other: Task) -> Callable[[], bool] | None:
    """Returns a check whether the goal of another task holds in this scene.

    None if an object of that goal is not in the scene, or if the goal is this task's own in the
    same words: then (all of LIBERO-Spatial) the two tasks differ only in where their objects
    stand, which no predicate tells.
    """
    from libero.libero.envs.bddl_utils import robosuite_parse_problem

    scene = env.robosuite_env
    goal = robosuite_parse_problem(str(bddl_file(other)))["goal_state"]
    names = {name for _, *arguments in goal for name in arguments}
    if goal == scene.parsed_problem["goal_state"] or not names <= scene.object_states_dict.keys():
        return None
    return lambda: all(scene._eval_predicate(predicate) for predicate in goal)
