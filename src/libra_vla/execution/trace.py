"""What an executor did, chunk by chunk."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass
class ChunkRecord:
    """One chunk of an episode.

    Attributes:
        step: control step of its first action, which is also that of the refiner's observation.
        plan_step: control step of the observation behind its intents.
        coarse: int64 [H, D], the intents.
        confidence: float32 [H, D], the planner's probability of each intent, in [0, 1].
        actions: float32 [H, D], raw, as refined.
        plan_ms: milliseconds of `plan`; None where the intents were in the buffer already.
        refine_ms: milliseconds of `refine`.
        executed: how many of the actions have been given out.
    """

    step: int
    plan_step: int
    coarse: np.ndarray
    confidence: np.ndarray
    actions: np.ndarray
    plan_ms: float | None
    refine_ms: float
    executed: int = 0

    @property
    def planned(self) -> bool:
        """Whether a plan was made for this chunk."""
        return self.plan_ms is not None


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
        "plan_ms": np.array([np.nan if c.plan_ms is None else c.plan_ms for c in trace]),
        "refine_ms": np.array([c.refine_ms for c in trace]),
    }
