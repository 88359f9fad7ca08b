"""`libra study suites`: the paper's first table, from nothing: demonstrations, training, official
evaluation of one policy on all suites.

Demonstrations come from sampled resets, and the official initial states are looked at once, at the
end. Between the two, rounds of DAgger: a policy that was trained on all demonstrations so far
drives, and the expert takes over. The policies that are evaluated are trained from scratch on
everything.

Libra runs in synchronous mode too, from the same states with the same seeds: a failure that does
not happen there counts as asynchrony-induced, without a second run of each failure.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from libra_vla.collection import CollectConfig, collect
from libra_vla.config import Intents, load_preset
from libra_vla.data.merge import merge
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import OFFICIAL_TRIALS, EvalConfig
from libra_vla.evaluation.statistics import rate
from libra_vla.execution.config import Mode
from libra_vla.files import alone_in_out, read_json, write_json
from libra_vla.reports.evaluation import write_evaluation_report
from libra_vla.reports.inputs import Curves
from libra_vla.reports.suites import write_report
from libra_vla.simulation.registry import benchmark_of
from libra_vla.stages import StageClock, train_and_evaluate
from libra_vla.studies.machine import REPORT, STUDY, claim
from libra_vla.training.config import OptimiserKind, Precision, TrainConfig
from libra_vla.versions import versions

PAPER = {"libero_spatial": 0.986, "libero_object": 0.994, "libero_goal": 0.980, "libero_10": 0.928}
"""The paper's success with N = 10, H = 5 and M = 2."""
STILLS, STILLS_SEED = 4, 50
"""Pictures of each scene that is looked at, and what is added to the seed for them."""
CLOCK, METRICS = "stages.json", "metrics.jsonl"


@dataclass(frozen=True)
class SuitesConfig:
    """One policy for all tasks of some suites: collects, trains, evaluates; every stage resumes.

    The defaults are those of the first stage of `libra-small-libero`, but for `precision`, "bf16".

    Attributes:
        out: folder for everything.
        suites: names of the suites.
        demonstrations: per task and spread, by the scripted experts.
        spreads: of the demonstrations, metres: as the benchmark has its objects, and wide enough
            for a policy to have to look. See `libra collect --spread`.
        recovery, fumble, shoves, draw_every: of the demonstrations; see `libra collect`.
        scenes: per task, at the widest of `spreads`, from whose stills Libra's planner learns where
            things are (`libra train --stills`; `shift` is best 0 then); none by default.
        preset: of Libra; Libra-Base is its `-monolithic` twin.
            One that plans by places alone has demonstrations tell them, too.
        image_size, intents: by default the preset's; intents are Libra's. See `libra train`.
        stills_batch: of Libra; see `libra train`.
        steps: optimiser steps of the policies that are evaluated.
        optimiser, batch_size, learning_rate, shift, jitter, paraphrase, focus, precision,
            intent_noise: of every training; see `libra train`.
        rounds: of DAgger.
        round_demonstrations: per task and round, at the first of `spreads`.
        pass_over: in a round; see `libra collect`.
        driver_steps: optimiser steps of the policy that drives in a round.
        trials: official initial states per task; a finished study can be given more.
        noise_seeds: evaluations of Libra, which differ in the policy's noise; other arms have one.
            A finished study can be given more.
        max_steps: control steps of a demonstration.
        seed: of everything else.
        workers: processes.
    """

    out: Path = Path("runs/suites")
    suites: tuple[str, ...] = tuple(PAPER)
    demonstrations: int = 10
    spreads: tuple[float, ...] = (0.01, 0.04)
    recovery: float = 0.2
    fumble: float | None = None
    shoves: float | None = None
    draw_every: int | None = None
    scenes: int | None = None
    preset: str = "small"
    image_size: int | None = None
    intents: Intents | None = None
    stills_batch: int | None = None
    steps: int = 24000
    optimiser: OptimiserKind = TrainConfig.optimiser
    batch_size: int = 32
    learning_rate: float = 1e-3
    shift: float | None = None
    jitter: float | None = None
    paraphrase: float = 0.0
    focus: float | None = None
    precision: Precision = TrainConfig.precision
    intent_noise: float = 0.04
    rounds: int = 0
    round_demonstrations: int = 8
    pass_over: int = 3
    driver_steps: int = 8000
    trials: int = OFFICIAL_TRIALS
    noise_seeds: int = 3
    max_steps: int = 600
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

    @property
    def by_places(self) -> bool:
        """Whether Libra's planner looks for places and at nothing else."""
        return not load_preset(self.preset).planner.sees


