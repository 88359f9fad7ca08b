"""Evaluation of a policy on a suite: in parallel, resumable, officially unless told otherwise."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from libra_vla.errors import LibraError
from libra_vla.evaluation.config import OFFICIAL_TRIALS, EvalConfig
from libra_vla.evaluation.journal import Journal
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.evaluation.results import results_of, summarise
from libra_vla.evaluation.trial import Job, Trial, run_trial
from libra_vla.execution.config import ExecutionConfig
from libra_vla.files import alone_in_out, write_json
from libra_vla.simulation.benchmark import Benchmark, Task
from libra_vla.simulation.registry import benchmark_of
from libra_vla.versions import versions
from libra_vla.workers import fan_out

OnProgress = Callable[[Trial, int, int], None]


@alone_in_out
def evaluate(
    config: EvalConfig,
    *,
    on_progress: OnProgress | None = None,
    benchmark: Benchmark | None = None,
    load_policy: LoadPolicy = load_policy,
    position: int = 0,
) -> dict[str, Any]:
    """Runs the evaluation and returns what it wrote to `results.json`.

    Args:
        on_progress: called with each trial that ends, the number of finished ones and of all;
            by default a progress bar is shown.
        benchmark: where tasks and scenes come from; by default the one that has the suite.
        load_policy: where the policy comes from.
        position: line of the progress bar, for evaluations side by side.

    Raises:
        LibraError: the configuration, the policy or the output folder does not fit.
        KeyboardInterrupt: stopped by the user; the message says how far it came and how to go on.
            `results.json` then holds what is known so far.
    """
    began = time.monotonic()
    benchmark = benchmark or benchmark_of(config.suite)
    benchmark.require(
        meshes=config.meshes, spread=config.spread, moves=config.move_object is not None
    )
    config = replace(config, image_size=config.image_size or benchmark.image_size)
    tasks = benchmark.choose(config.suite, config.tasks)
    suite = benchmark.tasks(config.suite)
    instructed_by = _instructed_by(suite, tasks, config.instruction_from or {})
    if config.instruction == "permuted":
        instructed_by = permuted(tasks, benchmark.tells)
        tasks = [task for task in tasks if task.index in instructed_by]
    execution, evaluated = _inspect(config, benchmark, load_policy)
    jobs = _jobs(config, benchmark, load_policy, execution, tasks, instructed_by)
    told = {job.task.index: job.instruction for job in jobs}
    journal = Journal(
        config.out, _identity(config, execution, evaluated["policy"]), resume=config.resume
    )
    if beyond := journal.trials.keys() - {_key(job) for job in jobs}:
        raise LibraError(
            f"{config.out} already has {1 + max(trial for _, trial in beyond)} trials of a task: "
            f"ask for at least as many (got {config.episodes}), or choose another folder"
        )

    def write(*, complete: bool) -> dict[str, Any]:
        trials = [journal.trials[key] for key in sorted(journal.trials)]
        results = results_of(trials, tasks, instructed_by, told, explained=config.explain_failures)
        results |= {
            "complete": complete,
            **evaluated,
            "suite": config.suite,
            "protocol": _protocol(config, tasks, benchmark),
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


def _inspect(
    config: EvalConfig, benchmark: Benchmark, load_policy: LoadPolicy
) -> tuple[ExecutionConfig, dict[str, Any]]:
    """Loads the policy once, only to check the request against it and to say what it is."""
    policy = load_policy(config.policy, config.device)
    policy.action_space.convention.require_equal(
        benchmark.convention, mine="the policy", theirs=config.suite
    )
    described = {"policy": policy.describe(), "action_space": policy.action_space.to_json()}
    # As it will be read back: what is returned equals what was written.
    return config.execution.resolve(policy), json.loads(json.dumps(described))


def _key(job: Job) -> tuple[int, int]:
    return job.task.index, job.trial


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


def permuted(tasks: Sequence[Task], tells: Callable[[Task, Task], bool] | None) -> dict[int, Task]:
    """Task index -> the next one of these tasks, round and round, that its scene can tell.

    Raises:
        LibraError: no scene can tell another task's goal.
    """
    found = {}
    for position, task in enumerate(tasks):
        others = (*tasks[position + 1 :], *tasks[:position])
        if (other := next((o for o in others if tells and tells(task, o)), None)) is not None:
            found[task.index] = other
    if not found:
        raise LibraError(
            f"none of the {len(tasks)} tasks of {tasks[0].suite} can tell in its scene whether "
            "another one's goal is reached: choose more tasks, or another suite"
        )
    return found


def _jobs(
    config: EvalConfig,
    benchmark: Benchmark,
    load_policy: LoadPolicy,
    execution: ExecutionConfig,
    tasks: Sequence[Task],
    instructed_by: Mapping[int, Task],
) -> list[Job]:
    """One job per trial, task by task, so that a worker can keep its environment."""
    jobs = []
    recorded = config.episodes if config.videos == "failures" else config.videos
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
                    load_policy=load_policy,
                    execution=execution,
                    benchmark=benchmark,
                    task=task,
                    trial=trial,
                    seed=int(seeds.generate_state(1)[0]),
                    init_state=None if states is None else states[trial],
                    spread=config.spread,
                    step_budget=config.max_steps or task.step_budget,
                    image_size=config.image_size or benchmark.image_size,
                    meshes=config.meshes,
                    instructed_by=instructed_by.get(task.index),
                    paraphrase=config.paraphrase,
                    record=config.out if recorded > trial else None,
                    failures_only=config.videos == "failures",
                    explain=config.explain_failures,
                    timing=config.timing,
                    moved_object=config.moved_object,
                )
            )
    return jobs


def _is_official(config: EvalConfig, benchmark: Benchmark) -> bool:
    """Whether nothing departs from the benchmark's protocol."""
    changes = config.max_steps, config.instruction_from, config.real_time, config.move_object
    chosen = (
        config.instruction, config.states, config.meshes, config.image_size, config.episodes,
    )  # fmt: skip
    return not any(changes) and config.paraphrase is None and chosen == (
        "own", "official", "stock", benchmark.image_size, OFFICIAL_TRIALS,
    )  # fmt: skip


def _protocol(config: EvalConfig, tasks: Sequence[Task], benchmark: Benchmark) -> dict[str, Any]:
    return {
        "official": _is_official(config, benchmark),
        "trials": config.episodes,
        "settle_steps": benchmark.settle_steps,
        "step_budget": config.max_steps or max(task.step_budget for task in tasks),
        "image_size": config.image_size,
        "initial_states": config.states,
        "spread": config.spread,
        "meshes": config.meshes,
        "moved_object": config.move_object,
        "instruction": config.instruction,
        "paraphrase": config.paraphrase,
        "time": asdict(config.timing),
    }


def _identity(
    config: EvalConfig, execution: ExecutionConfig, described: Mapping[str, Any]
) -> dict[str, Any]:
    """What must not change when an evaluation is resumed; more trials may be asked for."""
    settings = config.decisive | asdict(execution)
    del settings["episodes"]
    return settings | {f"policy {key}": value for key, value in described.items()}
