"""What an executor did: chunk by chunk, plan by plan, and where it stood still."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np


@dataclass
class ChunkRecord:
    """One chunk of an episode.

    Attributes:
        step: control step of its first action, which is also that of the refiner's observation
            (unless the robot had to wait for it).
        plan_step: control step of the observation behind its intents.
        coarse: int64 [H, D], the intents.
        confidence: float32 [H, D], the planner's probability of each intent, in [0, 1].
        actions: float32 [H, D], raw, as refined.
        plan_ms: milliseconds of `plan` on the control path; None where the intents were in the
            buffer already.
        refine_ms: milliseconds of `refine`.
        executed: how many of the actions have been given out.
        own: rows whose intents are the plan's; those after them repeat its last one.
        length: how many of the actions may be given out.
        deviation: bins by which an action leaves its intent's, at most, the gripper left out.
    """

    step: int
    plan_step: int
    coarse: np.ndarray
    confidence: np.ndarray
    actions: np.ndarray
    plan_ms: float | None
    refine_ms: float
    executed: int = 0
    own: int = 0
    length: int = 0
    deviation: int = 0

    @property
    def planned(self) -> bool:
        """Whether a plan was made for this chunk, on the control path."""
        return self.plan_ms is not None


@dataclass(frozen=True)
class PlanRecord:
    """One plan that reached the executor.

    Attributes:
        step: control step of its observation.
        arrived: control step at which it could be used.
        kept: how many of its coarse actions were still to come then; 0: it came too late.
        ms: milliseconds of `plan`.
        why: what it was made for: "due", or what the last chunk gave cause to.
    """

    step: int
    arrived: int
    kept: int
    ms: float
    why: Literal["due", "disagreement", "low confidence"] = "due"


@dataclass
class Halt:
    """Control steps in which the robot was given no chunk's action: it slowed down, and stood.

    Attributes:
        step: the first one.
        steps: how many.
        reason: why, as known at its end.
        starved: whether intents were missing; False: it waited for inference, as those modes do
            that plan in line.
    """

    step: int
    steps: int
    reason: str
    starved: bool


def trace_arrays(trace: Sequence[ChunkRecord]) -> dict[str, np.ndarray]:
    """Stacks C >= 1 records: [C] or [C, H, D] each; `plan_ms` is NaN where not planned."""
    return {
        "step": np.array([c.step for c in trace]),
        "plan_step": np.array([c.plan_step for c in trace]),
        "planned": np.array([c.planned for c in trace]),
        "coarse": np.stack([c.coarse for c in trace]),
        "confidence": np.stack([c.confidence for c in trace]),
        "actions": np.stack([c.actions for c in trace]),
        "executed": np.array([c.executed for c in trace]),
        "own": np.array([c.own for c in trace]),
        "plan_ms": np.array([np.nan if c.plan_ms is None else c.plan_ms for c in trace]),
        "refine_ms": np.array([c.refine_ms for c in trace]),
    }


def summarise(
    trace: Sequence[ChunkRecord], plans: Sequence[PlanRecord], halts: Sequence[Halt]
) -> dict[str, Any]:
    """What happened in an episode, as JSON values.

    `age` is that of the observation behind each executed action, in control steps; `held_steps`
    are those on a repeated last intent.
    """
    ages = [age for c in trace for age in range(c.step - c.plan_step, _end(c) - c.plan_step)]
    starved = [halt for halt in halts if halt.starved]
    return {
        "plans": len(plans),
        "late_plans": sum(p.kept == 0 for p in plans),
        "replans": {
            why: sum(p.why == why for p in plans) for why in ("disagreement", "low confidence")
        },
        "age": {"mean": float(np.mean(ages)) if ages else None, "max": max(ages, default=None)},
        "held_steps": sum(max(0, c.executed - c.own) for c in trace),
        "starved": len(starved),
        "starved_steps": sum(h.steps for h in starved),
        "waited_steps": sum(h.steps for h in halts if not h.starved),
        "halts": [asdict(h) for h in starved],
    }


def _end(chunk: ChunkRecord) -> int:
    return chunk.step + chunk.executed
