"""The scripted expert for LIBERO: the goals of a task, and a skill for each of them."""

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.goals import Goal, is_oven, is_pushed, task_goals
from libra_vla.simulation.libero.scene import Scene
from libra_vla.simulation.libero.skills.handles import OpenDrawer, TurnKnob
from libra_vla.simulation.libero.skills.pick_place import PickAndPlace
from libra_vla.simulation.libero.skills.pushing import CloseDoor, CloseDrawer, PushPlate
from libra_vla.simulation.libero.skills.skill import Skill

ATTEMPTS = 2
"""Skills started for one goal before the expert gives up; a skill tries more than once itself."""


def supports(task: Task) -> bool:
    """Tells whether the expert has the skills for a task."""
    try:
        task_goals(task)
    except LibraError:
        return False
    return True


class ScriptedExpert:
    """Brings the goals of a task about, one after the other, with privileged state.

    Args:
        env: the environment that is going to be stepped, by whomever.
        seed: kept for callers' bookkeeping; nothing here is random.

    Attributes:
        done: the task is finished and the hand retreated, or the expert gave up.
        succeeded: done, and the benchmark's check holds after the release.
        phase: what the present skill is at, such as reach, close, carry or retreat.

    Raises:
        LibraError: the task asks for something there is no skill for.
    """

    def __init__(self, env: LiberoEnv, *, seed: int = 0) -> None:
        self.env, self.seed = env, seed
        self._goals = task_goals(env.task)
        self.done, self.succeeded = False, False
        self._skill: Skill | None = None

    @property
    def phase(self) -> str:
        return self._skill.phase if self._skill is not None else "reach"

    @property
    def goal(self) -> Goal | None:
        """What it is bringing about, or did last; None before the first `reset`."""
        return self._skill.goal if self._skill is not None else None

    def reset(self) -> None:
        """Reads the scene after `env.reset()` and plans the first motion."""
        self._scene = Scene(self.env.robosuite_env)
        self._tries = dict.fromkeys(self._goals, 0)
        self._achieved: set[Goal] = set()
        self.done, self.succeeded = False, False
        self._next()

    def act(self) -> np.ndarray:
        """Returns the clean action [7] in [-1, 1] for the present state; gripper -1 or +1."""
        assert self._skill is not None, "reset() comes first"
        action = self._skill.act()
        if self._skill.finished:
            if self._skill.achieved:
                self._achieved.add(self._skill.goal)
            self._next()
        return action

    def _next(self) -> None:
        """Starts on the first goal that does not hold yet."""
        goal = next((goal for goal, needed in self._needed() if needed), None)
        if goal is None or self._tries[goal] == ATTEMPTS:
            self.done, self.succeeded = True, goal is None
            return
        self._tries[goal] += 1
        self._skill = _skill(self._scene, goal)

    def _needed(self) -> list[tuple[Goal, bool]]:
        """Which goals do not hold yet; one that only prepares another is idle once that holds."""
        missing = [not self._reached(goal) for goal in self._goals]
        return [
            (goal, missing[i] and (not goal.prepares or missing[i + 1]))
            for i, goal in enumerate(self._goals)
        ]

    def _reached(self, goal: Goal) -> bool:
        scene = self._scene
        return scene.holds(goal) or (goal in self._achieved and scene.rests(goal))


def _skill(scene: Scene, goal: Goal) -> Skill:
    """Returns the skill that brings a goal about."""
    match goal.predicate:
        case "open":
            return OpenDrawer(scene, goal)
        case "close" if is_oven(goal.target):
            return CloseDoor(scene, goal)
        case "close":
            return CloseDrawer(scene, goal)
        case "turnon":
            return TurnKnob(scene, goal)
        case _ if is_pushed(goal):
            return PushPlate(scene, goal)
        case _:
            return PickAndPlace(scene, goal)
