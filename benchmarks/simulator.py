"""Collecting and evaluating beside LIBERO's stock environment loop, in turns, in one run.

python benchmarks/simulator.py --policy runs/quickstart/policies/Libra --out runs/simulator

Each contender has a process of its own, since several renderers in one process disturb each other.
They take turns, and never run at the same time.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from libra_vla.files import write_json
from libra_vla.observation import Observation
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.suites import SETTLE_STEPS, load_tasks, official_states
from libra_vla.versions import versions
from libra_vla.workers import THREADS

CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}


class Outcome(NamedTuple):
    """One episode: control steps, seconds by the clock and of one core (reset included), and the
    actions carried out."""

    steps: int
    seconds: float
    core_seconds: float
    actions: np.ndarray
    success: bool


@dataclass(frozen=True)
class Turn:
    """One episode that every contender runs.

    Attributes:
        state: initial state: an official one for the policy in `policy`, a sampled one for the
            expert, which demonstrates without.
    """

    task: Task
    seed: int
    state: np.ndarray
    policy: Path | None = None
    max_steps: int = 300


class Stopwatch:
    """Measures both kinds of seconds. Where others use the cores too, a core's own are steadier."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        clock, core = self._began
        return time.perf_counter() - clock, time.process_time() - core


_kept: dict[str, Any] = {}


def keep(name: str, make: Callable[[], Any]) -> Any:
    """Makes something once per process."""
    if name not in _kept:
        _kept[name] = make()
    return _kept[name]


def stock(turn: Turn) -> Outcome:
    """LIBERO's own loop: a full reset, and both cameras at every control step."""
    from libra_vla.simulation.libero.environment import stock_environment

    size = 128 if turn.policy is None else 256
    env = keep("stock", lambda: stock_environment(turn.task, size))
    watch = Stopwatch()
    np.random.seed(turn.seed)  # noqa: NPY002
    seen = env.reset()
    env.set_init_state(turn.state)
    for _ in range(SETTLE_STEPS):
        seen, *_ = env.step([0.0] * 6 + [-1.0])
    act, done = _actor(turn, SimpleNamespace(robosuite_env=env.env, task=turn.task))
    actions, success = [], False
    while not done(success) and len(actions) < turn.max_steps:
        last = seen
        actions.append(act(lambda: _observation(last, turn.task)))  # noqa: B023
        seen, _, success, _ = env.step(actions[-1])
    return Outcome(len(actions), *watch.read(), np.array(actions), bool(success))


def libra(turn: Turn, meshes: str = "stock", draw_every: int = 1) -> Outcome:
    """The same with this package's environment."""
    from libra_vla.simulation.libero.environment import LiberoEnv

    size = 128 if turn.policy is None else 256
    env = keep("libra", lambda: LiberoEnv(turn.task, image_size=size, meshes=meshes))  # pyright: ignore
    watch = Stopwatch()
    env.reset(seed=turn.seed, init_state=turn.state)
    act, done = _actor(turn, env)
    actions, success = [], False
    while not done(success) and len(actions) < turn.max_steps:
        if turn.policy is None and len(actions) % draw_every == 0:
            env.observe()  # a demonstration's frame; the expert looks at none
        actions.append(act(env.observe))
        success = env.step(actions[-1])
    return Outcome(len(actions), *watch.read(), np.array(actions), bool(success))


def libra_decimated(turn: Turn) -> Outcome:
    """With the coarser meshes that demonstrations are collected with."""
    return libra(turn, "decimated")


def libra_sparse(turn: Turn) -> Outcome:
    """And with a picture at every fifth control step."""
    return libra(turn, "decimated", draw_every=5)


def _actor(turn: Turn, env: Any) -> tuple[Callable[..., np.ndarray], Callable[[bool], bool]]:
    """Returns what acts, and what tells (from the last success) that the episode is over."""
    if turn.policy is None:
        from libra_vla.simulation.libero.expert import ScriptedExpert

        expert = ScriptedExpert(env)
        expert.reset()
        return lambda _: expert.act(), lambda _: expert.done
    from libra_vla.execution.executor import Executor
    from libra_vla.policies.policy import load_policy

    executor = Executor(keep("policy", lambda: load_policy(turn.policy or "")))
    executor.reset(turn.seed)
    return executor.act, lambda success: success


