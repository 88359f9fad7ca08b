"""A scripted policy and a toy environment: everything above them is tested without a network.

They live at module level, with picklable factories, so that worker processes can make them too.
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.simulation.benchmark import Benchmark, Places, Still, Task
from libra_vla.simulation.events import Events, GoalEvents, Thing
from libra_vla.views import View

CONVENTION = ActionConvention(
    names=("x", "y", "gripper"),
    units=("1", "1", "1"),
    representation="delta position",
    rate_hz=20.0,
    gripper=2,
)
SPACE = ActionSpace(CONVENTION, bins=(10, 10, 10), low=(-1.0,) * 3, high=(1.0,) * 3)
SPEC = ObservationSpec(cameras=("agentview",), state_size=3)


class Clock:
    """A clock that only moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def observation(step: int = 0, state: Any = (0.0, 0.0, 0.0)) -> Observation:
    image = np.full((8, 8, 3), step % 256, dtype=np.uint8)
    return Observation({"agentview": image}, np.asarray(state, np.float32), "go there", step)


@dataclass
class ScriptedPolicy:
    """Intends bin `(observation step + i) % 10` for row i, and acts on their centres.

    Every raw action carries the control step it was refined for in "y" (in thousandths), so that
    a test sees what was executed, when. `clock` is moved by `plan_s` and `refine_s`.
    """

    chunk: int = 5
    horizon_factor: int = 2
    clock: Clock | None = None
    plan_s: float = 0.0
    refine_s: float = 0.0
    bad_step: int | None = None
    action_space: ActionSpace = SPACE
    observation_spec: ObservationSpec = SPEC
    calls: list[tuple[str, int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self.calls.clear()

    def plan(self, observation: Observation) -> Plan:
        self.calls.append(("plan", observation.step))
        self._spend(self.plan_s)
        length = self.chunk * self.horizon_factor
        rows = (observation.step + np.arange(length)) % 10
        coarse = np.repeat(rows[:, None], self.action_space.size, axis=1)
        distribution = np.eye(10, dtype=np.float32)[coarse] * 0.75
        return Plan(coarse, distribution, observation.step)

    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        self.calls.append(("refine", observation.step))
        self._spend(self.refine_s)
        actions = self.action_space.decode(coarse)
        actions[:, 1] = (observation.step + np.arange(self.chunk)) / 1000
        if observation.step == self.bad_step:
            actions[1, 0] = np.nan
        return actions

    def _spend(self, seconds: float) -> None:
        if self.clock is not None:
            self.clock.now += seconds

    def describe(self) -> dict[str, Any]:
        return {
            "preset": "scripted",
            "kind": "libra",
            "parameters": 0,
            "N": 10,
            "M": self.horizon_factor,
            "H": self.chunk,
            "checkpoint_hash": "0" * 64,
        }


SOLVED, TIMEOUT, RAISES, DIES, SLOW = range(5)


class ToyEnv:
    """Its initial state [outcome] says what becomes of an episode, at its sixth step."""

    convention = CONVENTION

    def __init__(self, task: Task, image_size: int = 8) -> None:
        self.task, self.image_size = task, image_size
        self.cameras = ("agentview",)
        self.renders = 0
        self.closed = False

    def reset(
        self, *, seed: int, init_state: np.ndarray | None = None, spread: float = 0.0
    ) -> None:
        self.seed, self.steps = seed, 0
        self.outcome = TIMEOUT if init_state is None else int(init_state[0])
        self.position = np.zeros(3)

    def observe(self) -> Observation:
        self.renders += bool(self.cameras)
        seen = observation(self.steps, self.position)
        shape = (self.image_size, self.image_size, 3)
        images = {name: np.resize(seen.images[name], shape) for name in self.cameras}
        return Observation(images, seen.state, self.task.instruction, seen.step)

    def step(self, action: np.ndarray) -> bool:
        self.steps += 1
        self.position[0] += 0.01 * action[0]
        if self.steps < 6:
            return False
        if self.outcome == RAISES:
            raise RuntimeError("the simulation is unstable\nsecond line")
        if self.outcome == DIES:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.outcome == SLOW:
            time.sleep(0.5)
        return self.outcome in (SOLVED, SLOW)

    def close(self) -> None:
        self.closed = True


def toy_tasks(suite: str) -> list[Task]:
    return [Task(suite, i, f"task_{i}", f"do number {i}", step_budget=8) for i in range(3)]


def toy_states(task: Task) -> np.ndarray:
    """Task 0 is solved but for one timeout, task 1 has every misfortune, task 2 is slow."""
    outcomes = {
        0: [SOLVED, TIMEOUT, SOLVED, SOLVED],
        1: [SOLVED, RAISES, DIES, TIMEOUT],
        2: [SLOW, SLOW, SLOW, SLOW],
    }
    return np.array(outcomes[task.index])[:, None]


def make_toy(task: Task, *, image_size: int = 8, **options: Any) -> ToyEnv:
    return ToyEnv(task, image_size)


def load_scripted(folder: Path | str, device: str) -> ScriptedPolicy:
    folder = Path(folder)  # from another process it comes as text
    if folder.name == "missing":
        raise LibraError(f"{folder} holds no policy")
    if folder.name == "other_robot":
        convention = ActionConvention(("x", "y", "z"), ("1",) * 3, "delta position", 20.0)
        return ScriptedPolicy(action_space=ActionSpace(convention, (10,) * 3, (-1,) * 3, (1,) * 3))
    if folder.name == "other_camera":
        return ScriptedPolicy(observation_spec=ObservationSpec(("wrist",), 3))
    return ScriptedPolicy()


class ToyExpert:
    """Acts three times, and succeeds where the seed is even."""

    def __init__(self, env: ToyEnv, *, seed: int = 0) -> None:
        self.env, self.seed = env, seed

    def reset(self) -> None:
        self.left, self.succeeded = 3, False

    @property
    def done(self) -> bool:
        return self.left == 0

    def act(self) -> np.ndarray:
        self.left -= 1
        self.succeeded = self.done and self.seed % 2 == 0
        return np.array([1.0, 0.0, -1.0])


def toy_supports(task: Task) -> bool:
    return True


def watch_toy(env: ToyEnv, other: Task) -> Callable[[], bool] | None:
    return (lambda: env.steps == 3) if other.index == 1 else None


def toy_end_effector(env: ToyEnv) -> np.ndarray:
    return env.position.copy()


def toy_tells(task: Task, other: Task) -> bool:
    return other.index == 1 and task.index != 1


class ToyWitness:
    """Task 0 fails with the wrong object in the hand, the others without having touched theirs."""

    def __init__(self, env: ToyEnv, task: Task) -> None:
        self.env, self.looks = env, 0

    def look(self) -> None:
        self.looks += 1

    def events(self) -> Events:
        assert self.looks == self.env.steps
        goal = GoalEvents("on", "cube", "tray", met=False)
        right, wrong = Thing(part=False, nearest=0.05), Thing(part=False, nearest=0.0, lifted=0.1)
        return Events(
            (goal,), {"cube": right, "ball": wrong if self.env.task.index == 0 else right}
        )


def move_toy(env: ToyEnv, metres: float, rng: np.random.Generator) -> None:
    env.position[1] += metres * rng.choice([-1.0, 1.0])


def toy_stills(env: ToyEnv, count: int, rng: np.random.Generator) -> list[Still]:
    """One less than asked for, as where a place is out of reach."""
    taken = []
    for _ in range(count - 1):
        env.position = rng.uniform(-0.1, 0.1, 3)
        cube = {"cube": np.array([0.1, 0.2, 0.3])} if env.task.index else {}
        taken.append(Still(env.observe(), cube | toy_whereabouts(env)(), ("tray", "tray")))
    return taken


def toy_whereabouts(env: ToyEnv) -> Callable[[], Places]:
    return lambda: {"tray": np.array([0.0, env.steps, 1.0 + env.seed % 7])}


def toy_asked(task: Task) -> tuple[str, ...]:
    return ("tray", "tray")


def toy_views(env: ToyEnv) -> dict[str, View]:
    return {"agentview": View(False, 1.0, (0.0, 0.0, 1.0), ((1, 0, 0), (0, -1, 0), (0, 0, -1)))}


def toy_place_names() -> tuple[str, ...]:
    return ("ball", "cube", "tray")


TOY = Benchmark(
    name="Toy",
    suites=("toy",),
    tasks=toy_tasks,
    official_states=toy_states,
    make_env=make_toy,
    make_expert=ToyExpert,
    supports=toy_supports,
    convention=CONVENTION,
    cameras=("agentview",),
    state_names=CONVENTION.names,
    end_effector=toy_end_effector,
    watch_goal=watch_toy,
    move_object=move_toy,
    settle_steps=0,
    image_size=8,
    tells=toy_tells,
    witness=ToyWitness,
    stills=toy_stills,
    place_names=toy_place_names,
    whereabouts=toy_whereabouts,
    asked=toy_asked,
    views=toy_views,
)
