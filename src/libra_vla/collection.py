"""`libra collect`: demonstrations by the scripted experts, from sampled resets.

The official evaluation states are never used here. Each attempt is a pure function of (seed,
suite, task, attempt), so the demonstrations do not depend on the number of workers.
"""

import shutil
import tempfile
import time
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from libra_vla.data.video import write_video
from libra_vla.data.writer import DatasetWriter, image_statistics
from libra_vla.errors import LibraError
from libra_vla.files import read_json, require_absent, write_json
from libra_vla.simulation.libero import LIBERO_CONVENTION, STATE_NAMES, LiberoEnv, Meshes
from libra_vla.simulation.suites import Task, load_tasks, parse_indices
from libra_vla.versions import versions
from libra_vla.workers import fan_out

CAMERAS = ("agentview", "wrist")
ATTEMPTS = 2
"""A task is given up after this many attempts per wanted episode."""


@dataclass(frozen=True)
class CollectConfig:
    """Collects demonstrations.

    Attributes:
        suite: name of the suite.
        out: folder of the dataset.
        tasks: indices of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: successful demonstrations per task.
        workers: processes, each with a simulator of its own.
        seed: of every attempt.
        spread: metres by which the regions of sampled objects grow; see `LiberoEnv.reset`.
        noise: largest standard deviation of the noise added to the executed pose command (its
            level is drawn per episode); what is recorded is the clean action, so that a policy
            learns to correct.
        image_size: side of the recorded frames, pixels.
        meshes: "decimated" (fast) or "stock"; recorded in the dataset.
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
    meshes: Meshes = "decimated"
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

    config: CollectConfig
    task: Task
    number: int
    folder: Path


@dataclass(frozen=True)
class Demonstration:
    """What a worker brings back.

    Attributes:
        success: whether the task was really finished: released, at rest, hand retreated.
        videos: camera -> mp4, empty after a failure.
        states, actions: [n, 8] and [n, 7]; actions are the expert's, without noise.
        image_stats: per camera, for the dataset's statistics.
        noise: standard deviation of what was added to the executed actions.
    """

    success: bool
    videos: dict[str, Path]
    states: np.ndarray
    actions: np.ndarray
    image_stats: dict[str, Any]
    noise: float


Run = Callable[[Attempt], Demonstration]


def demonstrate(attempt: Attempt) -> Demonstration:
    """Lets the expert try once, in a worker process."""
    from libra_vla.simulation.expert import PickAndPlaceExpert

    config, env = attempt.config, _environment(attempt)
    rng = np.random.default_rng(
        [config.seed, zlib.crc32(config.suite.encode()), attempt.task.index, attempt.number]
    )
    env.reset(seed=int(rng.integers(2**31)), spread=config.spread)
    level = rng.uniform(0.0, config.noise)
    expert = PickAndPlaceExpert(env, seed=int(rng.integers(2**31)))
    expert.reset()
    frames: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    states, actions = [], []
    while not expert.done and len(actions) < config.max_steps:
        seen, action = env.observe(), expert.act()
        for camera in CAMERAS:
            frames[camera].append(seen.images[camera])
        states.append(seen.state)
        actions.append(action)
        disturbed = action.copy()
        disturbed[:6] += level * rng.standard_normal(6)
        env.step(np.clip(disturbed, -1.0, 1.0))
    success = bool(expert.done and expert.succeeded)
    videos, stats = {}, {}
    if success:
        for camera in CAMERAS:
            clip = np.stack(frames[camera])
            name = f"{attempt.task.index}-{attempt.number}-{camera}.mp4"
            videos[camera] = attempt.folder / name
            write_video(videos[camera], clip, fps=LIBERO_CONVENTION.rate_hz)
            stats[camera] = image_statistics(clip)
    return Demonstration(success, videos, np.array(states), np.array(actions), stats, level)


_environments: dict[tuple[str, int, int, str], LiberoEnv] = {}


def _environment(attempt: Attempt) -> LiberoEnv:
    """The worker's environment of a task; building one takes seconds, so the last one is kept."""
    config, task = attempt.config, attempt.task
    key = (task.suite, task.index, config.image_size, config.meshes)
    if key not in _environments:
        while _environments:
            _environments.popitem()[1].close()
        _environments[key] = LiberoEnv(
            task, image_size=config.image_size, meshes=config.meshes, cameras=CAMERAS
        )
    return _environments[key]


