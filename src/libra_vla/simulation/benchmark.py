"""What a benchmark is: tasks, their environments, an expert for them, and how a policy is tested.

Collecting, evaluating and the studies know a benchmark by this alone; `registry` has those that
there are.
"""

import atexit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from libra_vla.action_space import ActionConvention
from libra_vla.errors import LibraError, unknown
from libra_vla.observation import Observation
from libra_vla.simulation.events import Events
from libra_vla.views import View


@dataclass(frozen=True)
class Task:
    """One task of a suite.

    Attributes:
        suite: name of the suite.
        index: position in the suite's official order.
        name: short name, unique in its suite.
        instruction: what the policy is told.
        step_budget: control steps after settling.
    """

    suite: str
    index: int
    name: str
    instruction: str
    step_budget: int


class Environment(Protocol):
    """A simulated scene of one task; `libra_vla.simulation.libero.environment.LiberoEnv` is one.

    Attributes:
        convention: what its raw actions mean.
        cameras: which ones `observe` renders; may be changed at any time.
    """

    @property
    def cameras(self) -> tuple[str, ...]: ...

    @cameras.setter
    def cameras(self, cameras: tuple[str, ...]) -> None: ...

    @property
    def convention(self) -> ActionConvention: ...

    def reset(
        self, *, seed: int, init_state: np.ndarray | None = None, spread: float = 0.0
    ) -> object:
        """Starts an episode and lets the scene settle."""
        ...

    def observe(self) -> Observation:
        """Returns the present moment; renders, so it is called only when a policy looks."""
        ...

    def step(self, action: np.ndarray) -> bool:
        """Carries one raw action [D] out; returns whether the task is solved."""
        ...

    def close(self) -> None: ...


class Expert(Protocol):
    """Demonstrates a task with privileged state; made for an environment, whoever steps that.

    Attributes:
        done: the demonstration is over: the task is finished, or the expert has given up.
        succeeded: the task is finished.
    """

    @property
    def done(self) -> bool: ...

    @property
    def succeeded(self) -> bool: ...

    def reset(self) -> None:
        """Looks at the scene after the environment's reset."""
        ...

    def act(self) -> np.ndarray:
        """Returns the raw action [D] for the present moment."""
        ...


class Witness(Protocol):
    """Watches a scene from its reset on, so that a failure can be explained."""

    def look(self) -> None:
        """Takes note of the present moment; called after every control step."""
        ...

    def events(self) -> Events:
        """Returns what has happened so far."""
        ...


Places = Mapping[str, np.ndarray]
"""Where things are, by name: metres [3] in the frame of the state's end-effector position."""


@dataclass(frozen=True)
class Still:
    """What a scene looks like, and where its things are.

    Attributes:
        asked: names of the places that the task is about, K of them: for each of its goals the
            thing and where it is to go.
    """

    observation: Observation
    places: Places
    asked: tuple[str, ...]


