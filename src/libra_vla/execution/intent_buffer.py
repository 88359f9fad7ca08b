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
        age: control steps since the observation behind them was taken.
    """

    coarse: np.ndarray
    confidence: np.ndarray
    age: int


class IntentBuffer:
    """Holds the plan being carried out, and forgets its steps as they pass.

    A plan starts at its own observation, and an observation of step t means that the steps before
    t are over. So a newer plan replaces everything an older one still had to say, and one plan is
    all there is to hold: nothing in here is out of order, doubled or older than asked for. A plan
    that arrives late has lost the steps that passed meanwhile; one that was overtaken by a newer
    observation is dropped.

    Safe to share between a thread that plans and one that acts.

    Args:
        capacity: most coarse actions held, M x H; the rest of a longer plan is cut off.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise LibraError(f"intent buffer has capacity {capacity}: expected at least 1")
        self.capacity = capacity
        self._lock = Lock()
        self.clear()

    def clear(self) -> None:
        """Forgets the plan and starts again at control step 0."""
        with self._lock:
            self._plan: Plan | None = None
            self._now = 0

    def put(self, plan: Plan) -> int:
        """Takes `plan` over and returns how many of its coarse actions are still to come.

        0 means that it came too late: its steps have passed, or a newer plan is here already.
        """
        with self._lock:
            held = self._plan
            if held is not None and plan.observation_step < held.observation_step:
                return 0
            if left := self._left(plan, plan.observation_step):
                self._plan = plan
            return left

    def remaining(self, step: int) -> int:
        """Returns how many coarse actions are held for control step `step` and those after it."""
        with self._lock:
            return 0 if self._plan is None else self._left(self._plan, step)

    def window(self, step: int, n: int) -> Intents:
        """Returns the intents of control steps `step` to `step + n - 1`; earlier ones are gone.

        Raises:
            LibraError: fewer than `n` are held, or `step` lies before one asked for earlier.
        """
        with self._lock:
            if step < self._now:
                raise LibraError(
                    f"intents of control step {step} were asked for after those of step "
                    f"{self._now}: steps only go forward; call clear() between episodes"
                )
            plan = self._plan
            held = 0 if plan is None else self._left(plan, step)
            if plan is None or held < n:
                raise LibraError(
                    f"intent buffer holds {held} coarse actions from control step {step} on, "
                    f"but {n} were asked for: plan first"
                )
            self._now = step
            age = step - plan.observation_step
            rows = slice(age, age + n)
            return Intents(plan.coarse[rows], plan.confidence[rows], age)

    def _left(self, plan: Plan, step: int) -> int:
        """How many rows of `plan` are meant for `step` or later and have not passed."""
        if step < plan.observation_step:
            return 0
        end = plan.observation_step + min(len(plan.coarse), self.capacity)
        return max(0, end - max(step, self._now))
