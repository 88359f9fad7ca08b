"""How time passes in an evaluation: whether the world waits for inference, and how long that takes.

In simulated time inference costs control steps, and runs are the same every time unless latencies
are measured. Planners in a thread or a process work in real time: control steps are paced by the
clock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from libra_vla.errors import LibraError, unknown
from libra_vla.execution.config import Mode
from libra_vla.execution.latency import Latency, no_delay, parse_delay
from libra_vla.execution.planners import Background, Planner, ThreadPlanner
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation

PlannerKind = Literal["simulated", "thread", "process"]
MEASURED = "measured"


@dataclass(frozen=True)
class Timing:
    """How time passes.

    Attributes:
        real_time: whether the world goes on at its control rate while inference runs.
        delay: of a plan; see `libra_vla.execution.latency.parse_delay`.
        refine_delay: of a chunk's refinement, likewise.
        planner: what works beside the control loop.
    """

    real_time: bool = False
    delay: str = MEASURED
    refine_delay: str = MEASURED
    planner: PlannerKind = "simulated"

    @classmethod
    def of(
        cls,
        mode: Mode,
        *,
        real_time: bool,
        delay: str | None,
        refine_delay: str | None,
        planner: PlannerKind,
    ) -> "Timing":
        """Fills in defaults: an injected delay of the planner leaves the refiner none.

        Raises:
            LibraError: options that do not go together.
        """
        if planner not in get_args(PlannerKind):
            raise unknown("planner", planner, get_args(PlannerKind))
        if planner != "simulated" and not (real_time and mode == "concurrent"):
            raise LibraError(
                f"a planner in a {planner} works beside the control loop, in real time: add "
                "--mode concurrent --real-time"
            )
        if planner != "simulated" and (delay or refine_delay):
            raise LibraError(f"a planner in a {planner} takes the time it takes: leave out delays")
        if not real_time and (refine_delay or (delay and mode != "concurrent")):
            raise LibraError("the world waits for inference, so a delay is none: add --real-time")
        delay = delay or MEASURED
        timing = cls(
            real_time, delay, refine_delay or (MEASURED if delay == MEASURED else "0"), planner
        )
        for text in (timing.delay, timing.refine_delay):
            parse_delay(text, rate_hz=1.0)  # raises if it is none
        return timing

    @property
    def paced(self) -> bool:
        """Whether control steps follow the clock."""
        return self.planner != "simulated"

    def latency(self, mode: Mode, rate_hz: float) -> Latency | None:
        """Returns what inference costs in simulated time; None: what it costs by the clock.

        A concurrent planner never makes the world wait; in the other modes, and for the refiner,
        it does so unless `real_time` is set.
        """
        if self.paced:
            return None
        plan, refine = no_delay, no_delay
        if self.real_time or mode == "concurrent":
            plan = parse_delay(self.delay, rate_hz)
        if self.real_time:
            refine = parse_delay(self.refine_delay, rate_hz)
        return Latency(plan, refine)

    def background(self, policy: Planner, process: Callable[[], Planner]) -> Background | None:
        """Returns a planner in a thread or a process; None where time is simulated.

        Args:
            process: returns a planner in a process of its own, which may be kept for later.
        """
        if self.planner == "thread":
            return ThreadPlanner(_Lent(policy))
        if self.planner == "process":
            return ThreadPlanner(_Lent(process()))
        return None


@dataclass(frozen=True)
class _Lent:
    """A planner that outlives the thread that calls it."""

    owner: Planner

    def plan(self, observation: Observation) -> Plan:
        return self.owner.plan(observation)
