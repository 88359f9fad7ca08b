"""How a policy is trained; every field can be set on the command line."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from libra_vla.action_space import Normalisation
from libra_vla.config import Intents
from libra_vla.errors import LibraError, unknown

Curriculum = Literal["dynamic", "teacher_forcing", "none"]
OptimiserKind = Literal["adamw", "muon"]
Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Trains a policy on a dataset.

    Attributes:
        data: LeRobot v3.0 dataset.
        out: run folder: `checkpoint/` (safetensors and JSON), `metrics.jsonl`.
        preset: name of a preset; see `libra info`.
        init: start from the weights of this policy instead, and keep its architecture and its
            normalisation; the preset and its changes are then without effect, unless it grows.
        grow: with init, take the architecture of the preset and its changes all the same, and from
            the other policy its normalisation and all weights that fit.
        resume: continue the run in `out` exactly where its last saved state stands.
        blind: train without images (a control: what can be done without looking).
        steps: optimiser steps.
        batch_size: samples per step.
        optimiser: "muon" for the matrices inside the networks and AdamW for the rest, or "adamw"
            for all, which takes almost twice the steps to the same validation loss from scratch.
        learning_rate: peak of the cosine schedule.
        warmup: steps of linear warm-up.
        weight_decay: of the optimiser.
        clip: largest gradient norm.
        ema: decay of the averaged weights, which are those that are saved.
        draws: noise draws per encoded image.
        shift: random-shift augmentation, largest shift as a share of the image side.
        jitter: random brightness and contrast, largest relative change.
        paraphrase: probability with which a sample's instruction is put into other words; see
            `libra_vla.paraphrases`.
        focus: share of the samples that are drawn from the 0.8 s before the gripper opens or
            closes, where a centimetre counts; the others are drawn from everywhere.
        hasten: let the gripper open or close as soon as the robot is where a demonstration waits to
            do so; see `libra_vla.training.hindsight`.
        curriculum: intents the refiner is trained on: "dynamic" (true ones until the planner's
            accuracy reaches `curriculum_accuracy`, then the planner's), "teacher_forcing" (true
            ones throughout), "none" (the planner's throughout).
        curriculum_accuracy: running bin accuracy on training batches that switches.
        curriculum_latest: share of the steps after which it switches in any case, so that the
            refiner always meets the planner's mistakes before it is deployed.
        intent_noise: how far the hard intents the refiner is trained on are off, as a share of
            the range of an action; see `libra_vla.policies.losses.displaced`.
        planner_weight, refiner_weight: of the joint loss (open in the paper). With 0 that half
            stays as it is, and a step costs about half as much; validation grades both. With both 0
            a planner that plans by places learns to look alone, from stills, and plans by what it
            sees as before; without `init`, where there are no plans yet, it learns words, too.
        stills: dataset of `libra collect --stills`, from which the planner learns to tell where the
            things are that it is to go to; what it tells, its plans are made from. A policy of
            `init` that tells none learns to. Leave shift at 0: in demonstrations that are shifted
            it tells wrong places. Without stills a planner that plans by places alone learns to
            plan, and looks as before.
        stills_batch: stills per step, beside the samples.
        places_weight: of the loss of what is told, beside the other two.
        granularity: N; by default the preset's.
        gripper_bins: N of the gripper dimension; by default the preset's.
        horizon_factor: M, chunks per plan; by default the preset's. A policy may be carried out
            with any smaller one.
        image_size: side of the square images that the policy receives, in pixels, a multiple of 16;
            by default the preset's.
        intents: "hard" or "soft"; by default the preset's. See `libra_vla.config.PolicyConfig`.
        normalisation: how raw actions map to [-1, 1].
        validation: share of the episodes held out of training, for the logged validation losses.
        leave_out: demonstrations that are neither learned from nor held out, by the numbers that
            the dataset gives its episodes, such as "3,17,40-52".
        split: seed that draws the held-out episodes and their batches; by default `seed`.
        precision: "bf16" computes the networks in bfloat16 while they learn, which is faster on
            CPUs with instructions for it (AMX, AVX512_BF16), else slower; weights stay float32.
        seed: of initialisation, sampling, augmentation and noise.
        threads: torch threads; 0 leaves torch's choice. Resuming is exact for equal numbers.
        save_every: steps between saved states.
        log_every: steps between lines of `metrics.jsonl`.
    """

    data: Path
    out: Path
    preset: str = "tiny"
    init: Path | None = None
    grow: bool = False
    resume: bool = False
    blind: bool = False
    steps: int = 2000
    batch_size: int = 32
    optimiser: OptimiserKind = "muon"
    learning_rate: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-2
    clip: float = 1.0
    ema: float = 0.995
    draws: int = 2
    shift: float = 0.02
    jitter: float = 0.15
    paraphrase: float = 0.0
    focus: float = 0.0
    hasten: bool = False
    curriculum: Curriculum = "dynamic"
    curriculum_accuracy: float = 0.8
    curriculum_latest: float = 0.6
    intent_noise: float = 0.0
    planner_weight: float = 1.0
    refiner_weight: float = 1.0
    stills: Path | None = None
    stills_batch: int = 32
    places_weight: float = 1.0
    granularity: int | None = None
    gripper_bins: int | None = None
    horizon_factor: int | None = None
    image_size: int | None = None
    intents: Intents | None = None
    normalisation: Normalisation = "min_max"
    validation: float = 0.0
    leave_out: str = ""
    split: int | None = None
    precision: Precision = "fp32"
    seed: int = 0
    threads: int = 0
    save_every: int = 500
    log_every: int = 20

    def __post_init__(self) -> None:
        for name in ("paraphrase", "focus"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise LibraError(f"{name} is {getattr(self, name)}: expected a probability, 0 to 1")
        if self.grow and self.init is None:
            raise LibraError("grow is about a policy that training begins with: add --init")
        if self.intent_noise < 0.0:
            raise LibraError(f"intent_noise is {self.intent_noise}: expected 0 or more")
        weights = (self.planner_weight, self.refiner_weight)
        if min(weights) < 0.0 or (self.only_looks and self.stills is None):
            raise LibraError(
                f"planner_weight and refiner_weight are {weights[0]} and {weights[1]}: expected 0 "
                "or more, and not both 0 without --stills"
            )
        if self.stills is not None and not (
            (self.planner_weight > 0.0 or self.only_looks)
            and self.places_weight > 0.0
            and self.stills_batch > 0
        ):
            raise LibraError(
                "stills teach the planner: leave them out, or make planner_weight, "
                "places_weight and stills_batch more than 0"
            )
        if self.optimiser not in get_args(OptimiserKind):
            raise unknown("optimiser", self.optimiser, get_args(OptimiserKind))
        if self.precision not in get_args(Precision):
            raise unknown("precision", self.precision, get_args(Precision))

    @property
    def only_looks(self) -> bool:
        """Whether nothing but where things are is learned."""
        return not (self.planner_weight or self.refiner_weight)

    @property
    def split_seed(self) -> int:
        """What draws the held-out episodes."""
        return self.seed if self.split is None else self.split

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide what comes out, beside the data and the initial weights."""
        free = ("data", "stills", "out", "init", "resume", "threads", "save_every", "log_every")
        return {k: v for k, v in asdict(self).items() if k not in free}
