"""Long work in stages: each is timed, resumed where it stopped, and skipped when it is done."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.files import read_json, write_json
from libra_vla.training.config import TrainConfig
from libra_vla.workers import fan_out

T = TypeVar("T")

SECONDS = "seconds.json"
"""How many seconds of one core a run has trained, in its folder."""
NOTED = 30.0
"""Seconds after which a stage's time is written down again: a process that is killed says none."""


@dataclass
class StageClock:
    """Announces stages, and adds up their seconds over interrupted runs, however those ended.

    Attributes:
        path: of the record.
        now: seconds by the clock, or this process's own, which add up over its threads and do not
            depend on what else the machine does.
    """

    path: Path
    now: Callable[[], float] = time.monotonic

    @property
    def seconds(self) -> dict[str, float]:
        return read_json(self.path)["seconds"] if self.path.exists() else {}

    def time(self, stage: str, work: Callable[[], T], *, quiet: bool = False) -> T:
        if not quiet:
            print(f"== {stage}", file=sys.stderr)
        before, began = self.seconds.get(stage, 0.0), self.now()

        def note() -> None:
            record = read_json(self.path) if self.path.exists() else {}
            seconds = record.get("seconds", {}) | {stage: round(before + self.now() - began, 1)}
            write_json(self.path, record | {"seconds": seconds})

        with _every(NOTED, note):
            return work()


@contextmanager
def _every(seconds: float, do: Callable[[], None]) -> Iterator[None]:
    """Does something again and again while a block runs, and once more when it ends."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(seconds):
            with suppress(LibraError):  # a full disk: the work itself will tell
                do()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        do()


def train_and_evaluate(
    trainings: Sequence[TrainConfig], evaluations: Sequence[EvalConfig], *, workers: int
) -> None:
    """Trains policies and evaluates them side by side, each in a process of its own.

    An evaluation begins as soon as its own policy is trained, and so does a training that begins
    with that one's weights; what waits for none of `trainings`, as soon as there is a process for
    it.

    Raises:
        RuntimeError: a job broke.
        KeyboardInterrupt: stopped; called again, it goes on.
    """
    train_jobs = [TrainJob(c, row) for row, c in enumerate(trainings)]
    eval_jobs = [EvalJob(c, row) for row, c in enumerate(evaluations, start=len(trainings))]
    unfinished = [job for job in (*train_jobs, *eval_jobs) if not job.done]
    in_training = {j.config.out: n for n, j in enumerate(unfinished) if isinstance(j, TrainJob)}
    after = {
        n: in_training[job.needs] for n, job in enumerate(unfinished) if job.needs in in_training
    }
    for outcome in fan_out(run_job, unfinished, workers=workers, after=after):
        if outcome.error is not None:
            raise RuntimeError(f"{unfinished[outcome.index].config.out} broke: {outcome.error}")
    print("\n" * len(unfinished), end="", file=sys.stderr)


@dataclass(frozen=True)
class TrainJob:
    """One training and the line of its progress bar."""

    config: TrainConfig
    position: int

    @property
    def done(self) -> bool:
        manifest = self.config.out / "checkpoint" / "policy.json"
        return manifest.exists() and read_json(manifest)["training"]["steps"] >= self.config.steps

    @property
    def needs(self) -> Path | None:
        """The policy that it begins with."""
        return self.config.init

    def run(self) -> None:
        from libra_vla.training.trainer import train

        clock = StageClock(self.config.out / SECONDS, time.process_time)
        clock.time("training", lambda: train(self.config, position=self.position), quiet=True)


@dataclass(frozen=True)
class EvalJob:
    """One evaluation and the line of its progress bar."""

    config: EvalConfig
    position: int

    @property
    def done(self) -> bool:
        if not (file := self.config.out / "results.json").exists():
            return False
        results = read_json(file)
        return results["complete"] and results["protocol"]["trials"] >= self.config.episodes

    @property
    def needs(self) -> Path:
        """The policy that it evaluates."""
        return Path(self.config.policy)

    def run(self) -> None:
        evaluate(self.config, position=self.position)


def training_core_seconds(run: Path) -> float:
    """What a training of `train_and_evaluate` took of the cores, over interrupted runs."""
    return sum(StageClock(run / SECONDS).seconds.values())


def run_job(job: TrainJob | EvalJob) -> None:
    """Trains or evaluates in a worker process, which keeps its simulator from arm to arm."""
    job.run()
