"""Evaluation of a policy on a suite: in parallel, resumable, officially unless told otherwise."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from libra_vla.errors import LibraError
from libra_vla.evaluation.benchmark import LIBERO, Benchmark
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.journal import Journal
from libra_vla.evaluation.results import results_of, summarise
from libra_vla.evaluation.trial import Job, Trial, run_trial
from libra_vla.execution.config import ExecutionConfig
from libra_vla.files import write_json
from libra_vla.simulation.suites import Task, parse_indices
from libra_vla.versions import versions
from libra_vla.workers import fan_out

OnProgress = Callable[[Trial, int, int], None]


def evaluate(
    config: EvalConfig,
    *,
    on_progress: OnProgress | None = None,
    benchmark: Benchmark = LIBERO,
    position: int = 0,
) -> dict[str, Any]:
    """Runs the evaluation and returns what it wrote to `results.json`.

    Args:
        on_progress: called with each trial that ends, the number of finished ones and of all;
            by default a progress bar is shown.
        benchmark: where tasks, scenes and policies come from.
        position: line of the progress bar, for evaluations side by side.

    Raises:
        LibraError: the configuration, the policy or the output folder does not fit.
        KeyboardInterrupt: stopped by the user; the message says how far it came and how to go on.
            `results.json` then holds what is known so far.
    """
    began = time.monotonic()
    suite = benchmark.tasks(config.suite)
    tasks = _chosen(suite, config.tasks)
    instructed_by = _instructed_by(suite, tasks, config.instruction_from or {})
    execution, described = _inspect(config, benchmark)
    jobs = _jobs(config, benchmark, execution, tasks, instructed_by)
    told = {job.task.index: job.instruction for job in jobs}
    journal = Journal(config.out, _identity(config, execution, described), resume=config.resume)

    def write(*, complete: bool) -> dict[str, Any]:
        trials = [journal.trials[key] for key in sorted(journal.trials)]
        results = results_of(trials, tasks, instructed_by, told)
        results |= {
            "complete": complete,
            "policy": described,
            "suite": config.suite,
            "protocol": _protocol(config, tasks, benchmark.settle_steps),
            **asdict(execution),
            "seeds": {"evaluation": config.seed, "trial": "SeedSequence([seed, task, trial])"},
            "versions": versions(),
            "wall_s": round(time.monotonic() - began, 3),
        }
        write_json(config.out / "results.json", results)
        return results

    try:
        _run(jobs, journal, config, on_progress, position)
    except KeyboardInterrupt:
        if journal.trials:
            write(complete=False)
        raise KeyboardInterrupt(
            f"stopped after {len(journal.trials)} of {len(jobs)} trials: run the same command "
            "with --resume to go on"
        ) from None
    return write(complete=True)


def _run(
    jobs: Sequence[Job],
    journal: Journal,
    config: EvalConfig,
    on_progress: OnProgress | None,
    position: int,
) -> None:
    """Runs the jobs that `journal` has no outcome of yet, and writes theirs into it."""
    done = journal.trials
    todo = [job for job in jobs if (t := done.get(_key(job))) is None or t.error is not None]
    hidden = on_progress is not None
    outcomes = fan_out(run_trial, todo, workers=config.workers)
    with (
        closing(outcomes),  # pyright: ignore[reportArgumentType] # a generator: workers end here
        tqdm(total=len(jobs), initial=len(jobs) - len(todo), unit="trial", disable=hidden) as bar,
    ):
        for outcome in outcomes:
            trial = outcome.value
            if trial is None:  # the worker died or broke outside of the episode
                trial = Trial.of(todo[outcome.index], error=" ".join(str(outcome.error).split()))
            journal.append(trial)
            so_far = summarise(list(done.values()))
            bar.update()
            solved = (
                "none yet" if so_far["success_rate"] is None else f"{so_far['success_rate']:.1%}"
            )
            bar.set_postfix_str(f"success {solved}, {so_far['errors']} errors")
            if on_progress is not None:
                on_progress(trial, len(done), len(jobs))


def _inspect(config: EvalConfig, benchmark: Benchmark) -> tuple[ExecutionConfig, dict[str, Any]]:
    """Loads the policy once, only to check the request against it and to say what it is."""
    policy = benchmark.load_policy(config.policy, config.device)
    return config.execution.resolve(policy), policy.describe()


def _key(job: Job) -> tuple[int, int]:
    return job.task.index, job.trial


def _chosen(suite: Sequence[Task], text: str | None) -> list[Task]:
    """Picks the tasks that "0,3" or "0-4" names, in the suite's order; all of them for None."""
    known = {task.index for task in suite}
    indices = parse_indices(text) or sorted(known)
    if unknown_indices := set(indices) - known:
        raise LibraError(
            f"{suite[0].suite} has no task {min(unknown_indices)}: expected 0 to {max(known)}"
        )
    return [task for task in suite if task.index in indices]


