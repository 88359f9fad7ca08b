"""`libra study components`: what refinement brings, and what an encoder of its own."""

from dataclasses import dataclass
from typing import Any

from libra_vla.files import alone_in_out
from libra_vla.studies.arms import Arm, ArmsOptions, study_arms
from libra_vla.studies.machine import Tools


@dataclass(frozen=True)
class ComponentsConfig(ArmsOptions):
    """Libra-Base, Libra-VE, Libra-Refinement and all of it.

    VE: whatever denoises the actions has a visual encoder of its own. Refinement: a planner's
    coarse actions come first. The presets are `preset` with -monolithic, -ve and -refinement.
    """


def arms(config: ComponentsConfig) -> tuple[Arm, ...]:
    """With and without each of the two."""
    preset = config.preset
    return (
        Arm("Libra-Base", "no VE, no refinement", {"preset": f"{preset}-monolithic"}, 0.883),
        Arm("Libra-VE", "VE, no refinement", {"preset": f"{preset}-ve"}, 0.870),
        Arm("Libra-Refinement", "no VE, refinement", {"preset": f"{preset}-refinement"}, 0.951),
        Arm("Libra", "VE and refinement", {}, 0.972),
    )


@alone_in_out
def study_components(
    config: ComponentsConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs the study; see `study_arms`."""
    question = "What each component brings"
    return study_arms("components", question, config, arms(config), tools=tools, quiet=quiet)