@dataclass(frozen=True)
class Arm:
    """A policy and how it is carried out; `preset` is None for the study's own."""

    name: str
    policy: str
    mode: Mode


LIBRA, BASE = "Libra", "Libra-Base"
ARMS = (
    Arm("Libra", LIBRA, "sequential"),
    Arm("Libra, synchronous", LIBRA, "synchronous"),
    Arm("Libra-Base", BASE, "synchronous"),
)


@alone_in_out
def study_suites(config: SuitesConfig) -> dict[str, Any]:
    """Runs what is missing and returns what it wrote to `study.json`.

    Raises:
        LibraError: a stage met bad input, or the folder holds another study.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    free = ("out", "workers", "trials", "noise_seeds")
    # A setting that older studies did not have is left out as long as it is not set.
    decisive = {k: v for k, v in asdict(config).items() if k not in free and v is not None}
    claim(config.out, decisive)
    if not (clock_file := config.out / CLOCK).exists():
        write_json(clock_file, {"seconds": {}})
    clock = StageClock(clock_file)
    evaluations = list(arms(config))
    # Libra-Base, which is trained sooner, goes first.
    evaluated = [e for _, e in sorted(evaluations, key=lambda e: e[0].policy != BASE)]
    try:
        if config.scenes:
            clock.time("stills", lambda: _look_around(config))
        for number in range(config.rounds + 1):
            last = number == config.rounds
            clock.time(_stage("demonstrations", number), lambda n=number: _collect(config, n))
            clock.time(
                "training and evaluation" if last else _stage("training", number),
                lambda n=number, jobs=evaluated if last else []: train_and_evaluate(
                    list(trainings(config, n)), jobs, workers=config.workers
                ),
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped: the same command goes on with {config.out}") from None
    results = {
        arm.name: [read_json(e.out / "results.json") for a, e in evaluations if a is arm]
        for arm in ARMS
    }
    synchronous = results[ARMS[1].name]
    study = {
        "schema_version": 1,
        "settings": {k: str(v) for k, v in asdict(config).items()},
        "arms": [
            summary(arm, results[arm.name], synchronous if arm is ARMS[0] else ()) for arm in ARMS
        ],
        "paper": {suite: PAPER.get(suite) for suite in config.suites},
        "seconds": clock.seconds,
        "workers": config.workers,
        "versions": versions(),
    }
    write_json(config.out / STUDY, study)
    pages = {
        e.suite: write_evaluation_report(e.out, read_json(e.out / "results.json"))
        for arm, e in evaluations
        if arm is ARMS[0] and e.seed == 0
    }
    write_report(
        config.out / REPORT,
        study,
        [
            Curves.load(policy_folder(config, LIBRA, config.rounds) / METRICS, name=LIBRA),
            Curves.load(
                policy_folder(config, BASE, config.rounds) / METRICS, name=BASE, role="baseline"
            ),
        ],
        {suite: str(page.relative_to(config.out)) for suite, page in pages.items()},
    )
    return study


def _stage(name: str, number: int) -> str:
    return f"{name}, round {number}" if number else name


def policy_folder(config: SuitesConfig, name: str, number: int) -> Path:
    """Where the policy of a round is."""
    return config.out / "policies" / f"{name}-{number}"


def _dataset(config: SuitesConfig, number: int) -> Path:
    """Everything that was collected up to a round."""
    first, *others = collections(config, 0)
    if number == 0 and not others:
        return first.out
    return config.out / "demonstrations" / f"all-{number}"


def _collect(config: SuitesConfig, number: int) -> None:
    """Collects what a round adds to what was there before."""
    before = [_dataset(config, number - 1)] if number else []
    _gather(list(collections(config, number)), _dataset(config, number), before)


def _stills(config: SuitesConfig) -> Path:
    """Where the stills of all suites are."""
    first, *others = config.suites
    return config.out / "stills" / ("all" if others else first)


def _look_around(config: SuitesConfig) -> None:
    """Takes the stills of all suites."""
    _gather(list(looks(config)), _stills(config))


def _gather(parts: Sequence[CollectConfig], whole: Path, before: Sequence[Path] = ()) -> None:
    """Collects what is missing, and merges it with what was there `before`, unless a single part is
    the whole."""
    paths = [*before, *(part.out for part in parts)]
    if whole.exists() and paths != [whole]:
        return
    for part in parts:
        collect(part)
    if paths != [whole]:
        merge(paths, whole)


def looks(config: SuitesConfig) -> Iterator[CollectConfig]:
    """Yields what stills are taken, by suite: drawn as evaluations draw, lest what a planner learns
    to see from them is a centimetre off where it counts."""
    for suite in config.suites:
        yield CollectConfig(
            suite=suite,
            out=_stills(config).parent / suite,
            episodes=config.scenes or 0,
            workers=config.workers,
            seed=config.seed + STILLS_SEED,
            spread=max(config.spreads),
            stills=STILLS,
            image_size=benchmark_of(suite).image_size,
            meshes=EvalConfig.meshes,
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
            fumble=config.fumble or 0.0,
            shoves=config.shoves or 0.0,
            draw_every=config.draw_every or 1,
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
    in the end both policies, for as many steps.
    """
    last = number == config.rounds
    for name, preset in ((LIBRA, config.preset), (BASE, f"{config.preset}-monolithic")):
        if name == LIBRA or last:
            yield TrainConfig(
                data=_dataset(config, number),
                out=policy_folder(config, name, number),
                stills=_stills(config) if config.scenes and name == LIBRA else None,
                stills_batch=config.stills_batch or TrainConfig.stills_batch,
                preset=preset,
                image_size=config.image_size,
                intents=config.intents if name == LIBRA else None,
                steps=config.steps if last else config.driver_steps,
                optimiser=config.optimiser,
                learning_rate=config.learning_rate,
                batch_size=config.batch_size,
                paraphrase=config.paraphrase,
                focus=config.focus or 0.0,
                precision=config.precision,
                intent_noise=config.intent_noise,
                curriculum="none",
                shift=TrainConfig.shift if config.shift is None else config.shift,
                jitter=TrainConfig.jitter if config.jitter is None else config.jitter,
                ema=0.998,
                seed=config.seed + number,
                threads=1,
                resume=True,
            )


