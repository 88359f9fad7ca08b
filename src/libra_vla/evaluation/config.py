"""What an evaluation is asked to do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from libra_vla.errors import LibraError, unknown
from libra_vla.execution.config import Mode

States = Literal["official", "sampled"]
OFFICIAL_TRIALS, OFFICIAL_IMAGE_SIZE = 50, 256


@dataclass(frozen=True)
class EvalConfig:
    """Evaluates a policy on a suite; the defaults are LIBERO's official protocol.

    Attributes:
        policy: folder that `libra train --out` wrote.
        suite: name of the suite.
        out: folder for `results.json` and `episodes.jsonl`.
        tasks: indices of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: trials per task; trial i starts from official initial state i.
        mode: when the planner works.
        horizon_factor: M, chunks per plan; the policy's by default.
        execute: actions carried out of each chunk; all H by default.
        workers: processes, each with a simulator and a policy of its own; 0 uses this one.
        seed: the seed of each trial (fixtures and the policy's noise) derives from it, the
            task's index and the trial's number.
        states: "official" initial states, or "sampled" by the simulator (not comparable).
        spread: metres by which the regions of sampled objects grow; see `LiberoEnv.reset`.
        instruction_from: task index -> index of the task whose instruction the policy is given
            instead of its own: a control that tells whether it listens.
        videos: record the first K trials of each task as `videos/*.mp4` and `traces/*.npz`.
        resume: go on with an evaluation that was stopped; trials that ended in an error are run
            again.
        meshes: "stock", or decimated ones (faster, not comparable).
        image_size: side of the rendered images, pixels.
        max_steps: step budget in place of the benchmark's (not comparable).
        device: torch device of the policy.
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
    instruction_from: dict[int, int] | None = None
    videos: int = 0
    resume: bool = False
    meshes: str = "stock"
    image_size: int = OFFICIAL_IMAGE_SIZE
    max_steps: int | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("episodes", "image_size", "max_steps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LibraError(f"{name} is {value}: expected at least 1")
        for name in ("workers", "seed", "videos", "spread"):
            if getattr(self, name) < 0:
                raise LibraError(f"{name} is {getattr(self, name)}: expected at least 0")
        if self.states not in get_args(States):
            raise unknown("initial states", self.states, get_args(States))
        if self.states == "official" and self.spread > 0:
            raise LibraError("spread only applies to sampled initial states: set states to sampled")

    @property
    def is_official(self) -> bool:
        """Whether the result may be compared with published ones, task by task."""
        return (self.states, self.meshes, self.image_size, self.max_steps) == (
            "official",
            "stock",
            OFFICIAL_IMAGE_SIZE,
            None,
        ) and (self.episodes == OFFICIAL_TRIALS and not self.instruction_from)