def _observation(seen: dict[str, Any], task: Task) -> Observation:
    from robosuite.utils.transform_utils import quat2axisangle

    images = {name: seen[f"{key}_image"][::-1, ::-1] for name, key in CAMERAS.items()}
    state = [seen["robot0_eef_pos"], quat2axisangle(seen["robot0_eef_quat"])]
    state = np.concatenate([*state, seen["robot0_gripper_qpos"]]).astype(np.float32)
    return Observation(images, state, task.instruction)


def compare(contenders: list[Callable[[Turn], Outcome]], turns: list[Turn]) -> dict[str, Any]:
    """Lets contenders take turns; the first turn warms up; ratios are to the first contender."""
    context = get_context("spawn")
    os.environ.update(dict.fromkeys(THREADS, "1"))  # a core each, as `libra` gives its workers
    outcomes: dict[str, list[Outcome]] = {run.__name__: [] for run in contenders}
    pools = [ProcessPoolExecutor(1, mp_context=context) for _ in contenders]
    for number, turn in enumerate(turns):
        for run, pool in zip(contenders, pools, strict=True):
            outcome = pool.submit(run, turn).result()
            if number:
                outcomes[run.__name__].append(outcome)
            print(
                f"{number:2d} {run.__name__:16s} {outcome.steps:4d} steps {outcome.seconds:6.1f} s",
                f"{outcome.core_seconds:6.1f} s of a core",
                flush=True,
            )
    for pool in pools:
        pool.shutdown()
    first = outcomes[contenders[0].__name__]
    return {
        **{kind: _speed(outcomes, kind) for kind in ("seconds", "core_seconds")},
        "same_actions": {
            name: all(np.array_equal(a.actions, b.actions) for a, b in zip(first, os, strict=True))
            for name, os in outcomes.items()
        },
        "successes": {name: sum(o.success for o in os) for name, os in outcomes.items()},
        "episodes": len(first),
    }


def _speed(outcomes: dict[str, list[Outcome]], kind: str) -> dict[str, Any]:
    """Milliseconds per control step, and how many times as fast as the first contender."""
    per_step = {
        name: sum(getattr(o, kind) for o in done) / sum(o.steps for o in done)
        for name, done in outcomes.items()
    }
    reference = next(iter(per_step.values()))
    return {
        "ms_per_step": {name: round(1e3 * seconds, 2) for name, seconds in per_step.items()},
        "times_as_fast": {name: round(reference / s, 2) for name, s in per_step.items()},
    }


def sampled_states(task: Task, seeds: range) -> list[np.ndarray]:
    """States to demonstrate from: the stock loop's own resets leave the arm where it always is."""
    from libra_vla.simulation.libero.environment import LiberoEnv

    env = LiberoEnv(task, render=False)
    states = []
    for seed in seeds:
        env.reset(seed=seed)
        states.append(env.robosuite_env.sim.get_state().flatten())
    env.close()
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", default="libero_goal")
    parser.add_argument("--task", type=int, default=1)
    parser.add_argument("--policy", type=Path, help="also compares its evaluation")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    task = load_tasks(options.suite, [options.task])[0]
    seeds = range(options.episodes + 1)
    turns = [Turn(task, *start) for start in zip(seeds, sampled_states(task, seeds), strict=True)]
    result: dict[str, Any] = {
        "collecting": compare([stock, libra, libra_decimated, libra_sparse], turns)
    }
    if options.policy:
        states = official_states(task)
        turns = [Turn(task, s, states[s], options.policy) for s in seeds]
        result["evaluating"] = compare([stock, libra], turns)
        if not all(result["evaluating"]["same_actions"].values()):
            raise SystemExit("the policy acted differently in the stock environment")
    write_json(options.out / "simulator.json", result | {"versions": versions()})
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
