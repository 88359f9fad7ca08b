"""A queue in front of the model: whoever waits while it works is answered together."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class Batcher(Generic[J, R]):
    """Runs jobs in one thread, as many at a time as have come, first come, first served.

    Nobody waits for a batch to fill: a lone client meets an idle model at once.

    Args:
        run: answers jobs, in order; called in a thread, never twice at a time.
        limit: most jobs per call.
    """

    def __init__(self, run: Callable[[Sequence[J]], Sequence[R]], limit: int) -> None:
        self._run, self._limit = run, limit
        self._waiting: deque[tuple[J, asyncio.Future[R]]] = deque()
        self._some = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Batcher[J, R]":
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, job: J) -> R:
        """Returns the answer to `job`; raises what `run` raises for it alone."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, future))
        self._some.set()
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._some.wait()
            count = min(len(self._waiting), self._limit)
            taken = [self._waiting.popleft() for _ in range(count)]
            if not self._waiting:
                self._some.clear()
            jobs = [job for job, _ in taken]
            outcomes = await loop.run_in_executor(self._thread, self._attempt, jobs)
            for (_, future), outcome in zip(taken, outcomes, strict=True):
                if future.done():
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    def _attempt(self, jobs: Sequence[J]) -> Sequence[R | Exception]:
        """Answers all jobs; if they fail together, each alone, so that one spoils no other."""
        try:
            return self._run(jobs)
        except Exception as error:
            if len(jobs) == 1:
                return [error]
            return [outcome for job in jobs for outcome in self._attempt([job])]
