"""Which coarse actions the refiner is trained on: the true ones, or the planner's own."""

from dataclasses import dataclass

from libra_vla.training.config import Curriculum

MEMORY = 0.98
"""Decay of the running accuracy: about the last 50 steps count."""


@dataclass
class CurriculumState:
    """Dynamic curriculum (paper, training strategy): teacher forcing until the planner is good.

    Attributes:
        kind: see `TrainConfig.curriculum`.
        threshold: running bin accuracy that switches.
        latest: step at which it switches in any case.
        accuracy: running bin accuracy of the planner on training batches.
        switched_at: step from which the planner's predictions are used, or None.
    """

    kind: Curriculum
    threshold: float
    latest: int
    accuracy: float = 0.0
    switched_at: int | None = None

    def predicted_intents(self, step: int) -> bool:
        """Whether the refiner is conditioned on the planner's predictions at this step."""
        if self.kind == "teacher_forcing":
            return False
        if self.kind == "none":
            return True
        if self.switched_at is None and (self.accuracy >= self.threshold or step >= self.latest):
            self.switched_at = step
        return self.switched_at is not None

    def observe(self, accuracy: float) -> None:
        """Takes in the planner's accuracy on one batch."""
        self.accuracy = MEMORY * self.accuracy + (1.0 - MEMORY) * accuracy