@dataclass(frozen=True)
class Benchmark:
    """What collecting and evaluating are made of; functions of a module, so that workers find them.

    Attributes:
        name: as it is written.
        suites: names of its suites; no other benchmark has one of the same name.
        tasks: suite -> its tasks, in the benchmark's order.
        official_states: task -> initial states [trials, K] that only evaluations start from.
        make_env: (task, image_size=, meshes=, cameras=, render=) -> environment.
        make_expert: (environment, seed=) -> expert.
        supports: task -> whether the expert can do it.
        convention: what actions mean.
        cameras: names of all cameras, as a dataset holds them.
        state_names: names of the proprioceptive numbers.
        end_effector: environment -> present position of the end effector [3], m.
        watch_goal: (environment, another task) -> a check whether that task's goal is reached in
            this scene, or None where the scene cannot tell.
        move_object: (environment, metres, source of randomness) moves what the task is about; None
            where nothing can be moved.
        settle_steps: control steps that `reset` spends before the first observation.
        image_size: side of the frames in an official evaluation, pixels.
        meshes: what scenes may be drawn with: "stock", the official way, first, and the way for
            demonstrations last.
        spreads: whether `reset` can spread sampled objects.
        tells: (task, another task) -> whether `watch_goal` can tell in the scene of the first; None
            where no scene can.
        witness: (environment, just reset; the task whose goals count) -> what watches the episode;
            None where nothing does.
        stills: (environment, just reset; how many; source of randomness) -> pictures of the scene
            with the hand in up to so many places; None where there are none.
        place_names: () -> names of all places that such pictures tell.
        whereabouts: (environment, just reset) -> a look at where its things are at any moment.
        asked: task -> names of the places that it is about; see `Still`.
        views: environment, just reset -> how its cameras see, by name.
    """

    name: str
    suites: tuple[str, ...]
    tasks: Callable[[str], Sequence[Task]]
    official_states: Callable[[Task], np.ndarray]
    make_env: Callable[..., Environment]
    make_expert: Callable[..., Expert]
    supports: Callable[[Task], bool]
    convention: ActionConvention
    cameras: tuple[str, ...]
    state_names: tuple[str, ...]
    end_effector: Callable[[Any], np.ndarray]
    watch_goal: Callable[[Any, Task], Callable[[], bool] | None]
    move_object: Callable[[Any, float, np.random.Generator], object] | None
    settle_steps: int
    image_size: int
    meshes: tuple[str, ...] = ("stock",)
    spreads: bool = True
    tells: Callable[[Task, Task], bool] | None = None
    witness: Callable[[Any, Task], Witness] | None = None
    stills: Callable[[Any, int, np.random.Generator], list[Still]] | None = None
    place_names: Callable[[], tuple[str, ...]] = tuple
    whereabouts: Callable[[Any], Callable[[], Places]] | None = None
    asked: Callable[[Task], tuple[str, ...]] | None = None
    views: Callable[[Any], Mapping[str, View]] | None = None

    def choose(self, suite: str, text: str | None = None) -> list[Task]:
        """Returns the tasks that `text` names, in the suite's order; all of them for None.

        Args:
            text: indices and names, such as "0,3", "0-4,7" or "drawer-open,5".

        Raises:
            LibraError: unknown suite or task (with the nearest match), or none at all.
        """
        tasks = self.tasks(suite)
        if text is None:
            return list(tasks)
        chosen: set[int] = set()
        for part in (part.strip() for part in text.split(",")):
            chosen |= _indices(part, tasks)
        return [task for task in tasks if task.index in chosen]

    def require(
        self,
        *,
        meshes: str = "stock",
        spread: float = 0.0,
        moves: bool = False,
        stills: bool = False,
    ) -> None:
        """Raises LibraError for what this benchmark's scenes cannot do."""
        if meshes not in self.meshes:
            raise unknown(f"meshes of {self.name}", meshes, self.meshes)
        if spread and not self.spreads:
            raise LibraError(f"{self.name} cannot spread its objects: leave out spread")
        if moves and self.move_object is None:
            raise LibraError(f"{self.name} has no object to move: leave out move_object")
        if stills and self.stills is None:
            raise LibraError(f"{self.name} has no stills: leave out stills")


def _indices(part: str, tasks: Sequence[Task]) -> set[int]:
    """The tasks that "3", "0-4" or a name stands for."""
    if found := {task.index for task in tasks if task.name == part}:
        return found
    first, dash, last = part.partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        known = [task.name for task in tasks]
        raise unknown(f"task of {tasks[0].suite}", part, [f"0-{len(tasks) - 1}", *known])
    wanted = set(range(int(first), int(last or first) + 1))
    if missing := wanted - {task.index for task in tasks}:
        raise LibraError(
            f"{tasks[0].suite} has no task {min(missing)}: expected 0 to {len(tasks) - 1}"
        )
    return wanted


_kept: dict[tuple[object, ...], Environment] = {}


def keep_environment(benchmark: Benchmark, task: Task, **options: Any) -> Environment:
    """Returns an environment of a task, as `benchmark.make_env` builds it.

    Building one takes seconds, and a scene is large: a process has one at a time, and keeps it
    until another task, or other options, are asked for.
    """
    key = (benchmark.name, task, *sorted(options.items()))
    if key not in _kept:
        close_environment()
        _kept[key] = benchmark.make_env(task, **options)
        # The last to register is the first to be called: before the renderer's own library ends.
        atexit.unregister(close_environment)
        atexit.register(close_environment)
    return _kept[key]


def close_environment() -> None:
    """Closes the kept environment, such as one that broke."""
    while _kept:
        _kept.popitem()[1].close()
