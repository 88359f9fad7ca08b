"""`libra study convergence`: a third of the training budget against all of it."""

from dataclasses import dataclass
from typing import Any

from libra_vla.files import alone_in_out
from libra_vla.studies.arms import Arm, ArmsOptions, study_arms
from libra_vla.studies.machine import Tools


@dataclass(frozen=True)
class ConvergenceConfig(ArmsOptions):
    """Libra and the monolithic policy after a third of the steps, and after all of them.

    A run of a third has a learning-rate schedule of its own, which ends there.

    Attributes:
        base: preset of the monolithic policy; by default that of `preset`.
    """

    base: str | None = None


def arms(config: ConvergenceConfig) -> tuple[Arm, ...]:
    """Two policies, two budgets."""
    base = {"preset": config.base or f"{config.preset}-monolithic"}
    third = {"steps": max(1, config.steps // 3)}
    return (
        Arm("Libra-Base, a third", "monolithic", base | third, 0.721),
        Arm("Libra, a third", "planner and refiner", third, 0.884),
        Arm("Libra-Base", "monolithic", base, 0.883),
        Arm("Libra", "planner and refiner", {}, 0.972),
    )


@alone_in_out
def study_convergence(
    config: ConvergenceConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs the study; see `study_arms`."""
    question = "What a third of the budget buys"
    return study_arms("convergence", question, config, arms(config), tools=tools, quiet=quiet)