def arms(config: SuitesConfig) -> Iterator[tuple[Arm, EvalConfig]]:
    """Yields every evaluation: arm x suite x seed of the noise."""
    for arm, suite in product(ARMS, config.suites):
        for seed in range(config.noise_seeds if arm is ARMS[0] else 1):
            yield (
                arm,
                EvalConfig(
                    policy=policy_folder(config, arm.policy, config.rounds),
                    suite=suite,
                    out=config.out / "evaluations" / f"{arm.name}, {suite}, seed {seed}",
                    episodes=config.trials,
                    mode=arm.mode,
                    seed=seed,
                    videos="failures" if arm is ARMS[0] and seed == 0 else 0,
                    workers=0,
                    resume=True,
                ),
            )


def summary(
    arm: Arm, results: Sequence[dict[str, Any]], synchronous: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """One arm: its rates per suite and per task over all seeds, and the suites' average.

    Args:
        results: of its evaluations.
        synchronous: of the same policy in synchronous mode, where failures are held against it.
    """
    suites: dict[str, Any] = {}
    for suite in dict.fromkeys(r["suite"] for r in results):
        own = [r for r in results if r["suite"] == suite]
        suites[suite] = _pooled(own) | {
            "seeds": [r["success_rate"] for r in own],
            "tasks": [
                {k: tasks[0][k] for k in ("index", "instruction")} | _pooled(tasks)
                for tasks in zip(*(r["tasks"] for r in own), strict=True)
            ],
        }
    rates = [s["success_rate"] for s in suites.values() if s["success_rate"] is not None]
    return {
        "name": arm.name,
        "mode": arm.mode,
        "policy": results[0]["policy"],
        "average": sum(rates) / len(rates) if rates else None,
        **_pooled(results),
        "suites": suites,
        "failures": failures(results, synchronous),
    }


def failures(
    results: Sequence[dict[str, Any]], synchronous: Sequence[dict[str, Any]] = ()
) -> dict[str, int]:
    """Number of failures by class, over all seeds; asynchrony-induced are those that succeed in
    `synchronous`, from the same state and with the same seed of the noise, where both ran."""
    succeeded = {key for key, trial in _trials(synchronous) if trial["success"]}
    return dict(
        Counter(
            "asynchrony-induced" if key in succeeded else trial["failure"]
            for key, trial in _trials(results)
            if trial["failure"] is not None
        )
    )


def _trials(results: Sequence[dict[str, Any]]) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    for result in results:
        for trial in result["trials"]:
            key = result["suite"], result["seeds"]["evaluation"], trial["task"], trial["trial"]
            yield key, trial


def _pooled(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    counted = {k: sum(p[k] for p in parts) for k in ("episodes", "errors", "successes")}
    share, ci95 = rate(counted["successes"], counted["episodes"] - counted["errors"])
    return counted | {"success_rate": share, "ci95": ci95}
