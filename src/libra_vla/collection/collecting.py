"""`libra collect`: demonstrations by the scripted experts, from sampled resets.

The official evaluation states are never used here. Each attempt is a pure function of (seed,
suite, task, attempt), and episodes are taken in the order of their attempts, so the dataset does
not depend on the number of workers.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from libra_vla.collection.attempt import Attempt, Run, demonstrate, look_around
from libra_vla.collection.config import CollectConfig
from libra_vla.collection.progress import Progress
from libra_vla.data.writer import DatasetWriter
from libra_vla.errors import LibraError, unknown
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.files import alone_in_out, require_absent
from libra_vla.simulation.benchmark import Benchmark, Task
from libra_vla.simulation.registry import benchmark_of
from libra_vla.versions import versions
from libra_vla.workers import Outcome, fan_out

PATIENCE = 5
"""A task is given up after this many more failures than wanted episodes."""
STAGING = ".episodes."
"""Prefix of the folder where workers leave videos: in the dataset, so that adopting is renaming."""


@alone_in_out
def collect(
    config: CollectConfig,
    *,
    run: Run | None = None,
    benchmark: Benchmark | None = None,
    load_policy: LoadPolicy = load_policy,
) -> dict[str, Any]:
    """Collects until every task has its episodes, and returns a summary.

    A kill at any moment loses the episodes in flight and nothing else.

    Args:
        run: what carries out an attempt; importable by name, for the worker processes. By default
            `demonstrate`, or `look_around` for stills.
        benchmark: where tasks, scenes and experts come from; by default the one that has the suite.
        load_policy: where the policy comes from, if one is to drive; likewise importable.

    Raises:
        LibraError: unknown suite or task, a task the expert has no skill for, a policy of another
            robot, an output folder that exists, a full disk, or a task whose expert fails too
            often. Where a policy drives, such a task is left with fewer episodes instead.
        KeyboardInterrupt: stopped by the user; what was collected stays.
    """
    benchmark = benchmark or benchmark_of(config.suite)
    meshes = config.meshes or benchmark.meshes[-1]
    told = config.stills > 0 or config.places
    benchmark.require(meshes=meshes, spread=config.spread, stills=told)
    run = run or (look_around if config.stills else demonstrate)
    config = replace(config, meshes=meshes)
    tasks = benchmark.choose(config.suite, config.tasks)
    _require_skills(benchmark, tasks)
    if not config.resume:
        require_absent(
            config.out, what="the dataset", remedy="choose another --out, or add --resume"
        )
    began = time.monotonic()
    settings = _settings(config) | {"policy": _checkpoint(config, benchmark, load_policy)}
    progress = Progress.load(config, settings, tasks)
    writer = DatasetWriter(
        config.out,
        fps=benchmark.convention.rate_hz,
        cameras=dict.fromkeys(benchmark.cameras, (config.image_size, config.image_size)),
        state_names=benchmark.state_names,
        convention=benchmark.convention,
        metadata=_metadata(settings),
        places=benchmark.place_names() if told else (),
        resume=config.resume,
    )
    for left in config.out.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
    progress.count(writer)
    progress.save()
    folder = Path(tempfile.mkdtemp(dir=config.out, prefix=STAGING))
    total, got = config.episodes * len(tasks), sum(map(progress.successes, tasks))
    try:
        with tqdm(total=total, initial=got, desc="collect", unit="episode") as bar:
            first = Attempt(benchmark, config, tasks[0], 0, folder, load_policy)
            while attempts := _missing(first, progress):
                _round(attempts, progress, writer, run, bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped with {writer.episodes} episodes in {config.out}: run the same command with "
            "--resume to go on"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        writer.metadata["attempts"] = progress.summary()
        writer.flush()
    return {
        "out": str(config.out),
        "stills": config.stills,
        "episodes": writer.episodes,
        "frames": sum(row["length"] for row in writer.rows),
        "attempts": sum(len(progress.attempts[task.index]) for task in tasks),
        "failures": {task.instruction: progress.failures(task) for task in tasks},
        "wall_s": round(time.monotonic() - began, 1),
    }


def _require_skills(benchmark: Benchmark, tasks: Sequence[Task]) -> None:
    """Raises LibraError, before anything is collected, for tasks the expert cannot do."""
    able = [task for task in tasks if benchmark.supports(task)]
    if len(able) < len(tasks):
        unable = [task for task in tasks if task not in able]
        remedy = f"add --tasks {','.join(str(t.index) for t in able)}" if able else "choose others"
        raise LibraError(
            f"the expert has no skill for "
            f"{', '.join(f'{t.index} ({t.instruction})' for t in unable)}: {remedy}"
        )


def _checkpoint(config: CollectConfig, benchmark: Benchmark, load_policy: LoadPolicy) -> str | None:
    """The hash of the policy that is to drive.

    Raises:
        LibraError: there is none, or it is made for another robot or other cameras.
    """
    if config.policy is None:
        return None
    policy = load_policy(config.policy, "cpu")
    policy.action_space.convention.require_equal(
        benchmark.convention, mine="the policy", theirs="the environment"
    )
    for camera in policy.observation_spec.cameras:
        if camera not in benchmark.cameras:
            raise unknown(f"camera of {benchmark.name}", camera, benchmark.cameras)
    return policy.describe()["checkpoint_hash"]


def _missing(first: Attempt, progress: Progress) -> list[Attempt]:
    """The attempts of the next round, task by task.

    Just as many as episodes are missing: which ones are kept does not depend on who finishes
    first.
    """
    attempts = []
    for task in progress.tasks:
        numbers = (n for n in count() if n not in progress.attempts[task.index])
        hopeless = first.config.begins_in_trouble and _hopeless(task, first.config, progress)
        missing = 0 if hopeless else max(first.config.episodes - progress.successes(task), 0)
        attempts += [replace(first, task=task, number=n) for n in islice(numbers, missing)]
    return attempts


def _round(
    attempts: Sequence[Attempt], progress: Progress, writer: DatasetWriter, run: Run, bar: Any
) -> None:
    """Carries out attempts, and takes their outcomes in order.

    Raises:
        LibraError: a task failed too often.
    """
    workers, early = attempts[0].config.workers, dict[int, Outcome]()
    taken = 0
    with closing(fan_out(run, attempts, workers=workers)) as outcomes:
        for arrived in outcomes:
            early[arrived.index] = arrived
            while outcome := early.pop(taken, None):
                _take(attempts[taken], outcome, progress, writer, bar)
                taken += 1


def _take(
    attempt: Attempt, outcome: Outcome, progress: Progress, writer: DatasetWriter, bar: Any
) -> None:
    task, demonstration = attempt.task, outcome.value
    success = outcome.error is None and demonstration.success
    if success:
        place = {"task": task.index, "attempt": attempt.number, "noise": demonstration.noise}
        if attempt.config.policy is not None:
            place["policy"] = writer.metadata["policy"]
        writer.add_episode(
            demonstration.videos,
            demonstration.states,
            demonstration.actions,
            task.instruction,
            extra=place | demonstration.extra,
            places=demonstration.places,
        )
        bar.update()
    progress.add(task, attempt.number, success)
    bar.set_postfix_str(f"{sum(map(progress.failures, progress.tasks))} failed")
    if outcome.error is not None:
        bar.write(f"attempt {attempt.number} at '{task.instruction}': {outcome.error}", sys.stderr)
    if not success and _hopeless(task, attempt.config, progress):
        why = f" (last error: {outcome.error})" if outcome.error else ""
        line = (
            f"the expert failed {progress.failures(task)} of {len(progress.attempts[task.index])} "
            f"attempts at '{task.instruction}'{why}"
        )
        if not attempt.config.begins_in_trouble:
            raise LibraError(
                f"{line}: lower --noise, --spread or --recovery, or leave the task out with --tasks"
            )
        kept = f"{progress.successes(task)} of {attempt.config.episodes} episodes"
        bar.write(f"{line}: it stays at {kept}", sys.stderr)


def _hopeless(task: Task, config: CollectConfig, progress: Progress) -> bool:
    """Whether a task's attempts have failed too often. Where a policy drove, or a grasp had missed,
    that is not the expert's doing alone, and the other tasks go on without it."""
    return progress.failures(task) > config.episodes + PATIENCE


def _settings(config: CollectConfig) -> dict[str, Any]:
    """What must not change when a collection is resumed; more episodes may be asked for."""
    free = ("out", "workers", "resume", "episodes", "tasks")
    return {k: v for k, v in asdict(config).items() if k not in free}


def _metadata(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        **settings,
        "initial_states": "sampled resets, never the official evaluation states",
        "expert": "scripted skills with privileged state",
        "versions": versions(),
    }
