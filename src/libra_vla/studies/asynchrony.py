"""`libra study asynchrony`: what does it cost and bring to let the planner be late?

One evaluation per cell of a grid: mode x M x delay of the planner x variant, all from the same
initial states with the same noise, in simulated time, so that every cell can be run again to the
same result. The world goes on while the planner works: what plans in line waits for it, standing
still, and what plans beside the control loop acts on older intents.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from libra_vla.errors import LibraError, unknown
from libra_vla.evaluation.config import EvalConfig, States
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.execution.config import Mode
from libra_vla.files import alone_in_out, read_json, write_json
from libra_vla.reports.asynchrony import write_report
from libra_vla.simulation.benchmark import Benchmark
from libra_vla.studies.curve import compared
from libra_vla.studies.machine import REPORT, STUDY, claim, work_through
from libra_vla.versions import versions

Variant = Literal["plain", "replan", "overlap", "inpaint", "both"]


@dataclass(frozen=True)
class AsynchronyConfig:
    """Success, smoothness, age and starvation over modes, M, delays and variants.

    Attributes:
        policy: folder that `libra train --out` wrote; with M = 5 to study all of them.
        suite: name of the suite.
        out: folder for `study.json`, `report.html` and one evaluation per cell.
        tasks: indices or names of the tasks, such as "0,3" or "0-4"; all by default.
        episodes: trials per task and cell.
        modes: of execution.
        horizon_factors: M; those that the policy was not trained for are left out. Without effect
            on the synchronous mode, which has one row.
        delays: of the planner, in control steps.
        variants: "plain"; "replan", on disagreement and low confidence; "overlap", a chunk is
            refined anew before the last one has ended; "inpaint", the same with real-time
            chunking; "both", re-planning and real-time chunking.
        replan_bins, replan_confidence: what makes "replan" plan again.
        overlap: actions of a chunk that are left over for the next one to replace.
        states, spread, seed, meshes, image_size, max_steps, move_object, device: of the
            evaluations; see `libra eval`.
        workers: processes, each with a simulator of its own.
    """

    policy: Path
    suite: str
    out: Path
    tasks: str | None = None
    episodes: int = 10
    modes: tuple[Mode, ...] = get_args(Mode)
    horizon_factors: tuple[int, ...] = (1, 2, 3, 4, 5)
    delays: tuple[int, ...] = (0, 2, 4, 8)
    variants: tuple[Variant, ...] = get_args(Variant)
    replan_bins: int = 2
    replan_confidence: float = 0.4
    overlap: int = 2
    states: States = "official"
    spread: float = 0.0
    seed: int = 0
    meshes: str = "stock"
    image_size: int | None = None
    max_steps: int | None = None
    move_object: str | None = None
    device: str = "cpu"
    workers: int = 2

    def __post_init__(self) -> None:
        for name, known in (("modes", Mode), ("variants", Variant)):
            for value in getattr(self, name):
                if value not in get_args(known):
                    raise unknown(name.removesuffix("s"), value, get_args(known))
            if not getattr(self, name):
                raise LibraError(f"{name} is empty: choose from {', '.join(get_args(known))}")
        if not self.delays or min(self.delays) < 0:
            raise LibraError(f"delays are {self.delays}: expected control steps, at least one")
        if not self.horizon_factors or min(self.horizon_factors) < 1:
            raise LibraError(f"horizon_factors are {self.horizon_factors}: expected 1 or more")


@dataclass(frozen=True)
class Cell:
    """One evaluation of the grid."""

    mode: Mode
    factor: int
    delay: int
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.mode}-M{self.factor}-delay{self.delay}-{self.variant}"


@alone_in_out
def study_asynchrony(
    config: AsynchronyConfig,
    *,
    benchmark: Benchmark | None = None,
    load_policy: LoadPolicy = load_policy,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs what is missing and returns what it wrote to `study.json`.

    Args:
        benchmark, load_policy: of `evaluate`.
        quiet: show no progress.

    Raises:
        LibraError: the configuration or the policy does not fit, or the folder holds another study.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    policy = load_policy(config.policy, config.device)
    described = policy.describe()
    if config.overlap >= policy.chunk:
        raise LibraError(f"overlap is {config.overlap}: a chunk holds H = {policy.chunk} actions")
    jobs = [
        CellJob(cell, _evaluation(config, cell, policy.chunk), benchmark, load_policy)
        for cell in grid(config, policy.horizon_factor)
    ]
    for job in jobs:  # what no cell can do is said at once
        job.evaluation.execution.resolve(policy)
    free = ("out", "workers", "device", "horizon_factors", "delays", "variants", "modes")
    settings = {k: v for k, v in vars(config).items() if k not in free}
    claim(config.out, settings | {"checkpoint": described["checkpoint_hash"]})
    todo = [job for job in jobs if job.results is None]
    broken = work_through(
        run_job,
        todo,
        [job.cell.name for job in todo],
        done=len(jobs) - len(todo),
        workers=config.workers,
        quiet=quiet,
        after=lambda: _write(config, described, jobs, complete=False),
    )
    return _write(config, described, jobs, complete=not broken)


def grid(config: AsynchronyConfig, trained_factor: int) -> Iterator[Cell]:
    """Yields the cells, those without delay first: the others are compared with them."""
    factors = [m for m in config.horizon_factors if m <= trained_factor]
    if not factors:
        raise LibraError(
            f"this policy plans for M = {trained_factor} chunks, and horizon_factors are "
            f"{config.horizon_factors}: choose smaller ones"
        )
    for delay, variant, mode in product(sorted(config.delays), config.variants, config.modes):
        for factor in factors[:1] if mode == "synchronous" else factors:
            yield Cell(mode, factor, delay, variant)


@dataclass(frozen=True)
class CellJob:
    """A cell and the evaluation that fills it."""

    cell: Cell
    evaluation: EvalConfig
    benchmark: Benchmark | None
    load_policy: LoadPolicy

    @property
    def results(self) -> dict[str, Any] | None:
        """What the evaluation wrote, once it is complete."""
        path = self.evaluation.out / "results.json"
        results = read_json(path) if path.exists() else None
        return results if results is not None and results["complete"] else None


def run_job(job: CellJob) -> None:
    """Evaluates in a worker process, which keeps its simulator from cell to cell."""
    evaluate(
        job.evaluation,
        benchmark=job.benchmark,
        load_policy=job.load_policy,
        on_progress=lambda *_: None,
    )


def _evaluation(config: AsynchronyConfig, cell: Cell, chunk: int) -> EvalConfig:
    variant = cell.variant
    options = EvalConfig(
        policy=config.policy,
        suite=config.suite,
        out=config.out / "cells" / cell.name,
        tasks=config.tasks,
        episodes=config.episodes,
        mode=cell.mode,
        horizon_factor=cell.factor,
        workers=0,
        seed=config.seed,
        states=config.states,
        spread=config.spread,
        resume=True,
        meshes=config.meshes,
        image_size=config.image_size,
        max_steps=config.max_steps,
        device=config.device,
        real_time=True,
        delay=str(cell.delay),
        videos=1 if variant == "plain" else 0,
        move_object=config.move_object,
    )
    if variant in ("replan", "both"):
        options = replace(
            options, replan_bins=config.replan_bins, replan_confidence=config.replan_confidence
        )
    if variant in ("overlap", "inpaint", "both"):
        options = replace(options, execute=chunk - config.overlap, inpaint=variant != "overlap")
    return options


def _write(
    config: AsynchronyConfig,
    described: dict[str, Any],
    jobs: Sequence[CellJob],
    *,
    complete: bool,
) -> dict[str, Any]:
    done = [(job.cell, results) for job in jobs if (results := job.results) is not None]
    reference = next(
        (r for c, r in done if (c.mode, c.delay, c.variant) == ("synchronous", 0, "plain")), None
    )
    study = {
        "schema_version": 1,
        "complete": complete,
        "policy": described,
        "suite": config.suite,
        "settings": json.loads(json.dumps(vars(config), default=str)),
        "reference": "synchronous, delay 0, plain: paired by task, initial state and seed",
        "cells": [row(cell, results, reference) for cell, results in done],
        "versions": versions(),
    }
    write_json(config.out / STUDY, study)
    write_report(config.out / REPORT, study, _timelines(config, done))
    return study


def _timelines(
    config: AsynchronyConfig, done: Sequence[tuple[Cell, dict[str, Any]]]
) -> dict[str, dict[str, np.ndarray]]:
    """Traces of one episode per mode: plain, at the largest M, and at the middle delay."""
    delay = sorted(config.delays)[len(config.delays) // 2]
    found: dict[str, dict[str, np.ndarray]] = {}
    for cell, _ in done:
        traces = sorted((config.out / "cells" / cell.name / "traces").glob("*.npz"))
        if (cell.delay, cell.variant) == (delay, "plain") and traces:
            with np.load(traces[0], allow_pickle=False) as file:
                found[f"{cell.mode}, delay {delay}"] = dict(file)
    return found


def row(cell: Cell, results: dict[str, Any], reference: dict[str, Any] | None) -> dict[str, Any]:
    """One line of the table."""
    runtime, smooth = results["runtime"], results["smoothness"]
    counted = max(1, results["episodes"] - results["errors"])
    inside, boundary = smooth["inside_acceleration"], smooth["boundary_acceleration"]
    return {
        "mode": cell.mode,
        "M": None if cell.mode == "synchronous" else cell.factor,
        "delay": cell.delay,
        "variant": cell.variant,
        **{k: results[k] for k in ("episodes", "errors", "successes", "success_rate", "ci95")},
        "paired": None if reference is None else paired(results, reference),
        "steps": runtime["steps"] / counted,
        "mean_jerk": smooth["mean_jerk"],
        "boundary_jump": boundary / inside if boundary is not None and inside else None,
        "age": runtime["age"],
        "starved": runtime["starved"] / counted,
        "starved_steps": runtime["starved_steps"] / counted,
        "waited_steps": runtime["waited_steps"] / counted,
        "held_steps": runtime["held_steps"] / counted,
        "late_plans": runtime["late_plans"] / counted,
        "plans": runtime["plans"] / counted,
        "replans": {why: n / counted for why, n in runtime["replans"].items()},
    }


def paired(results: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """Compares the trials that both evaluations have."""
    mine, theirs = (
        {(t["task"], t["trial"]): t["success"] for t in r["trials"] if t["error"] is None}
        for r in (results, reference)
    )
    return compared(mine, theirs)
