"""How hard is each system's task? Observables of a preliminary run, none of which knows success.

All but the last are ratios, planner over refiner: 1 is balance. The refiner is given the true
intents, so that it is asked its own task only. The last one asks the planner alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Metrics = Sequence[Mapping[str, Any]]

OBSERVABLES = {
    "losses": (
        "(a) planner's validation cross-entropy [nats per action dimension and step] / refiner's "
        "validation denoising loss with true intents [squared units of the normalised action, per "
        "dimension and step]; balanced within [0.9, 1.1]"
    ),
    "normalised": (
        "(b) planner's validation cross-entropy / log N, averaged over dimensions [share of the "
        "uncertainty over bins that is left, 1 = guessing] / (refiner's validation denoising loss "
        "with true intents / that of the monolithic policy, which has no intents, after the same "
        "steps with the same seed, batches and noise [share of the error that is left])"
    ),
    "gradients": (
        "(c) norm of the joint loss's gradient in the planner / in the refiner, each averaged over "
        "the second half of the steps [equal loss weights]"
    ),
    "convergence": (
        "(d) optimiser steps until the planner's validation cross-entropy is within 1.1 times its "
        "last value / steps until the refiner's validation loss with true intents is"
    ),
    "planner": (
        "(e) planner's validation cross-entropy / log N, averaged over dimensions [share of the "
        "uncertainty over bins that is left, 1 = guessing]; no balance"
    ),
}
"""Name -> formula, with units."""

LEAST = ("planner",)
"""Those whose N* is where they are smallest; the others' is where they are 1."""

RECOMMENDED = "planner"
"""The observable whose N* is recommended: the only one that came near the best levels in both
sweeps on Meta-World, where it was found, and on LIBERO (docs/results/libra-point.md)."""

RULE = (
    "The mean over seeds of log(ratio), made non-decreasing in N by isotonic regression, is "
    "interpolated linearly in log N. N* is where it is 0; if it never is, the level whose mean "
    "log(ratio) itself is nearest to 0, and N* is marked as not bracketed. (e) is no ratio: its N* "
    "is the level at which the mean over seeds is smallest, not bracketed at an end of the levels. "
    "The 95% interval is a bootstrap over seeds."
)

NEAR = 1.1
"""A loss within this factor of its last value has converged."""


def observe(metrics: Metrics, monolith: Metrics) -> dict[str, float]:
    """Returns the value of each of `OBSERVABLES`.

    Args:
        metrics: lines of `metrics.jsonl` of a run, with validation losses.
        monolith: those of the monolithic policy trained alike.
    """
    checked = [(m["step"], m["validation"]) for m in metrics if "validation" in m]
    last = checked[-1][1]
    without = next(m["validation"]["refiner_loss"] for m in reversed(monolith) if "validation" in m)
    planner = [(step, v["planner_loss"]) for step, v in checked]
    refiner = [(step, v["refiner_loss_true"]) for step, v in checked]
    planning, refining = (late(metrics, f"{half}_gradient_norm") for half in ("planner", "refiner"))
    return {
        "losses": last["planner_loss"] / last["refiner_loss_true"],
        "normalised": last["planner_loss_normalised"] / (last["refiner_loss_true"] / without),
        "gradients": planning / refining,
        "convergence": steps_to_converge(planner) / steps_to_converge(refiner),
        "planner": last["planner_loss_normalised"],
    }


def late(metrics: Metrics, key: str) -> float:
    """Mean of a logged number over the second half of the steps."""
    half = metrics[-1]["step"] / 2
    values = [m[key] for m in metrics if m["step"] > half]
    return sum(values) / len(values)


def steps_to_converge(losses: Sequence[tuple[int, float]]) -> int:
    """First step whose loss is within `NEAR` times the last one; losses are (step, value)."""
    return next(step for step, loss in losses if loss <= NEAR * losses[-1][1])
