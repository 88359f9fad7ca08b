"""Worker processes for long jobs: isolated, single-threaded, replaced when they die."""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any

from libra_vla.errors import LibraError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LP_NUM_THREADS")
"""One core per worker; LP_NUM_THREADS is the software rasteriser's."""
PATIENCE = 20.0
"""Seconds a worker may take to save its work when it is asked to stop."""

_context = get_context("spawn")


@dataclass(frozen=True)
class Outcome:
    """What became of one job.

    Attributes:
        index: of the job in the sequence.
        value: what the function returned; None after an error.
        error: what went wrong: an exception, with its place, or the death of the worker.
    """

    index: int
    value: Any = None
    error: str | None = None


def fan_out(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    *,
    workers: int,
    after: Mapping[int, int] | None = None,
) -> Generator[Outcome, None, None]:
    """Runs a function over jobs in worker processes and yields outcomes as they come.

    Jobs are handed out in order, one at a time, so a worker meets neighbours one after the other
    and may keep an expensive thing (an environment, a policy) in a module's global.

    Args:
        function: importable by name; the same holds for what it takes and returns.
        workers: processes; 0 runs everything in this one.
        after: index of a job -> index of an earlier one that has to end before it begins. Others
            overtake a job that waits.

    Raises:
        LibraError: raised by a job: bad input concerns them all. Other exceptions, and a worker
            that is killed, become the outcome of that one job.
    """
    if workers == 0:
        for index, job in enumerate(jobs):
            yield _attempt(function, index, job)
        return
    waiting, ended = dict(enumerate(jobs)), set[int]()
    crew: list[_Worker] = []

    def next_job() -> int | None:
        return next((i for i in waiting if (after or {}).get(i) in (None, *ended)), None)

    try:
        while waiting or crew:
            while len(crew) < workers and (index := next_job()) is not None:
                crew.append(_Worker(function))
                crew[-1].give(index, waiting.pop(index))
            for worker in _ready(crew):
                outcome = worker.take()
                ended.add(outcome.index)
                if worker.alive and (index := next_job()) is not None:
                    worker.give(index, waiting.pop(index))
                else:
                    worker.stop()
                    crew.remove(worker)
                yield outcome
    finally:
        for worker in crew:
            worker.ask_to_stop()
        for worker in crew:
            worker.stop()


def _ready(crew: "list[_Worker]") -> "list[_Worker]":
    """Waits until somebody has an answer, or died."""
    ready = connection.wait([w.pipe for w in crew])
    return [w for w in crew if w.pipe in ready]


class _Worker:
    """One process and the job it has."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.pipe, theirs = _context.Pipe()
        self.process = _context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _one_thread():
            self.process.start()
        theirs.close()
        self.alive, self.index = True, -1

    def give(self, index: int, job: Any) -> None:
        self.index = index
        # A worker that died meanwhile is found by `take`.
        with suppress(BrokenPipeError):
            self.pipe.send((index, job))

    def take(self) -> Outcome:
        """Receives the outcome of the job; raises the LibraError it ended in."""
        try:
            outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.alive = False
            self.process.join(PATIENCE)
            code = self.process.exitcode
            how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
            return Outcome(self.index, error=f"the worker died ({how})")
        if isinstance(outcome, LibraError):
            raise outcome
        return outcome

    def ask_to_stop(self) -> None:
        self.process.terminate()

    def stop(self) -> None:
        """Ends the process: at once if it is idle, else after it had time to save its work."""
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Any, function: Callable[[Any], Any]) -> None:
    """What a worker does: jobs, until the parent closes the pipe, or dies."""
    import signal

    # Ctrl-C reaches the whole group; the parent decides and asks its workers to stop. They end as
    # a program does, not as one that is shot: what a library holds (locks, files) is given back.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(EOFError, OSError, KeyboardInterrupt):  # the last: a job that saved its work
        while True:
            index, job = pipe.recv()
            try:
                answer: Any = _attempt(function, index, job)
            except LibraError as error:
                answer = error
            pipe.send(answer)


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _attempt(function: Callable[[Any], Any], index: int, job: Any) -> Outcome:
    try:
        return Outcome(index, value=function(job))
    except LibraError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(place.filename)}:{place.lineno}"
        return Outcome(index, error=f"{type(error).__name__}: {error} ({where})")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Lets a process that is started now find thread counts of 1 in its environment."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
