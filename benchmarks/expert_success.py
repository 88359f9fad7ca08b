"""How often the scripted expert succeeds, by task, from sampled resets.

python benchmarks/expert_success.py --suite libero_spatial --resets 20 --out runs/expert
"""

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libra_vla.evaluation.statistics import wilson
from libra_vla.files import write_json
from libra_vla.simulation.benchmark import Task, keep_environment
from libra_vla.simulation.registry import benchmark_of
from libra_vla.versions import versions
from libra_vla.workers import fan_out

FIRST_SEED = 100_000
"""Apart from those of demonstrations, which start at 0."""


@dataclass(frozen=True)
class Job:
    task: Task
    reset: int
    spread: float
    noise: float
    max_steps: int
    first_seed: int


def attempt(job: Job) -> tuple[bool, int]:
    """Whether the task was really finished, as the expert sees it, and in how many steps."""
    benchmark = benchmark_of(job.task.suite)
    env = keep_environment(benchmark, job.task, render=False)
    moving = np.arange(benchmark.convention.size) != benchmark.convention.gripper
    rng = np.random.default_rng([job.task.index, job.reset])
    env.reset(seed=job.first_seed + job.reset, spread=job.spread)
    expert = benchmark.make_expert(env, seed=job.reset)
    expert.reset()
    steps = 0
    while not expert.done and steps < job.max_steps:
        action = expert.act()
        action[moving] += job.noise * rng.standard_normal(moving.sum())
        env.step(np.clip(action, -1.0, 1.0))
        steps += 1
    return bool(expert.done and expert.succeeded), steps


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
    tasks = benchmark.choose(options.suite, options.tasks)
    jobs = [
        Job(task, reset, options.spread, options.noise, options.max_steps, options.first_seed)
        for task in tasks
        for reset in range(options.resets)
    ]
    found: dict[int, list[tuple[bool, int]]] = defaultdict(list)
    for outcome in tqdm(fan_out(attempt, jobs, workers=options.workers), total=len(jobs)):
        if outcome.error:
            raise SystemExit(outcome.error)
        found[jobs[outcome.index].task.index].append(outcome.value)
    rows = []
    for task in tasks:
        successes = sum(success for success, _ in found[task.index])
        steps = [n for success, n in found[task.index] if success]
        rows.append(
            {
                "task": task.index,
                "instruction": task.instruction,
                "successes": successes,
                "resets": options.resets,
                "ci95": wilson(successes, options.resets),
                "mean_steps": float(np.mean(steps)) if steps else None,
            }
        )
        print(f"{task.index:3d} {successes:3d}/{options.resets}  {task.instruction}")
    settings = {k: v for k, v in vars(options).items() if k != "out"}
    name = f"{options.suite}-spread{options.spread:g}-noise{options.noise:g}.json"
    write_json(options.out / name, {"settings": settings, "tasks": rows, "versions": versions()})
    print(json.dumps({"total": sum(r["successes"] for r in rows), "of": len(jobs)}))


if __name__ == "__main__":
    main()
