"""What an evaluation is asked to do."""

import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from libra_vla.errors import LibraError, unknown
from libra_vla.evaluation.timing import PlannerKind, Timing
from libra_vla.execution.config import ExecutionConfig, Mode
from libra_vla.execution.safety import SafetyConfig

States = Literal["official", "sampled"]
Instruction = Literal["own", "permuted"]
OFFICIAL_TRIALS = 50


@dataclass(frozen=True)
class EvalConfig:
    """Evaluates a policy on a suite; the defaults are the benchmark's official protocol.

    Attributes:
        policy: folder that `libra train --out` wrote.
        suite: name of the suite.
        out: folder for `results.json` and `episodes.jsonl`.
        tasks: indices or names of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: trials per task; trial i starts from official initial state i.
        mode: when the planner works.
        horizon_factor: M, chunks per plan; the policy's by default.
        execute: actions carried out of each chunk; all H by default.
        workers: processes, each with a simulator and a policy of its own; 0 uses this one.
        seed: the seed of each trial (fixtures and the policy's noise) derives from it, the
            task's index and the trial's number.
        states: "official" initial states, or "sampled" by the simulator (not comparable).
        spread: metres by which the regions of sampled objects grow (LIBERO).
        instruction: whose the policy is given: the task's "own", or "permuted", that of the next
            of `tasks` whose goal can be told in the same scene; tasks without one are left out.
        instruction_from: task index -> index of the task whose instruction the policy is given
            instead of its own: a control that tells whether it listens.
        paraphrase: give every instruction in other words, by the number of its paraphrase; number 0
            is never used in training.
        explain_failures: run every failure again from the same state and seed in synchronous mode
            without delay; if that succeeds, asynchrony is to blame.
        videos: record the first K trials of each task as `videos/*.mp4` and `traces/*.npz`, or all
            "failures".
        resume: go on with an evaluation that was stopped, or with more trials than it had; trials
            that ended in an error are run again.
        meshes: "stock", or "decimated" (LIBERO; faster, not comparable).
        image_size: side of the rendered images, pixels; the benchmark's by default.
        max_steps: step budget in place of the benchmark's (not comparable).
        device: torch device of the policy.
        real_time: the world goes on at its control rate while inference runs; otherwise it waits
            for everything but a concurrent planner.
        delay: how long a plan takes: "measured" (the default), control steps such as "4" or, with
            jitter, "4~2", or a file with latencies in milliseconds.
        refine_delay: how long a chunk's refinement takes, likewise; 0 if only `delay` is given.
        planner: what works beside the control loop in concurrent mode: "simulated" counts control
            steps and can be repeated; "thread" and "process" follow the clock.
        move_object: "20:0.04" moves the object of the task by 4 cm at control step 20, in a drawn
            direction.
        watermark: concurrent: the next plan is begun when at most this many coarse actions are
            left; one chunk less than a plan by default.
        hold: concurrent: control steps for which the last intent is kept when no plan has come; H
            by default.
        slow: control steps over which the robot then comes to rest.
        max_age: oldest intent that is carried out, control steps.
        replan_bins: plan again when refined actions leave their bins by more than this many.
        replan_confidence: plan again when the planner gave its intents less than this probability.
        inpaint: real-time chunking: a chunk joins on to the last one's rest; needs `execute` below
            H.
        freeze: actions of the last chunk that begin the next one, at most H - `execute`.
        safety: limits of what reaches the robot.
    """

    policy: Path
    suite: str
    out: Path
    tasks: str | None = None
    episodes: int = OFFICIAL_TRIALS
    mode: Mode = "sequential"
    horizon_factor: int | None = None
    execute: int | None = None
    workers: int = 2
    seed: int = 0
    states: States = "official"
    spread: float = 0.0
    instruction: Instruction = "own"
    instruction_from: dict[int, int] | None = None
    paraphrase: int | None = None
    explain_failures: bool = False
    videos: int | Literal["failures"] = 0
    resume: bool = False
    meshes: str = "stock"
    image_size: int | None = None
    max_steps: int | None = None
    device: str = "cpu"
    real_time: bool = False
    delay: str | None = None
    refine_delay: str | None = None
    planner: PlannerKind = "simulated"
    move_object: str | None = None
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
        for name in ("episodes", "image_size", "max_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LibraError(f"{name} is {value}: expected at least 1")
        for name in ("workers", "seed", "videos", "spread"):
            if (value := getattr(self, name)) != "failures" and value < 0:
                raise LibraError(f"{name} is {value}: expected at least 0")
        for name, known in (("states", States), ("instruction", Instruction)):
            if (value := getattr(self, name)) not in get_args(known):
                raise unknown(name, value, get_args(known))
        if self.instruction != "own" and self.instruction_from:
            raise LibraError("instruction_from says whose instruction is given: leave instruction")
        if self.explain_failures and self.mode == "synchronous" and not self.real_time:
            raise LibraError(
                "explain_failures compares with synchronous mode without delay, which this is: "
                "choose another mode, or leave it out"
            )
        if self.states == "official" and self.spread > 0:
            raise LibraError("spread only applies to sampled initial states: set states to sampled")
        _ = self.timing, self.execution, self.moved_object  # raise if they are wrong

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide what comes out, beside the policy."""
        free = ("policy", "out", "workers", "device", "videos", "resume")
        return {k: v for k, v in asdict(self).items() if k not in free}

    @property
    def execution(self) -> ExecutionConfig:
        """How the policy is carried out."""
        return ExecutionConfig(**{f.name: getattr(self, f.name) for f in fields(ExecutionConfig)})

    @property
    def timing(self) -> Timing:
        """How time passes."""
        return Timing.of(
            self.mode,
            real_time=self.real_time,
            delay=self.delay,
            refine_delay=self.refine_delay,
            planner=self.planner,
        )

    @property
    def moved_object(self) -> tuple[int, float] | None:
        """Control step and metres of `move_object`."""
        if self.move_object is None:
            return None
        if (found := re.fullmatch(r"(\d+):(\d*\.?\d+)", self.move_object)) is None:
            raise LibraError(
                f"move_object is '{self.move_object}': expected a control step and metres, such as "
                "20:0.04"
            )
        return int(found[1]), float(found[2])
