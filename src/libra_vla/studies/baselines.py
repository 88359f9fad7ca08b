"""`libra study baselines`: policies of equal size, data and training beside Libra.

What the review of the paper asked for; see `libra_vla.policies.baselines`.
"""

from dataclasses import dataclass
from typing import Any

from libra_vla.errors import unknown
from libra_vla.files import alone_in_out
from libra_vla.studies.arms import Arm, ArmsOptions, study_arms
from libra_vla.studies.machine import Tools

BASELINES = {
    "monolithic": "flow matching that reads all of the backbone: Libra-Base",
    "diffusion": "the same by DDPM with noise prediction",
    "action-expert": "flow matching beside the backbone, block by block (pi0)",
    "autoregressive": "one of 256 levels after the other (RT-2, OpenVLA)",
    "parallel": "all at once, L1 regression (OpenVLA-OFT)",
    "prompted": "coarse words, then fine ones, in one sequence (RT-2 with prompting)",
    "fast-in-slow": "a fast system that shares the slow one's last blocks (Fast-in-Slow)",
}
"""Preset `PRESET-NAME` -> what it is; each has Libra's number of parameters within 5 %."""
VARIANTS = {
    # No weight is shared and no gradient passes, so that with true intents throughout the joint
    # loss trains each system by itself (but for the clipping of the common gradient norm); the bins
    # between them are the frozen interface.
    "modular": Arm("modular", "Libra, trained apart", {"curriculum": "teacher_forcing"}),
    "soft": Arm("soft", "Libra, told how sure its planner is", {"intents": "soft"}),
}
"""Libra itself, otherwise trained."""


@dataclass(frozen=True)
class BaselinesConfig(ArmsOptions):
    """Other policies, with the same steps, demonstrations and trials.

    Attributes:
        baselines: which of them; "modular" is Libra with its systems trained apart, "soft" Libra
            with soft intents.
    """

    baselines: tuple[str, ...] = (*BASELINES, *VARIANTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.baselines:
            if name not in (known := (*BASELINES, *VARIANTS)):
                raise unknown("baseline", name, known)


def arms(config: BaselinesConfig) -> tuple[Arm, ...]:
    """The baselines, then Libra."""
    others = [
        Arm(name, BASELINES[name], {"preset": f"{config.preset}-{name}"})
        if name in BASELINES
        else VARIANTS[name]
        for name in config.baselines
    ]
    return (*others, Arm("Libra", "planner and refiner", {}))


@alone_in_out
def study_baselines(
    config: BaselinesConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Runs the study; see `study_arms`."""
    question = "Libra beside other policies of its size"
    return study_arms("baselines", question, config, arms(config), tools=tools, quiet=quiet)
