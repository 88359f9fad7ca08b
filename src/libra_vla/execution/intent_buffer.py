"""The intent buffer: coarse actions wait here, by the control step they are meant for."""

from threading import Lock
from typing import NamedTuple

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan


class Intents(NamedTuple):
    """What the refiner is given for one chunk.

    Attributes:
        coarse: int64 [n, D], bin indices.
        confidence: float32 [n, D], the planner's probability of each, in [0, 1].
        distribution: float32 [n, D, N_max], the planner's probabilities over bins.
        observation_step: control step of the observation behind them.
        own: how many of the rows are the plan's; those after them repeat its last one.
        usable: how many of the rows may be carried out, the repeated ones counted in.
    """

    coarse: np.ndarray
    confidence: np.ndarray
    distribution: np.ndarray
    observation_step: int
    own: int
    usable: int

    def as_read_by(self, policy: object) -> np.ndarray:
        """What `refine` is given: the bins, or with `soft_intents` how likely each of them is."""
        return self.distribution if getattr(policy, "soft_intents", False) else self.coarse


class _Held(NamedTuple):
    """A plan, the control step of its first row, and the first steps it says nothing about."""

    plan: Plan
    start: int
    end: int
    too_old: float


class IntentBuffer:
    """Holds the plan being carried out, and forgets its steps as they pass.

    A plan starts at its own observation, and an observation of step t means that the steps before
    t are over. So a newer plan replaces everything an older one still had to say, and one plan is
    all there is to hold: nothing in here is out of order, doubled or older than asked for. A plan
    that arrives late has lost the steps that passed meanwhile; one that was overtaken by a newer
    observation is dropped.

    Knows control steps, and no clock. Safe to share between threads.

    Args:
        capacity: most coarse actions held, M x H; the rest of a longer plan is cut off.
        max_age: most control steps between an observation and an action that is carried out on
            its intents; None for no limit.
    """

    def __init__(self, capacity: int, max_age: int | None = None) -> None:
        if capacity < 1:
            raise LibraError(f"intent buffer has capacity {capacity}: expected at least 1")
        if max_age is not None and max_age < 0:
            raise LibraError(f"intent buffer has an age limit of {max_age}: expected at least 0")
        self.capacity, self.max_age = capacity, max_age
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets the plan and starts again at control step 0."""
        with self._lock:
            self._held: _Held | None = None
            self._now = 0

    def put(self, plan: Plan, *, start: int | None = None, now: int = 0) -> int:
        """Takes `plan` over and returns how many of its coarse actions are still to come.

        0 means that it came too late: its steps have passed, or a newer plan is here already.

        Args:
            start: control step its first row is meant for: later than that of its observation
                where the robot stood still meanwhile.
            now: control step at which it arrives.
        """
        start = plan.observation_step if start is None else start
        with self._lock:
            old = self._held
            if old is not None and plan.observation_step < old.plan.observation_step:
                return 0
            new = self._bounded(plan, start)
            if usable := self._usable(new, max(start, now), 0):
                self._held = new
            return usable

    def postpone(self, steps: int) -> None:
        """Moves what is held by `steps` control steps, in which the robot stood still."""
        with self._lock:
            if self._held is not None:
                self._held = self._bounded(self._held.plan, self._held.start + steps)

    def remaining(self, step: int) -> int:
        """Returns how many coarse actions are held for `step` and later, of whatever age."""
        with self._lock:
            return 0 if self._held is None else self._left(self._held, step)

    def usable(self, step: int, *, hold: int = 0) -> int:
        """Returns how many of them may be carried out, with `hold` repetitions of the last one."""
        with self._lock:
            return 0 if self._held is None else self._usable(self._held, step, hold)

    def window(self, step: int, n: int, *, hold: int | None = None) -> Intents:
        """Returns the intents of control steps `step` to `step + n - 1`; earlier ones are gone.

        Args:
            hold: for how many control steps the last intent may be kept after the plan has ended.
                If given, a window need not be whole: its end repeats the last intent.

        Raises:
            LibraError: not one may be carried out, fewer than `n` are held and `hold` is not given,
                or `step` lies before one asked for earlier.
        """
        with self._lock:
            if step < self._now:
                raise LibraError(
                    f"intents of control step {step} were asked for after those of step "
                    f"{self._now}: steps only go forward; call clear() between episodes"
                )
            held = self._held
            left = 0 if held is None else self._left(held, step)
            usable = 0 if held is None else self._usable(held, step, hold or 0)
            if held is None or usable < 1 or (left < n and hold is None):
                raise LibraError(
                    f"intent buffer holds {left} coarse actions from control step {step} on, "
                    f"but {n} were asked for: plan first"
                )
            self._now = step
            rows = np.minimum(np.arange(step, step + n), held.end - 1) - held.start
            return Intents(
                coarse=held.plan.coarse[rows],
                confidence=held.plan.confidence[rows],
                distribution=held.plan.distribution[rows],
                observation_step=held.plan.observation_step,
                own=min(left, n),
                usable=min(usable, n),
            )

    def _bounded(self, plan: Plan, start: int) -> _Held:
        limit = np.inf if self.max_age is None else plan.observation_step + self.max_age + 1
        return _Held(plan, start, start + min(len(plan.coarse), self.capacity), limit)

    def _left(self, held: _Held, step: int) -> int:
        """How many rows are meant for `step` or later and have not passed."""
        return 0 if step < held.start else max(0, held.end - max(step, self._now))

    def _usable(self, held: _Held, step: int, hold: int) -> int:
        """The same, less those that are too old, and with `hold` repetitions of the last."""
        end = min(held.end + hold, held.too_old)
        return 0 if step < held.start else max(0, int(end) - max(step, self._now))
