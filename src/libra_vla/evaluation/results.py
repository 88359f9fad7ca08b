"""From trials to the numbers of `results.json`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from libra_vla.evaluation.failures import CLASSES, PHASES
from libra_vla.evaluation.smoothness import Smoothness
from libra_vla.evaluation.statistics import mean_of, percentiles, rate
from libra_vla.evaluation.trial import Trial
from libra_vla.simulation.benchmark import Task

SCHEMA_VERSION = 1


def summarise(trials: Sequence[Trial]) -> dict[str, Any]:
    """Counts successes. Errors are left out of the rate: they say nothing about the policy."""
    successes = sum(t.success for t in trials)
    errors = sum(t.error is not None for t in trials)
    success_rate, ci95 = rate(successes, len(trials) - errors)
    return {
        "episodes": len(trials),
        "successes": successes,
        "errors": errors,
        "success_rate": success_rate,
        "ci95": ci95,
    }


def results_of(
    trials: Sequence[Trial],
    tasks: Sequence[Task],
    instructed_by: Mapping[int, Task],
    told: Mapping[int, str],
    *,
    explained: bool,
) -> dict[str, Any]:
    """Everything in `results.json` that follows from the trials; see `task_results`."""
    return {
        "schema_version": SCHEMA_VERSION,
        **summarise(trials),
        "tasks": task_results(trials, tasks, instructed_by, told, explained),
        **({"reading": reading(trials)} if instructed_by else {}),
        "latency_ms": latency(trials),
        "smoothness": mean_smoothness(trials),
        "failures": failures(trials, explained),
        "failure_phases": phases(trials),
        "runtime": runtime(trials),
        "trials": trial_rows(trials),
    }


def task_results(
    trials: Sequence[Trial],
    tasks: Iterable[Task],
    instructed_by: Mapping[int, Task],
    told: Mapping[int, str],
    explained: bool,
) -> list[dict[str, Any]]:
    """The same per task.

    Args:
        instructed_by: task index -> the task whose instruction it got instead of its own.
        told: task index -> the instruction as the policy was given it.
    """
    rows = []
    for task in tasks:
        own = [t for t in trials if t.task == task.index]
        other = instructed_by.get(task.index)
        row: dict[str, Any] = {
            "index": task.index,
            "name": task.name,
            "instruction": told[task.index],
            **summarise(own),
            "failures": failures(own, explained),
            "failure_phases": phases(own),
            "smoothness": mean_smoothness(own),
        }
        if other is not None:
            watched = [t.goal_elsewhere for t in own if t.goal_elsewhere is not None]
            row["swapped"] = {
                "task_instruction": task.instruction,
                "instruction_from": other.index,
                "other_goal": {"evaluated": len(watched), "reached": sum(watched)},
            }
        rows.append(row)
    return rows


def latency(trials: Iterable[Trial]) -> dict[str, dict[str, float | int | None]]:
    """Milliseconds over all trials: `plan` and `refine` per call, `control` per control step,
    `chunk` per chunk (its refinement, and its plan where that was in line: the paper's figure)."""
    trials = list(trials)
    plans = [(p, r) for t in trials for p, r in zip(t.plan_ms, t.refine_ms, strict=True)]
    return {
        "plan": percentiles(
            [plan for plan, _ in plans if plan is not None]
            + [ms for t in trials for ms in t.background_ms]
        ),
        "refine": percentiles([refine for _, refine in plans]),
        "chunk": percentiles([(plan or 0.0) + refine for plan, refine in plans]),
        "control": percentiles([ms for t in trials for ms in t.control_ms]),
    }


def mean_smoothness(trials: Iterable[Trial]) -> dict[str, float | None]:
    """Each field of `Smoothness`, averaged over the trials that ended without an error."""
    measured = [t.smoothness for t in trials if t.error is None and t.smoothness is not None]
    return {f.name: mean_of(m[f.name] for m in measured) for f in fields(Smoothness)}


def failures(trials: Iterable[Trial], explained: bool) -> dict[str, int]:
    """Number of failures by class; errors are no failures.

    Without a re-run nothing is known of asynchrony, so that its class is left out.
    """
    counted = Counter(t.failure for t in trials)
    known = CLASSES if explained else [c for c in CLASSES if c != "asynchrony-induced"]
    return {name: counted[name] for name in known}


def phases(trials: Iterable[Trial]) -> dict[str, int]:
    """Number of actuation failures by the phase that they came to."""
    counted = Counter(t.phase for t in trials)
    return {name: counted[name] for name in PHASES if counted[name]}


def reading(trials: Iterable[Trial]) -> dict[str, Any]:
    """What a policy does that is given another task's instruction, where the scene can tell.

    `told`: what it was told; `own`: the task of its scene, as if it had not listened; `neither`.
    Whichever goal is reached first counts.
    """
    judged = [t for t in trials if t.goal_elsewhere is not None and t.error is None]
    told = sum(bool(t.goal_elsewhere) for t in judged)
    own = sum(t.success for t in judged)
    counts = {"told": told, "own": own, "neither": len(judged) - told - own}
    return {"evaluated": len(judged)} | {
        name: dict(zip(("count", "rate", "ci95"), (n, *rate(n, len(judged))), strict=True))
        for name, n in counts.items()
    }


def runtime(trials: Iterable[Trial]) -> dict[str, Any]:
    """What the executors did, added up over the trials that ended without an error.

    `age` (of the observation behind an executed action, in control steps) is averaged over trials.
    """
    reports = [t.runtime for t in trials if t.error is None and t.runtime is not None]
    counts = ("plans", "late_plans", "held_steps", "starved", "starved_steps", "waited_steps")
    oldest = max((m for r in reports if (m := r["age"]["max"]) is not None), default=None)
    return {
        **{name: sum(r[name] for r in reports) for name in (*counts, "overrun_steps")},
        "steps": sum(t.steps for t in trials if t.error is None),
        "replans": _added(r["replans"] for r in reports),
        "interventions": _added(r["interventions"] for r in reports),
        "age": {
            "mean": mean_of(r["age"]["mean"] for r in reports),
            "max": oldest,
        },
    }


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def trial_rows(trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """One row per trial, without its timings: those are in `episodes.jsonl`."""
    left_out = ("events", "plan_ms", "refine_ms", "control_ms", "background_ms")
    return [{k: v for k, v in asdict(t).items() if k not in left_out} for t in trials]
