"""How often the scripted expert succeeds, by task, from sampled resets, and whether it dithers or
presses against something.

python benchmarks/expert_success.py --suite libero_spatial --resets 20 --out runs/expert

Goes on where it was stopped: episodes are kept one by one.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libra_vla.data.info import turns
from libra_vla.evaluation.statistics import wilson
from libra_vla.files import write_json
from libra_vla.simulation.benchmark import Task, keep_environment
from libra_vla.simulation.registry import benchmark_of
from libra_vla.versions import versions
from libra_vla.workers import fan_out

FIRST_SEED = 100_000
"""Apart from those of demonstrations, which start at 0."""
CLEAR, STILL = 0.3, 0.001
"""A command (share of the largest) with which a hand that is free moves some millimetres per step,
and the metres per step below which it does not move."""


@dataclass(frozen=True)
class Job:
    task: Task
    reset: int
    spread: float
    noise: float
    max_steps: int
    first_seed: int


@dataclass(frozen=True)
class Episode:
    """What became of one reset of a task, by their numbers.

    Attributes:
        success: whether the task was really finished, as the expert sees it.
        turns: how often the motion turned back, in the dimension where it did most.
        stalls: steps with a clear command by which the hand did not move: it presses on something.
        missing: goals that did not hold at the end, where the benchmark has a witness.
    """

    task: int
    reset: int
    success: bool
    steps: int
    turns: int
    stalls: int
    missing: list[str]


def attempt(job: Job) -> Episode:
    benchmark = benchmark_of(job.task.suite)
    env = keep_environment(benchmark, job.task, render=False)
    moving = np.arange(benchmark.convention.size) != benchmark.convention.gripper
    rng = np.random.default_rng([job.task.index, job.reset])
    env.reset(seed=job.first_seed + job.reset, spread=job.spread)
    expert = benchmark.make_expert(env, seed=job.reset)
    expert.reset()
    meant: list[np.ndarray] = []
    places = [benchmark.end_effector(env)]
    while not expert.done and len(meant) < job.max_steps:
        meant.append(expert.act())
        action = meant[-1].copy()
        action[moving] += job.noise * rng.standard_normal(moving.sum())
        env.step(np.clip(action, -1.0, 1.0))
        places.append(benchmark.end_effector(env))
    actions = np.reshape(meant, (-1, len(moving)))
    clear = np.linalg.norm(actions[:, :3], axis=1) > CLEAR
    still = np.linalg.norm(np.diff(places, axis=0), axis=1) < STILL
    goals = benchmark.witness(env, job.task).events().goals if benchmark.witness else ()
    return Episode(
        task=job.task.index,
        reset=job.reset,
        success=bool(expert.done and expert.succeeded),
        steps=len(meant),
        turns=int(turns(actions, np.ones(len(moving)))[moving].max()),
        stalls=int(np.count_nonzero(clear & still)),
        missing=[f"{goal.predicate} {goal.thing}" for goal in goals if not goal.met],
    )


def run(jobs: list[Job], journal: Path, *, workers: int) -> list[Episode]:
    """Carries out the jobs that a journal does not hold yet, and returns all their episodes."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    lines = journal.read_text().splitlines() if journal.exists() else []
    done = {(e.task, e.reset): e for e in (Episode(**json.loads(line)) for line in lines)}
    left = [job for job in jobs if (job.task.index, job.reset) not in done]
    for outcome in tqdm(fan_out(attempt, left, workers=workers), total=len(left)):
        if outcome.error:
            raise SystemExit(outcome.error)
        episode = outcome.value
        done[episode.task, episode.reset] = episode
        with journal.open("a") as file:
            file.write(json.dumps(asdict(episode)) + "\n")
    return [done[job.task.index, job.reset] for job in jobs]


def summary(task: Task, episodes: list[Episode]) -> dict[str, object]:
    """One task's row of the report."""
    steps = [episode.steps for episode in episodes if episode.success]
    return {
        "task": task.index,
        "instruction": task.instruction,
        "successes": len(steps),
        "resets": len(episodes),
        "ci95": wilson(len(steps), len(episodes)),
        "mean_steps": float(np.mean(steps)) if steps else None,
        "mean_turns": float(np.mean([episode.turns for episode in episodes])),
        "mean_stalls": float(np.mean([episode.stalls for episode in episodes])),
        "failures": [asdict(episode) for episode in episodes if not episode.success],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks")
    parser.add_argument("--resets", type=int, default=20)
    parser.add_argument("--spread", type=float, default=0.0, help="metres")
    parser.add_argument("--noise", type=float, default=0.0, help="std of the executed command")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--max-steps", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    benchmark = benchmark_of(options.suite)
    benchmark.require(spread=options.spread)
    chosen = benchmark.choose(options.suite, options.tasks)
    tasks = [task for task in chosen if benchmark.supports(task)]
    jobs = [
        Job(task, reset, options.spread, options.noise, options.max_steps, options.first_seed)
        for task in tasks
        for reset in range(options.resets)
    ]
    name = (
        f"{options.suite}-seed{options.first_seed}-steps{options.max_steps}"
        f"-spread{options.spread:g}-noise{options.noise:g}"
    )
    episodes = run(jobs, options.out / f"{name}.jsonl", workers=options.workers)
    rows = [summary(task, [e for e in episodes if e.task == task.index]) for task in tasks]
    for row in rows:
        print(
            f"{row['task']:3d} {row['successes']:3d}/{row['resets']}  "
            f"{row['mean_turns']:5.1f} turns {row['mean_stalls']:5.1f} stalls  {row['instruction']}"
        )
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    write_json(
        options.out / f"{name}.json", {"settings": settings, "tasks": rows, "versions": versions()}
    )
    successes = sum(episode.success for episode in episodes)
    skipped = len(chosen) - len(tasks)
    print(json.dumps({"total": successes, "of": len(jobs), "tasks_without_skill": skipped}))


if __name__ == "__main__":
    main()
