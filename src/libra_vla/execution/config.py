"""How a policy is to be carried out."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from libra_vla.errors import LibraError, unknown
from libra_vla.execution.protocol import Policy, require_inpainting
from libra_vla.execution.safety import SafetyConfig

Mode = Literal["synchronous", "sequential", "concurrent"]


@dataclass(frozen=True)
class ExecutionConfig:
    """How a policy is carried out. Every field but the first three is off or idle by default.

    Attributes:
        mode: when the planner works: "synchronous", at every chunk; "sequential", whenever the
            buffer cannot fill the next chunk; "concurrent", beside the control loop.
        horizon_factor: M, chunks per plan; at most the policy's, which is the default.
        execute: actions carried out of each chunk before the next, 1..H; all H by default.
        watermark: concurrent: the next plan is begun when at most this many coarse actions are
            left; one chunk less than a plan by default, but at least a chunk.
        hold: concurrent: control steps for which the last intent is kept when the buffer has run
            dry, before the robot slows down; H by default.
        slow: control steps over which it then comes to rest.
        max_age: oldest intent that is carried out, in control steps since its observation; those
            in which the robot stands still for inference in line come on top.
        replan_bins: plan again when the refined actions leave the bins of their intents by more
            than this many, in any dimension; never by default.
        replan_confidence: plan again when the planner gave the intents of a chunk less than this
            probability, on average; never by default.
        inpaint: real-time chunking: a chunk joins on to what the last one has left over (Black
            et al. 2025); needs `execute` below H.
        freeze: actions of the last chunk that are kept at the start of the next one, because they
            are carried out while it is being refined; at most H - `execute`.
        safety: limits of what reaches the robot.
    """

    mode: Mode = "sequential"
    horizon_factor: int | None = None
    execute: int | None = None
    watermark: int | None = None
    hold: int | None = None
    slow: int = 4
    max_age: int | None = None
    replan_bins: int | None = None
    replan_confidence: float | None = None
    inpaint: bool = False
    freeze: int = 0
    safety: SafetyConfig = field(default_factory=SafetyConfig)

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise unknown("mode", self.mode, get_args(Mode))
        for name in ("watermark", "hold", "slow", "max_age", "replan_bins", "freeze"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise LibraError(f"{name} is {value}: expected at least 0")
        if self.replan_confidence is not None and not 0.0 <= self.replan_confidence <= 1.0:
            raise LibraError(f"replan_confidence is {self.replan_confidence}: expected 0 to 1")

    def resolve(self, policy: Policy) -> "ExecutionConfig":
        """Fills in what `policy` decides by default.

        Raises:
            LibraError: a field is beyond what the policy was trained for.
        """
        chunk = policy.chunk
        factor = policy.horizon_factor if self.horizon_factor is None else self.horizon_factor
        execute = chunk if self.execute is None else self.execute
        if not 1 <= factor <= policy.horizon_factor:
            raise LibraError(
                f"horizon factor is {factor}: this policy plans for M = {policy.horizon_factor} "
                f"chunks, so expected 1 to {policy.horizon_factor}"
            )
        if not 1 <= execute <= chunk:
            raise LibraError(
                f"execute is {execute}: this policy's chunks hold H = {chunk} actions, so "
                f"expected 1 to {chunk}"
            )
        if self.freeze + execute > chunk or (self.inpaint and execute == chunk):
            raise LibraError(
                f"execute is {execute} and freeze {self.freeze}, but a chunk holds H = {chunk} "
                "actions: leave some of it over for the next chunk to begin with"
            )
        if self.max_age is not None and self.max_age < execute - 1:
            raise LibraError(
                f"max_age is {self.max_age}: a chunk's last action is {execute - 1} control steps "
                "old at least; allow that, or lower execute"
            )
        if self.inpaint:
            require_inpainting(policy)
        if self.mode != "concurrent":
            return replace(self, horizon_factor=factor, execute=execute)
        return replace(
            self,
            horizon_factor=factor,
            execute=execute,
            watermark=max(1, factor - 1) * chunk if self.watermark is None else self.watermark,
            hold=chunk if self.hold is None else self.hold,
        )
