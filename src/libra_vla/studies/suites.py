"""`libra study suites`: the paper's first table, from nothing: demonstrations, training, official
evaluation of one policy on all suites; or of a policy that is there already.

Demonstrations come from sampled resets, and the official initial states are looked at once, at the
end. Between the two, rounds of DAgger: a policy that was trained on all demonstrations so far
drives, and the expert takes over. The policies that are evaluated are trained on everything, from
scratch, but that a planner which learns in turn has learned to look in the first round.

Libra runs in synchronous mode too, from the same states with the same seeds: a failure that does
not happen there counts as asynchrony-induced, without a second run of each failure.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from libra_vla.collection import CollectConfig, collect
from libra_vla.data.merge import merge
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.policies import load_policy
from libra_vla.evaluation.statistics import rate
from libra_vla.files import alone_in_out, read_json, write_json
from libra_vla.reports.evaluation import write_evaluation_report
from libra_vla.reports.inputs import Curves
from libra_vla.reports.suites import write_report
from libra_vla.stages import StageClock, train_and_evaluate, training_core_seconds
from libra_vla.studies.machine import REPORT, STUDY, claim
from libra_vla.studies.suites_stages import (
    BASE,
    LIBRA,
    PAPER,
    PLANS,
    Arm,
    SuitesConfig,
    arms,
    collections,
    dataset,
    looks,
    policy_folder,
    stills,
    trainings,
)
from libra_vla.versions import versions

CLOCK, METRICS = "stages.json", "metrics.jsonl"


@alone_in_out
def study_suites(config: SuitesConfig) -> dict[str, Any]:
    """Runs what is missing and returns what it wrote to `study.json`.

    Raises:
        LibraError: a stage met bad input, or the folder holds another study.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    free = ("out", "workers", "trials", "noise_seeds")
    if config.policy is not None:
        load_policy(config.policy, device="cpu")  # what is wrong with it is told before it begins
    # A setting that older studies did not have is left out as long as it is not set.
    decisive = {k: v for k, v in asdict(config).items() if k not in free and v is not None}
    claim(config.out, decisive)
    clock = StageClock(config.out / CLOCK)
    evaluations = list(arms(config))
    jobs = [e for _, e in evaluations]
    try:
        if config.policy is None:
            _make(config, clock, jobs)
        else:
            clock.time("evaluation", lambda: train_and_evaluate([], jobs, workers=config.workers))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped: the same command goes on with {config.out}") from None
    results: dict[Arm, list[dict[str, Any]]] = {}
    for arm, evaluation in evaluations:
        results.setdefault(arm, []).append(read_json(evaluation.out / "results.json"))
    first, synchronous, *_ = results
    study = {
        "schema_version": 1,
        "settings": {k: str(v) for k, v in asdict(config).items()},
        "arms": [
            summary(arm, found, results[synchronous] if arm is first else ())
            for arm, found in results.items()
        ],
        "paper": {suite: PAPER.get(suite) for suite in config.suites},
        "seconds": clock.seconds,
        "training_core_seconds": {} if config.policy else _training_core_seconds(config),
        "workers": config.workers,
        "versions": versions(),
    }
    write_json(config.out / STUDY, study)
    pages = {
        e.suite: write_evaluation_report(e.out, read_json(e.out / "results.json"))
        for arm, e in evaluations
        if arm is first and e.seed == 0
    }
    write_report(
        config.out / REPORT,
        study,
        [] if config.policy else _curves(config),
        {suite: str(page.relative_to(config.out)) for suite, page in pages.items()},
    )
    return study


def _make(config: SuitesConfig, clock: StageClock, evaluations: Sequence[EvalConfig]) -> None:
    """Collects and trains, round by round; each policy is evaluated as soon as it is trained."""
    for number in range(config.rounds + 1):
        last = number == config.rounds
        clock.time(_stage("demonstrations", number), lambda n=number: _collect(config, n))
        if number == 0 and config.scenes:
            clock.time("stills", lambda: _look_around(config))
        clock.time(
            "training and evaluation" if last else _stage("training", number),
            lambda n=number, jobs=evaluations if last else (): train_and_evaluate(
                list(trainings(config, n)), jobs, workers=config.workers
            ),
        )


def _stage(name: str, number: int) -> str:
    return f"{name}, round {number}" if number else name


def _collect(config: SuitesConfig, number: int) -> None:
    """Collects what a round adds to what was there before."""
    before = [dataset(config, number - 1)] if number else []
    _gather(list(collections(config, number)), dataset(config, number), before)


def _look_around(config: SuitesConfig) -> None:
    """Takes the stills of all suites; in demonstrations that tell places, the hand holds things."""
    before = [dataset(config, 0)] if config.by_places else []
    _gather(list(looks(config)), stills(config), before)


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


def _training_core_seconds(config: SuitesConfig) -> dict[str, float]:
    """What each policy's training took of the cores, drivers of earlier rounds included."""
    spent: dict[str, float] = {}
    for number in range(config.rounds + 1):
        for training in trainings(config, number):
            name = BASE if training.out == policy_folder(config, BASE, number) else LIBRA
            spent[name] = spent.get(name, 0.0) + training_core_seconds(training.out)
    return spent


def _curves(config: SuitesConfig) -> list[Curves]:
    """How the policies that were evaluated learned. Where Libra's halves learned in turn, what its
    planner's loss was while it rested is not shown."""
    last = config.rounds
    found = [
        Curves.load(policy_folder(config, LIBRA, last) / METRICS, name=LIBRA),
        Curves.load(policy_folder(config, BASE, last) / METRICS, name=BASE, role="baseline"),
    ]
    if not config.looking:
        return found
    refiner, base = found
    planner = Curves.load(policy_folder(config, PLANS, last) / METRICS, name=LIBRA)
    learned = [{k: m[k] for k in ("step", "refiner_loss")} for m in refiner.metrics]
    return [planner, replace(refiner, metrics=learned), base]


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
