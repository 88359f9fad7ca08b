"""`libra study baselines`: policies of equal size, data and training beside Libra."""

from dataclasses import dataclass
from typing import Any

from libra_vla.studies.arms import Arm, study_arms
from libra_vla.studies.machine import StudyOptions, Tools


@dataclass(frozen=True)
class BaselinesConfig(StudyOptions):
    """Other policies, with the same steps, demonstrations and trials.

    Attributes:
        baselines: names of their presets.
    """

    baselines: tuple[str, ...] = ("tiny-monolithic",)


def arms(config: BaselinesConfig) -> tuple[Arm, ...]:
    """The baselines, then Libra."""
    others = [Arm(name, "baseline", {"preset": name}) for name in config.baselines]
    return (*others, Arm(config.preset, "Libra", {}))


def study_baselines(
    config: BaselinesConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs the study; see `study_arms`."""
    question = "Libra beside other policies of its size"
    return study_arms("baselines", question, config, arms(config), tools=tools, quiet=quiet)
