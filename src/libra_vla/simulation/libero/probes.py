"""What an evaluation reads from a scene beside observations; none of it is shown to a policy."""

from collections.abc import Callable
from typing import Any

import numpy as np

from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.suites import problem

Predicates = list[list[str]]


def end_effector(env: LiberoEnv) -> np.ndarray:
    """Returns the present position of the end effector, float64 [3], m, without rendering."""
    scene = env.robosuite_env
    return scene.sim.data.site_xpos[scene.robots[0].eef_site_id].copy()


def watch_goal(env: LiberoEnv, other: Task) -> Callable[[], bool] | None:
    """Returns a check whether the goal of another task holds in this scene; see `goal_here`."""
    goal = goal_here(env.task, other)
    if goal is None:
        return None
    return lambda: all(env.robosuite_env._eval_predicate(predicate) for predicate in goal)


def tells(task: Task, other: Task) -> bool:
    """Whether the scene of a task can tell that the goal of another one is reached."""
    return goal_here(task, other) is not None


def goal_here(task: Task, other: Task) -> Predicates | None:
    """What the instruction of another task asks for in the scene of this one.

    Names of a scene are its own: all of LIBERO-Spatial ask for `akita_black_bowl_1`, which stands
    somewhere else in each task. Of several objects of a kind, the one is meant that stands where
    the other task's does; in LIBERO-Spatial that is the second bowl, or none.

    Returns:
        None if something that it is about is not in this scene, or if reaching one of the two goals
        would be part of reaching the other one.
    """
    here, there = problem(task), problem(other)
    names = {name for _, *names in there["goal_state"] for name in names}
    meant = {name: _meant(name, here, there) for name in names}
    found = {name for name in meant.values() if name is not None}
    if len(found) < len(names):  # one is missing, or stands for two
        return None
    goal = [[word, *(str(meant[name]) for name in args)] for word, *args in there["goal_state"]]
    own = here["goal_state"]
    return None if all(g in own for g in goal) or all(g in goal for g in own) else goal


def _meant(name: str, here: dict[str, Any], there: dict[str, Any]) -> str | None:
    """The object, fixture or region of one scene that a name of another scene stands for."""
    kinds = {each: kind for kind, names in here["objects"].items() for each in names}
    kind = next((kind for kind, names in there["objects"].items() if name in names), None)
    if kind is None:
        fixtures = [each for names in here["fixtures"].values() for each in names]
        return name if name in fixtures or name in here["regions"] else None
    alike = [each for each in kinds if kinds[each] == kind]
    if len(alike) > 1:
        alike = [each for each in alike if _place(each, here) == _place(name, there)]
    return alike[0] if len(alike) == 1 else None


def _place(name: str, problem: dict[str, Any]) -> list[str] | None:
    """Where an object is at the start: a predicate and what it is on or in."""
    placed = (fact for fact in problem["initial_state"] if len(fact) == 3 and fact[1] == name)
    return next(([word, where] for word, _, where in placed), None)
