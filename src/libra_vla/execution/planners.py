"""Planners beside the control loop: in a thread (and whatever that thread talks to), or simulated.

The executor offers observations and asks, at every control step, whether a plan has come; it never
waits.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from libra_vla.errors import LibraError
from libra_vla.execution.latency import Latency
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a planner that failed is tried again: doubled at each failure in a row."""
FAILURES = 20
"""Failures in a row after which there is nothing left to hope for (about a minute and a half)."""


@runtime_checkable
class Planner(Protocol):
    """Anything that plans: a policy, a process of its own, a connection to another machine."""

    def plan(self, observation: Observation) -> Plan:
        """Returns coarse actions; may take its time, and may raise."""
        ...


@dataclass(frozen=True)
class Finished:
    """A plan that has come, and the milliseconds it took."""

    plan: Plan
    ms: float


@runtime_checkable
class Background(Protocol):
    """A planner that works while the robot goes on."""

    @property
    def busy(self) -> bool:
        """Whether it is at work (or pauses after a failure): an offer would have to wait."""
        ...

    @property
    def trouble(self) -> str | None:
        """What is wrong, for people; None if nothing is known to be."""
        ...

    def reset(self, seed: int) -> None:
        """Starts an episode: whatever is under way will be dropped."""
        ...

    def offer(self, observation: Observation) -> None:
        """Asks for a plan; an observation that still waits is replaced."""
        ...

    def take(self, step: int) -> Finished | None:
        """Returns the newest plan that has come since the last call, at control step `step`.

        Raises:
            LibraError: the planner failed too often.
        """
        ...

    def close(self) -> None:
        """Ends it."""
        ...


class SimulatedPlanner:
    """Plans at once, and hands the plan over after the control steps that it would have taken.

    Two runs agree in every action, as long as delays are injected and not measured.
    """

    trouble: str | None = None

    def __init__(
        self,
        planner: Planner,
        latency: Latency,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._planner, self._latency, self._clock = planner, latency, clock
        self._under_way: tuple[Finished, int] | None = None

    @property
    def busy(self) -> bool:
        return self._under_way is not None

    def reset(self, seed: int) -> None:
        self._under_way = None

    def offer(self, observation: Observation) -> None:
        began = self._clock()
        plan = self._planner.plan(observation)
        ms = (self._clock() - began) * 1e3
        due = observation.step + self._latency.plan_steps(ms)
        self._under_way = Finished(plan, ms), due

    def take(self, step: int) -> Finished | None:
        if self._under_way is None or step < self._under_way[1]:
            return None
        finished, self._under_way = self._under_way[0], None
        return finished

    def close(self) -> None:
        self._under_way = None


class ThreadPlanner:
    """Plans in a thread, out of a mailbox that holds the latest observation.

    A planner that raises is tried again after a pause, with the next observation; one that hangs
    is waited for (give it a timeout of its own). Meanwhile `trouble` says why no plan comes.

    Args:
        planner: its `plan` is called in the thread.
        clock: seconds from any origin.
        failures: in a row, after which `take` raises.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        clock: Callable[[], float] = time.perf_counter,
        failures: int = FAILURES,
    ) -> None:
        self._planner, self._clock, self._patience = planner, clock, failures
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._mail: Observation | None = None
        self._finished: Finished | None = None
        self._began: float | None = None
        self._failed, self._error = 0, ""
        self._episode, self._closed = 0, False

    @property
    def busy(self) -> bool:
        with self._changed:
            return self._began is not None or self._mail is not None

    @property
    def trouble(self) -> str | None:
        with self._changed:
            if self._failed:
                return f"the planner failed {self._failed} times in a row: {self._error}"
            if self._began is not None:
                return f"the planner has been at work for {self._clock() - self._began:.1f} s"
            return None

    def reset(self, seed: int) -> None:
        with self._changed:
            self._episode += 1
            self._mail = self._finished = None
            self._failed = 0
            self._changed.notify_all()

    def offer(self, observation: Observation) -> None:
        with self._changed:
            if self._closed:
                raise LibraError("the planner was closed: make a new executor")
            self._mail = observation
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="planner", daemon=True)
            self._thread.start()

    def take(self, step: int) -> Finished | None:
        with self._changed:
            if self._failed >= self._patience:
                raise LibraError(f"the planner failed {self._failed} times in a row: {self._error}")
            finished, self._finished = self._finished, None
            return finished

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if isinstance(self._planner, Closable):
            self._planner.close()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def _work(self) -> None:
        while (mail := self._next_mail()) is not None:
            observation, episode = mail
            began, plan, error = self._clock(), None, ""
            try:
                plan = self._planner.plan(observation)
            except Exception as failure:  # whatever it is, the robot goes on without
                error = f"{type(failure).__name__}: {(str(failure).splitlines() or [''])[0]}"
            with self._changed:
                if episode == self._episode and plan is not None:
                    self._finished = Finished(plan, (self._clock() - began) * 1e3)
                    self._failed = 0
                elif episode == self._episode:
                    self._failed, self._error = self._failed + 1, error
                    self._pause(episode)
                self._began = None

    def _next_mail(self) -> tuple[Observation, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._mail is not None)
            if self._closed or self._mail is None:
                return None
            observation, self._mail, self._began = self._mail, None, self._clock()
            return observation, self._episode

    def _pause(self, episode: int) -> None:
        seconds = min(FIRST_PAUSE * 2.0 ** (self._failed - 1), LONGEST_PAUSE)
        self._changed.wait_for(lambda: self._closed or self._episode != episode, timeout=seconds)


@runtime_checkable
class Closable(Protocol):
    """Holds something that has to be given back."""

    def close(self) -> None: ...


def in_background(
    planner: Planner | Background, latency: Latency | None, clock: Callable[[], float]
) -> Background:
    """Returns `planner` beside the control loop: simulated where time is, else in a thread."""
    if isinstance(planner, Background):
        return planner
    if latency is not None:
        return SimulatedPlanner(planner, latency, clock=clock)
    return ThreadPlanner(planner, clock=clock)
