"""What `libra study suites` asks of its stages: scenes and demonstrations to collect, trainings and
evaluations, by round."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from libra_vla.collection import CollectConfig
from libra_vla.config import Intents, load_preset
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import OFFICIAL_TRIALS, EvalConfig
from libra_vla.execution.config import Mode
from libra_vla.training.config import OptimiserKind, Precision, TrainConfig

PAPER = {"libero_spatial": 0.986, "libero_object": 0.994, "libero_goal": 0.980, "libero_10": 0.928}
"""The paper's success with N = 10, H = 5 and M = 2."""
STILLS, STILLS_SEED = 4, 50
"""Pictures of each scene that is looked at, and what is added to the seed for them."""


@dataclass(frozen=True)
class SuitesConfig:
    """One policy for all tasks of some suites: collects, trains, evaluates; every stage resumes.

    The defaults are the recipe of `libra-small-libero`, from scratch: Libra's planner learns to
    look, then to plan; then its refiner learns what to make of these plans; a round of DAgger.

    Attributes:
        out: folder for everything.
        policy: a trained policy, or the name of one that comes with the package: it is evaluated,
            and nothing is collected or trained.
        suites: names of the suites.
        demonstrations: per task and spread, by the scripted experts.
        spreads: of the demonstrations, metres: as the benchmark has its objects, and wide enough
            for a policy to have to look. See `libra collect --spread`.
        recovery, fumble, shoves, draw_every: of the demonstrations; see `libra collect`.
        scenes: per task, at `stills_spread`, from whose stills Libra's planner learns where things
            are (`libra train --stills`); 0 for none.
        stills_spread: of these, metres.
        preset: of Libra; Libra-Base is its `-monolithic` twin.
            One that plans by places alone has demonstrations tell them, too, and learns to look
            from their pictures as well.
        image_size, intents: by default the preset's; intents are Libra's. See `libra train`.
        stills_batch: of Libra; see `libra train`.
        looking: optimiser steps in which Libra's planner learns to look, alone; then it learns to
            plan by that, alone, and then the refiner. 0 for everything at once.
        steps: optimiser steps of the policies that are evaluated; with `looking`, of the planner.
        refining: with `looking`, of the refiner.
        base_steps: of Libra-Base, about as many as take as long as all of Libra's, whose parts are
            cheaper: the results say how long each took. 0 for as many as `steps`.
        optimiser, batch_size, learning_rate, shift, jitter, paraphrase, focus, hasten, precision,
            intent_noise: of every training; see `libra train`.
        rounds: of DAgger.
        round_demonstrations: per task and round, at the first of `spreads`.
        pass_over: in a round; see `libra collect`.
        driver_steps: optimiser steps of the policy that drives in a round; with `looking`, of its
            planner and of its refiner.
        trials: official initial states per task; a finished study can be given more.
        noise_seeds: evaluations of Libra, which differ in the policy's noise; other arms have one.
            A finished study can be given more.
        max_steps: control steps of a demonstration.
        seed: of everything else.
        workers: processes.
    """

    out: Path = Path("runs/suites")
    policy: Path | None = None
    suites: tuple[str, ...] = tuple(PAPER)
    demonstrations: int = 10
    spreads: tuple[float, ...] = (0.0, 0.02)
    recovery: float = 0.0
    fumble: float = 0.15
    shoves: float = 0.6
    draw_every: int = 5
    scenes: int = 30
    stills_spread: float = 0.04
    preset: str = "small-places"
    image_size: int | None = None
    intents: Intents | None = "soft"
    stills_batch: int = 64
    looking: int = 5000
    steps: int = 12000
    refining: int = 5000
    base_steps: int = 6000
    optimiser: OptimiserKind = TrainConfig.optimiser
    batch_size: int = 64
    learning_rate: float = 8e-4
    shift: float = 0.02
    jitter: float = 0.3
    paraphrase: float = 0.0
    focus: float = 0.2
    hasten: bool = False
    precision: Precision = TrainConfig.precision
    intent_noise: float = 0.0
    rounds: int = 1
    round_demonstrations: int = 8
    pass_over: int = 3
    driver_steps: int = 1500
    trials: int = OFFICIAL_TRIALS
    noise_seeds: int = 3
    max_steps: int = 700
    seed: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("demonstrations", "steps", "trials", "noise_seeds", "workers"):
            if getattr(self, name) < 1:
                raise LibraError(f"{name} is {getattr(self, name)}: expected at least 1")
        if not self.suites or not self.spreads or self.rounds < 0:
            raise LibraError("expected at least one suite and spread, and 0 or more rounds")
        if self.by_places and not self.scenes:
            raise LibraError(
                f"preset '{self.preset}' plans by places, which stills teach: add --scenes"
            )
        if self.looking and not (self.by_places and self.refining > 0):
            raise LibraError(
                f"preset '{self.preset}' does not learn in turn with {self.refining} steps of "
                "refining: take one that plans by places, and 1 or more, or --looking 0"
            )

    @property
    def by_places(self) -> bool:
        """Whether Libra's planner looks for places and at nothing else."""
        return not load_preset(self.preset).planner.sees


@dataclass(frozen=True)
class Arm:
    """A policy and how it is carried out."""

    name: str
    policy: str
    mode: Mode


LIBRA, BASE = "Libra", "Libra-Base"
LOOKS, PLANS = "Libra-looks", "Libra-plans"
"""What Libra begins with, where its halves learn in turn."""
ARMS = (
    Arm("Libra", LIBRA, "sequential"),
    Arm("Libra, synchronous", LIBRA, "synchronous"),
    Arm("Libra-Base", BASE, "synchronous"),
)