def collect(config: CollectConfig, *, run: Run = demonstrate) -> dict[str, Any]:
    """Collects until every task has its episodes, and returns a summary.

    A kill at any moment loses the episodes in flight and nothing else.

    Args:
        run: what carries out an attempt; importable by name, for the worker processes.

    Raises:
        LibraError: unknown suite or task, an output folder that exists, a full disk, or a task
            whose expert fails too often.
        KeyboardInterrupt: stopped by the user; what was collected stays.
    """
    tasks = load_tasks(config.suite, parse_indices(config.tasks))
    if not config.resume:
        require_absent(
            config.out, what="the dataset", remedy="choose another --out, or add --resume"
        )
    began = time.monotonic()
    progress = Progress.load(config, tasks)
    writer = DatasetWriter(
        config.out,
        fps=LIBERO_CONVENTION.rate_hz,
        cameras=dict.fromkeys(CAMERAS, (config.image_size, config.image_size)),
        state_names=STATE_NAMES,
        convention=LIBERO_CONVENTION,
        metadata=_metadata(config, tasks),
        resume=config.resume,
    )
    progress.count(writer)
    total = config.episodes * len(tasks)
    # Inside the dataset, so that adopting a video is a rename.
    folder = Path(tempfile.mkdtemp(dir=config.out, prefix=".episodes."))
    try:
        with tqdm(total=total, initial=writer.episodes, desc="collect", unit="episode") as bar:
            for task in tasks:
                _collect_task(config, task, progress, writer, folder, run, bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {writer.episodes} of {total} episodes: run the same command with "
            "--resume to go on"
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "out": str(config.out),
        "episodes": writer.episodes,
        "frames": sum(row["length"] for row in writer.rows),
        "attempts": sum(len(a) for a in progress.attempts.values()),
        "failures": {t.instruction: progress.failures(t) for t in tasks},
        "wall_s": round(time.monotonic() - began, 1),
    }


def _collect_task(
    config: CollectConfig,
    task: Task,
    progress: "Progress",
    writer: DatasetWriter,
    folder: Path,
    run: Run,
    bar: Any,
) -> None:
    """Attempts a task until it has its episodes.

    Episodes are numbered by their attempts, and only as many further attempts are made as
    episodes are missing: which ones are kept does not depend on who finished first.
    """
    while missing := config.episodes - progress.successes(task):
        tried = len(progress.attempts[task.index])
        allowed = ATTEMPTS * config.episodes - tried
        if allowed <= 0:
            raise LibraError(
                f"the expert failed {progress.failures(task)} of {tried} attempts at "
                f"'{task.instruction}': lower --noise or --spread"
            )
        numbers = [n for n in range(tried + min(missing, allowed)) if not progress.done(task, n)]
        jobs = [Attempt(config, task, n, folder) for n in numbers]
        with closing(fan_out(run, jobs, workers=config.workers)) as outcomes:
            for outcome in outcomes:
                number, demonstration = numbers[outcome.index], outcome.value
                if outcome.error is not None:
                    raise LibraError(f"an attempt at '{task.instruction}' broke: {outcome.error}")
                if demonstration.success:
                    writer.add_episode(
                        demonstration.videos,
                        demonstration.states,
                        demonstration.actions,
                        task.instruction,
                        demonstration.image_stats,
                        extra={"task": task.index, "attempt": number, "noise": demonstration.noise},
                    )
                    bar.update()
                progress.add(task, number, demonstration.success)
                bar.set_postfix_str(f"{sum(map(progress.failures, progress.tasks))} failed")


@dataclass
class Progress:
    """Which attempts were made, and which of them succeeded; kept beside the dataset.

    Attributes:
        path: file.
        tasks: all tasks.
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
        """Takes in episodes that were written just before a kill."""
        for row in writer.rows:
            self.attempts.setdefault(row["task"], {})[row["attempt"]] = True

    def add(self, task: Task, number: int, success: bool) -> None:
        self.attempts[task.index][number] = success
        tried = {t: dict(sorted(a.items())) for t, a in self.attempts.items()}
        write_json(self.path, {"settings": self.settings, "attempts": tried})

    def done(self, task: Task, number: int) -> bool:
        return number in self.attempts[task.index]

    def successes(self, task: Task) -> int:
        return sum(self.attempts[task.index].values())

    def failures(self, task: Task) -> int:
        return len(self.attempts[task.index]) - self.successes(task)


def _settings(config: CollectConfig) -> dict[str, Any]:
    """What must not change when a collection is resumed; more episodes may be asked for."""
    free = ("out", "workers", "resume", "episodes", "tasks")
    return {k: v for k, v in asdict(config).items() if k not in free}


def _metadata(config: CollectConfig, tasks: list[Task]) -> dict[str, Any]:
    return {
        **_settings(config),
        "tasks": [task.index for task in tasks],
        "initial_states": "sampled resets, never the official evaluation states",
        "expert": "scripted pick-and-place with privileged state",
        "versions": versions(),
    }
