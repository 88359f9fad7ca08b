"""`libra study curriculum`: on which intents should the refiner be trained?"""

from dataclasses import dataclass
from typing import Any

from libra_vla.files import alone_in_out
from libra_vla.studies.arms import Arm, ArmsOptions, study_arms
from libra_vla.studies.machine import Tools

ARMS = (
    Arm("teacher forcing", "true intents throughout", {"curriculum": "teacher_forcing"}, 0.960),
    Arm("none", "the planner's throughout", {"curriculum": "none"}, 0.955),
    Arm("dynamic", "true ones, then the planner's", {"curriculum": "dynamic"}, 0.972),
)


@dataclass(frozen=True)
class CurriculumConfig(ArmsOptions):
    """True intents, the planner's own, or first the ones and then the others."""


@alone_in_out
def study_curriculum(
    config: CurriculumConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs the study; see `study_arms`."""
    question = "Which intents to train the refiner on"
    return study_arms("curriculum", question, config, ARMS, tools=tools, quiet=quiet)