def policy_folder(config: SuitesConfig, name: str, number: int) -> Path:
    """Where the policy of a round is."""
    return config.out / "policies" / f"{name}-{number}"


def dataset(config: SuitesConfig, number: int) -> Path:
    """Everything that was collected up to a round."""
    first, *others = collections(config, 0)
    if number == 0 and not others:
        return first.out
    return config.out / "demonstrations" / f"all-{number}"


def stills(config: SuitesConfig) -> Path:
    """Where the pictures are from which Libra's planner learns to look."""
    first, *others = config.suites
    return config.out / "stills" / ("all" if others or config.by_places else first)


def looks(config: SuitesConfig) -> Iterator[CollectConfig]:
    """Yields what stills are taken, by suite."""
    for suite in config.suites:
        yield CollectConfig(
            suite=suite,
            out=config.out / "stills" / suite,
            episodes=config.scenes,
            workers=config.workers,
            seed=config.seed + STILLS_SEED,
            spread=config.stills_spread,
            stills=STILLS,
            resume=True,
        )


def collections(config: SuitesConfig, number: int) -> Iterator[CollectConfig]:
    """Yields what a round adds, by suite and spread. Every one has seeds of its own."""
    folder = config.out / "demonstrations"
    for at, (suite, spread) in enumerate(product(config.suites, config.spreads)):
        part = CollectConfig(
            suite=suite,
            out=folder / f"{suite}-{number}-spread{spread:g}",
            episodes=config.demonstrations,
            workers=config.workers,
            seed=config.seed + 100 * number + at % len(config.spreads),
            spread=spread,
            recovery=config.recovery,
            fumble=config.fumble,
            shoves=config.shoves,
            draw_every=config.draw_every,
            places=config.by_places,
            max_steps=config.max_steps,
            resume=True,
        )
        if number == 0:
            yield part
        elif spread == config.spreads[0]:
            yield replace(
                part,
                episodes=config.round_demonstrations,
                fumble=0.0,
                shoves=0.0,
                policy=policy_folder(config, LIBRA, number - 1),
                pass_over=config.pass_over,
            )


def trainings(config: SuitesConfig, number: int) -> Iterator[TrainConfig]:
    """Yields the trainings of a round, from scratch on all data so far: the next round's driver, or
    in the end both policies."""
    last = number == config.rounds
    libra = TrainConfig(
        data=dataset(config, number),
        out=policy_folder(config, LIBRA, number),
        stills=stills(config) if config.scenes else None,
        stills_batch=config.stills_batch,
        preset=config.preset,
        image_size=config.image_size,
        intents=config.intents,
        steps=config.steps if last else config.driver_steps,
        optimiser=config.optimiser,
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        paraphrase=config.paraphrase,
        focus=config.focus,
        hasten=config.hasten,
        precision=config.precision,
        intent_noise=config.intent_noise,
        curriculum="none",
        shift=config.shift,
        jitter=config.jitter,
        ema=0.998,
        seed=config.seed + number,
        threads=1 if last else config.workers,
        resume=True,
    )
    if config.looking:
        yield from _in_turn(config, number, libra)
    else:
        yield libra
    if last:
        yield replace(
            libra,
            out=policy_folder(config, BASE, number),
            preset=f"{config.preset}-monolithic",
            stills=None,
            intents=None,
            steps=config.base_steps or config.steps,
        )


def _in_turn(config: SuitesConfig, number: int, libra: TrainConfig) -> Iterator[TrainConfig]:
    """Yields Libra's training in parts, each of which begins with what the one before has learned.

    It learns to look once, in the first round, when nothing else is to do. What is shifted in a
    picture is not where it is said to be: the planner sees none of that while it learns.
    """
    looking, planning = policy_folder(config, LOOKS, 0), policy_folder(config, PLANS, number)
    if number == 0:
        yield replace(
            libra, out=looking, steps=config.looking, shift=0.0,
            planner_weight=0.0, refiner_weight=0.0, threads=config.workers,
        )  # fmt: skip
    yield replace(
        libra, out=planning, init=looking, stills=None, shift=0.0, refiner_weight=0.0,
    )  # fmt: skip
    last = number == config.rounds
    yield replace(
        libra, init=planning, stills=None, planner_weight=0.0,
        steps=config.refining if last else config.driver_steps,
    )  # fmt: skip


def rows(config: SuitesConfig) -> tuple[Arm, ...]:
    """The arms. A policy that there was already goes by its folder's name, without Libra-Base."""
    if config.policy is None:
        return ARMS
    return tuple(
        replace(arm, name=arm.name.replace(LIBRA, config.policy.name))
        for arm in ARMS
        if arm.policy == LIBRA
    )


def arms(config: SuitesConfig) -> Iterator[tuple[Arm, EvalConfig]]:
    """Yields every evaluation: arm x suite x seed of the noise. Only the first arm has more than
    one seed, and films of its failures."""
    first, *_ = shown = rows(config)
    for arm, suite in product(shown, config.suites):
        for seed in range(config.noise_seeds if arm is first else 1):
            yield (
                arm,
                EvalConfig(
                    policy=config.policy or policy_folder(config, arm.policy, config.rounds),
                    suite=suite,
                    out=config.out / "evaluations" / f"{arm.name}, {suite}, seed {seed}",
                    episodes=config.trials,
                    mode=arm.mode,
                    seed=seed,
                    videos="failures" if arm is first and seed == 0 else 0,
                    workers=0,
                    resume=True,
                ),
            )
