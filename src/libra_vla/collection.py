"""`libra collect`: demonstrations by the scripted experts, from sampled resets.

The official evaluation states are never used here. Each attempt is a pure function of (seed,
suite, task, attempt), and episodes are taken in the order of their attempts, so the dataset does
not depend on the number of workers.
"""

import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from libra_vla.data.writer import Clip, DatasetWriter, encode
from libra_vla.errors import LibraError
from libra_vla.files import read_json, require_absent, write_json
from libra_vla.simulation.benchmark import Benchmark, Task, keep_environment
from libra_vla.simulation.registry import benchmark_of
from libra_vla.versions import versions
from libra_vla.workers import Outcome, fan_out

PATIENCE = 5
"""A task is given up after this many more failures than wanted episodes."""
STAGING = ".episodes."
"""Prefix of the folder where workers leave videos: in the dataset, so that adopting is renaming."""


@dataclass(frozen=True)
class CollectConfig:
    """Collects demonstrations.

    Attributes:
        suite: name of the suite.
        out: folder of the dataset.
        tasks: indices or names of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: successful demonstrations per task.
        workers: processes, each with a simulator of its own.
        seed: of every attempt.
        spread: metres by which the regions of sampled objects grow (LIBERO).
        noise: largest standard deviation of the noise added to the executed motion command (its
            level is drawn per episode); what is recorded is the clean action, so that a policy
            learns to correct.
        image_size: side of the recorded frames, pixels.
        meshes: what scenes are drawn with, recorded in the dataset; by default the fastest the
            benchmark has: "decimated" on LIBERO, otherwise "stock".
        max_steps: control steps after which an attempt has failed.
        resume: go on with a dataset that was stopped.
    """

    suite: str
    out: Path
    tasks: str | None = None
    episodes: int = 50
    workers: int = 2
    seed: int = 0
    spread: float = 0.0
    noise: float = 0.1
    image_size: int = 128
    meshes: str | None = None
    max_steps: int = 400
    resume: bool = False

    def __post_init__(self) -> None:
        if self.episodes < 1 or self.workers < 0 or self.image_size < 16 or self.image_size % 2:
            raise LibraError(
                f"cannot collect {self.episodes} episodes of {self.image_size} px with "
                f"{self.workers} workers: expected at least 1, an even size from 16, and 0 or more"
            )
        if min(self.spread, self.noise) < 0:
            raise LibraError("spread and noise must not be negative")


@dataclass(frozen=True)
class Attempt:
    """One try at a demonstration; `folder` is where the worker leaves its videos."""

    benchmark: Benchmark
    config: CollectConfig
    task: Task
    number: int
    folder: Path


@dataclass(frozen=True)
class Demonstration:
    """What a worker brings back.

    Attributes:
        success: whether the task was really finished: released, at rest, hand retreated.
        videos: one per camera, none after a failure.
        states, actions: [n, S] and [n, D]; actions are the expert's, without noise.
        noise: standard deviation of what was added to the executed actions.
    """

    success: bool
    videos: dict[str, Clip]
    states: np.ndarray
    actions: np.ndarray
    noise: float


Run = Callable[[Attempt], Demonstration]


def demonstrate(attempt: Attempt) -> Demonstration:
    """Lets the expert try once, in a worker process."""
    config, benchmark = attempt.config, attempt.benchmark
    env = keep_environment(
        benchmark, attempt.task, image_size=config.image_size, meshes=config.meshes
    )
    env.cameras = benchmark.cameras
    rng = np.random.default_rng(
        [config.seed, zlib.crc32(config.suite.encode()), attempt.task.index, attempt.number]
    )
    env.reset(seed=int(rng.integers(2**31)), spread=config.spread)
    level = rng.uniform(0.0, config.noise)
    expert = benchmark.make_expert(env, seed=int(rng.integers(2**31)))
    expert.reset()
    moving = np.arange(benchmark.convention.size) != benchmark.convention.gripper
    frames: dict[str, list[np.ndarray]] = {camera: [] for camera in env.cameras}
    states, actions = [], []
    while not expert.done and len(actions) < config.max_steps:
        seen, action = env.observe(), expert.act()
        for camera, image in seen.images.items():
            frames[camera].append(image)
        states.append(seen.state)
        actions.append(action)
        disturbed = action.copy()
        disturbed[moving] += level * rng.standard_normal(moving.sum())
        env.step(np.clip(disturbed, -1.0, 1.0))
    success = bool(expert.done and expert.succeeded)
    videos = {}
    if success:
        for camera, images in frames.items():
            path = attempt.folder / f"{attempt.task.index}-{attempt.number}-{camera}.mp4"
            videos[camera] = encode(np.stack(images), path, fps=benchmark.convention.rate_hz)
    return Demonstration(success, videos, np.array(states), np.array(actions), level)