def _instructed_by(
    suite: Sequence[Task], tasks: Sequence[Task], swaps: Mapping[int, int]
) -> dict[int, Task]:
    """Task index -> the task whose instruction it gets."""
    chosen, known = {t.index for t in tasks}, {t.index: t for t in suite}
    for task, other in swaps.items():
        if task not in chosen or other not in known:
            raise LibraError(
                f"cannot give task {task} the instruction of task {other}: expected a task that "
                f"is evaluated ({sorted(chosen)}) and one of the suite"
            )
    return {task: known[other] for task, other in swaps.items()}


def _jobs(
    config: EvalConfig,
    benchmark: Benchmark,
    execution: ExecutionConfig,
    tasks: Sequence[Task],
    instructed_by: Mapping[int, Task],
) -> list[Job]:
    """One job per trial, task by task, so that a worker can keep its environment."""
    jobs = []
    for task in tasks:
        states = benchmark.official_states(task) if config.states == "official" else None
        if states is not None and config.episodes > len(states):
            raise LibraError(
                f"{task.suite} has {len(states)} official initial states per task: ask for at most "
                f"that many episodes (got {config.episodes}), or set states to sampled"
            )
        for trial in range(config.episodes):
            seeds = np.random.SeedSequence([config.seed, task.index, trial])
            jobs.append(
                Job(
                    policy=config.policy,
                    device=config.device,
                    execution=execution,
                    benchmark=benchmark,
                    task=task,
                    trial=trial,
                    seed=int(seeds.generate_state(1)[0]),
                    init_state=None if states is None else states[trial],
                    spread=config.spread,
                    step_budget=config.max_steps or task.step_budget,
                    image_size=config.image_size,
                    meshes=config.meshes,
                    instructed_by=instructed_by.get(task.index),
                    paraphrase=config.paraphrase,
                    record=config.out if trial < config.videos else None,
                    timing=config.timing,
                    moved_object=config.moved_object,
                )
            )
    return jobs


def _protocol(config: EvalConfig, tasks: Sequence[Task], settle_steps: int) -> dict[str, Any]:
    return {
        "official": config.is_official,
        "trials": config.episodes,
        "settle_steps": settle_steps,
        "step_budget": config.max_steps or max(task.step_budget for task in tasks),
        "image_size": config.image_size,
        "initial_states": config.states,
        "spread": config.spread,
        "meshes": config.meshes,
        "moved_object": config.move_object,
        "paraphrase": config.paraphrase,
        "time": asdict(config.timing),
    }


def _identity(
    config: EvalConfig, execution: ExecutionConfig, described: Mapping[str, Any]
) -> dict[str, Any]:
    """What must not change when an evaluation is resumed."""
    free = ("policy", "out", "workers", "device", "videos", "resume")
    settings = {k: v for k, v in asdict(config).items() if k not in free} | asdict(execution)
    return settings | {f"policy {key}": value for key, value in described.items()}
