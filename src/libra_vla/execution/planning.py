"""When the planner works: in line with the control loop, or beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from libra_vla.execution.checks import checked_plan
from libra_vla.execution.config import ExecutionConfig
from libra_vla.execution.intent_buffer import IntentBuffer, Intents
from libra_vla.execution.latency import Latency
from libra_vla.execution.planners import Background, Planner
from libra_vla.execution.protocol import Policy
from libra_vla.execution.trace import PlanRecord
from libra_vla.observation import Observation

Cause = Literal["disagreement", "low confidence"]


class Look:
    """The observation of one control step, taken when it is first asked for, if ever.

    Attributes:
        step: control step.
        seconds: how long taking it took; no part of the control path.
    """

    def __init__(
        self, observe: Callable[[], Observation], step: int, clock: Callable[[], float]
    ) -> None:
        self.step, self.seconds = step, 0.0
        self._observe, self._clock = observe, clock
        self._seen: Observation | None = None

    def __call__(self) -> Observation:
        if self._seen is None:
            began = self._clock()
            self._seen = replace(self._observe(), step=self.step)
            self.seconds = self._clock() - began
        return self._seen


@dataclass(frozen=True)
class Served:
    """Intents for a chunk, and what they cost.

    Attributes:
        intents: of H control steps.
        plan_ms: milliseconds of planning on the control path, None if there was none.
        wait: control steps that the robot has to stand still for it.
    """

    intents: Intents
    plan_ms: float | None = None
    wait: int = 0


class Planning(Protocol):
    """When to plan.

    Attributes:
        plans: every plan of the episode.
    """

    plans: list[PlanRecord]

    def reset(self, seed: int) -> None:
        """Starts an episode."""
        ...

    def tick(self, look: Look) -> None:
        """Is called at the start of every control step."""
        ...

    def serve(self, look: Look) -> Served | None:
        """Returns intents for the chunk that begins now; None: there are none, and no waiting."""
        ...

    def has_intents(self, step: int) -> bool:
        """Whether the buffer holds intents that are meant for control step `step`."""
        ...

    def replan(self, look: Look, cause: Cause) -> Served | None:
        """The chunk gave cause to plan again: returns other intents for it, if they can be had at
        once."""
        ...

    def stood_still(self, steps: int) -> None:
        """The robot does not move in the next `steps` control steps: what is planned comes later
        by as much."""
        ...

    def trouble(self) -> str:
        """Why there are no intents."""
        ...

    def close(self) -> None:
        """Ends what works in the background."""
        ...


class InLine:
    """The control loop waits for each plan: synchronous and sequential."""

    def __init__(
        self,
        planner: Planner,
        policy: Policy,
        config: ExecutionConfig,
        buffer: IntentBuffer,
        latency: Latency,
        clock: Callable[[], float],
    ) -> None:
        self._planner, self._policy, self._latency, self._clock = planner, policy, latency, clock
        self._buffer, self._every_chunk = buffer, config.mode == "synchronous"
        self._execute = config.execute or policy.chunk
        self.plans: list[PlanRecord] = []

    def reset(self, seed: int) -> None:
        self._buffer.clear()
        self.plans = []

    def tick(self, look: Look) -> None:
        """Nothing happens between chunks."""

    def serve(self, look: Look) -> Served:
        """Plans if it must, and returns the intents."""
        chunk, step = self._policy.chunk, look.step
        if (
            self._every_chunk
            or self._buffer.remaining(step) < chunk
            or self._buffer.usable(step) < self._execute
        ):
            return self._plan(look, "due")
        return Served(self._buffer.window(step, chunk))

    def replan(self, look: Look, cause: Cause) -> Served:
        """Plans now; the caller refines again."""
        return self._plan(look, cause)

    def _plan(self, look: Look, why: Literal["due"] | Cause) -> Served:
        seen = look()
        began = self._clock()
        plan = self._planner.plan(seen)
        ms = (self._clock() - began) * 1e3
        checked_plan(plan, self._policy.action_space, step=look.step, horizon=self._buffer.capacity)
        wait = self._latency.plan_steps(ms)
        kept = self._buffer.put(plan)
        self.plans.append(PlanRecord(look.step, look.step + wait, kept, ms, why))
        return Served(self._buffer.window(look.step, self._policy.chunk), ms, wait)

    def stood_still(self, steps: int) -> None:
        self._buffer.postpone(steps)

    def has_intents(self, step: int) -> bool:
        return self._buffer.usable(step) > 0

    def trouble(self) -> str:
        return "nothing: the control loop waits"

    def close(self) -> None:
        """There is nothing to end."""


class Beside:
    """The planner works while the robot goes on: concurrent."""

    def __init__(
        self, planner: Background, policy: Policy, config: ExecutionConfig, buffer: IntentBuffer
    ) -> None:
        self._planner, self._policy, self._buffer = planner, policy, buffer
        self._watermark, self._hold = config.watermark or 0, config.hold or 0
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._buffer.clear()
        self._planner.reset(seed)
        self.plans: list[PlanRecord] = []
        self._wanted: Cause | None = None
        self._asked_for: Literal["due"] | Cause = "due"
        self._stood = 0

    def tick(self, look: Look) -> None:
        """Takes over a plan that has come, and has the next one begun in time."""
        self._take(look.step)
        due = self._buffer.usable(look.step) <= self._watermark
        if (due or self._wanted) and not self._planner.busy:
            self._offer(look)

    def _offer(self, look: Look) -> None:
        self._asked_for, self._wanted = self._wanted or "due", None
        self._stood = 0
        self._planner.offer(look())
        self._take(look.step)

    def _take(self, step: int) -> None:
        """A plan loses the control steps in which the robot moved on, not those it stood still."""
        if (finished := self._planner.take(step)) is None:
            return
        plan, seen = finished.plan, finished.plan.observation_step
        checked_plan(plan, self._policy.action_space, step=seen, horizon=self._buffer.capacity)
        kept = self._buffer.put(plan, start=seen + self._stood, now=step)
        self.plans.append(PlanRecord(seen, step, kept, finished.ms, self._asked_for))

    def serve(self, look: Look) -> Served | None:
        """Returns what the buffer has; its last intent may be kept for a while."""
        if not self._buffer.usable(look.step, hold=self._hold):
            return None
        return Served(self._buffer.window(look.step, self._policy.chunk, hold=self._hold))

    def replan(self, look: Look, cause: Cause) -> Served | None:
        """Has a plan made at the next chance; the robot goes on with what it has until then."""
        self._wanted = cause
        if self._planner.busy:
            return None
        before = len(self.plans)
        self._offer(look)
        return self.serve(look) if len(self.plans) > before else None

    def stood_still(self, steps: int) -> None:
        self._buffer.postpone(steps)
        self._stood += steps

    def has_intents(self, step: int) -> bool:
        return self._buffer.usable(step) > 0

    def trouble(self) -> str:
        if self.plans and not self.plans[-1].kept:
            return "the last plan came when its steps were over"
        return self._planner.trouble or "the planner is at work"

    def close(self) -> None:
        self._planner.close()