def collect(
    config: CollectConfig, *, run: Run = demonstrate, benchmark: Benchmark | None = None
) -> dict[str, Any]:
    """Collects until every task has its episodes, and returns a summary.

    A kill at any moment loses the episodes in flight and nothing else.

    Args:
        run: what carries out an attempt; importable by name, for the worker processes.
        benchmark: where tasks, scenes and experts come from; by default the one that has the suite.

    Raises:
        LibraError: unknown suite or task, a task the expert has no skill for, an output folder
            that exists, a full disk, or a task whose expert fails too often.
        KeyboardInterrupt: stopped by the user; what was collected stays.
    """
    benchmark = benchmark or benchmark_of(config.suite)
    meshes = config.meshes or benchmark.meshes[-1]
    benchmark.require(meshes=meshes, spread=config.spread)
    config = replace(config, meshes=meshes)
    tasks = benchmark.choose(config.suite, config.tasks)
    _require_skills(benchmark, tasks)
    if not config.resume:
        require_absent(
            config.out, what="the dataset", remedy="choose another --out, or add --resume"
        )
    began = time.monotonic()
    progress = Progress.load(config, tasks)
    writer = DatasetWriter(
        config.out,
        fps=benchmark.convention.rate_hz,
        cameras=dict.fromkeys(benchmark.cameras, (config.image_size, config.image_size)),
        state_names=benchmark.state_names,
        convention=benchmark.convention,
        metadata=_metadata(config),
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
            while attempts := _missing(benchmark, config, progress, folder):
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


def _missing(
    benchmark: Benchmark, config: CollectConfig, progress: "Progress", folder: Path
) -> list[Attempt]:
    """The attempts of the next round, task by task.

    Just as many as episodes are missing: which ones are kept does not depend on who finishes
    first.
    """
    attempts = []
    for task in progress.tasks:
        numbers = (n for n in count() if n not in progress.attempts[task.index])
        missing = config.episodes - progress.successes(task)
        attempts += [
            Attempt(benchmark, config, task, n, folder) for n in islice(numbers, max(missing, 0))
        ]
    return attempts


def _round(
    attempts: Sequence[Attempt], progress: "Progress", writer: DatasetWriter, run: Run, bar: Any
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
    attempt: Attempt, outcome: Outcome, progress: "Progress", writer: DatasetWriter, bar: Any
) -> None:
    task, demonstration = attempt.task, outcome.value
    success = outcome.error is None and demonstration.success
    if success:
        place = {"task": task.index, "attempt": attempt.number, "noise": demonstration.noise}
        writer.add_episode(
            demonstration.videos,
            demonstration.states,
            demonstration.actions,
            task.instruction,
            extra=place,
        )
        bar.update()
    progress.add(task, attempt.number, success)
    bar.set_postfix_str(f"{sum(map(progress.failures, progress.tasks))} failed")
    if outcome.error is not None:
        bar.write(f"attempt {attempt.number} at '{task.instruction}': {outcome.error}", sys.stderr)
    if progress.failures(task) > attempt.config.episodes + PATIENCE:
        why = f" (last error: {outcome.error})" if outcome.error else ""
        raise LibraError(
            f"the expert failed {progress.failures(task)} of {len(progress.attempts[task.index])} "
            f"attempts at '{task.instruction}'{why}: lower --noise or --spread, or leave the task "
            "out with --tasks"
        )


@dataclass
class Progress:
    """Which attempts were made, and which of them succeeded; kept beside the dataset.

    Attributes:
        path: file.
        tasks: those asked for; `attempts` may hold others, of an earlier run.
        settings: what must not change when a collection is resumed.
        attempts: task index -> attempt -> success.
    """

    path: Path
    tasks: list[Task]
    settings: dict[str, Any]
    attempts: dict[int, dict[int, bool]]

    @classmethod
    def load(cls, config: CollectConfig, tasks: list[Task]) -> "Progress":
        """Reads the record of a dataset that is resumed.

        Raises:
            LibraError: it was collected with other settings, which are named.
        """
        path = config.out / "attempts.json"
        attempts: dict[int, dict[int, bool]] = {task.index: {} for task in tasks}
        settings = _settings(config)
        if config.resume and path.exists():
            record = read_json(path)
            if differing := [k for k in settings if record["settings"].get(k) != settings[k]]:
                was = ", ".join(f"{k} was {record['settings'].get(k)!r}" for k in differing)
                raise LibraError(f"cannot resume {config.out}: {was}; use the same settings")
            for task, tried in record["attempts"].items():
                attempts.setdefault(int(task), {}).update({int(n): s for n, s in tried.items()})
        return cls(path, tasks, settings, attempts)

    def count(self, writer: DatasetWriter) -> None:
        """Makes the record agree with the dataset, whatever was written last before a kill.

        Raises:
            LibraError: the dataset was not made by `libra collect`.
        """
        if any("attempt" not in row for row in writer.rows):
            raise LibraError(f"{writer.path} was not made by `libra collect`: choose another --out")
        for row in writer.rows:
            self.attempts.setdefault(row["task"], {})[row["attempt"]] = True

    def add(self, task: Task, number: int, success: bool) -> None:
        self.attempts[task.index][number] = success
        self.save()

    def save(self) -> None:
        write_json(self.path, {"settings": self.settings, "attempts": self.attempts})

    def successes(self, task: Task) -> int:
        return sum(self.attempts[task.index].values())

    def failures(self, task: Task) -> int:
        return len(self.attempts[task.index]) - self.successes(task)

    def summary(self) -> dict[str, dict[str, int]]:
        """Attempts and failures by task index, for the dataset's metadata."""
        return {
            str(task): {"made": len(tried), "failed": len(tried) - sum(tried.values())}
            for task, tried in sorted(self.attempts.items())
        }


def _settings(config: CollectConfig) -> dict[str, Any]:
    """What must not change when a collection is resumed; more episodes may be asked for."""
    free = ("out", "workers", "resume", "episodes", "tasks")
    return {k: v for k, v in asdict(config).items() if k not in free}


def _metadata(config: CollectConfig) -> dict[str, Any]:
    return {
        **_settings(config),
        "initial_states": "sampled resets, never the official evaluation states",
        "expert": "scripted skills with privileged state",
        "versions": versions(),
    }
