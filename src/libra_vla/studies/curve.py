"""Success over the levels of a sweep: intervals, peak, inverted U, and what predictions cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from libra_vla.evaluation.statistics import paired_difference, rate
from libra_vla.studies.machine import outcomes_of
from libra_vla.studies.statistics import nearest, peak, regret, resampled, two_lines

Records = Sequence[Mapping[str, Any]]


def analyse(
    levels: Sequence[int], groups: Sequence[Records], predicted: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the analysis that the pre-registration announces, for JSON.

    Args:
        groups: per level, the records of its seeds.
        predicted: observable -> its predicted `n`.
    """
    outcomes = outcomes_of(groups)
    runs = np.nanmean(outcomes, axis=2)
    known = np.isfinite(runs)
    x = np.log(np.repeat(levels, runs.shape[1])).reshape(runs.shape)
    lines = two_lines(x[known], runs[known])
    top = peak(levels, outcomes)
    costs = {name: regret(levels, outcomes, p["n"]) for name, p in predicted.items()}
    return {
        "levels": [
            {"N": n, "bins": group[0]["factors"]["bins"], **pooled(group)}
            for n, group in zip(levels, groups, strict=True)
        ],
        "peak": {
            "level": top.level,
            "interval": list(top.interval),
            "shares": {str(n): s for n, s in top.shares.items()},
        },
        "two_lines": {
            "inverted_u": lines.inverted_u,
            "breakpoint": None if lines.breakpoint is None else math.exp(lines.breakpoint),
            "left": _finite(asdict(lines.left)),
            "right": _finite(asdict(lines.right)),
        },
        "predictions": {
            name: {
                "n": p["n"],
                "level": nearest(levels, p["n"]),
                "regret": costs[name][0],
                "regret_ci95": list(costs[name][1]),
                "inside": top.interval[0] <= p["n"] <= top.interval[1],
                "found": lines.inverted_u and top.interval[0] <= p["n"] <= top.interval[1],
            }
            for name, p in predicted.items()
        },
    }


def pooled(records: Records) -> dict[str, Any]:
    """Successes over all seeds with Wilson's interval, and each seed's rate."""
    evaluations = [r["evaluation"] for r in records]
    successes = sum(e["successes"] for e in evaluations)
    trials = sum(e["episodes"] - e["errors"] for e in evaluations)
    share, interval = rate(successes, trials)
    return {
        "successes": successes,
        "trials": trials,
        "success_rate": share,
        "ci95": interval,
        "seeds": [e["success_rate"] for e in evaluations],
    }


def compared(mine: Mapping[Any, bool], theirs: Mapping[Any, bool]) -> dict[str, Any]:
    """Success of the first minus the second over the trials that both have, by their keys."""
    shared = mine.keys() & theirs.keys()
    better = sum(mine[k] and not theirs[k] for k in shared)
    worse = sum(theirs[k] and not mine[k] for k in shared)
    difference, ci95 = paired_difference(better, worse, len(shared))
    return {
        "trials": len(shared),
        "better": better,
        "worse": worse,
        "difference": difference,
        "ci95": ci95,
    }


def compare_placements(
    levels: Sequence[int], placements: Mapping[str, Sequence[Records]]
) -> dict[str, dict[str, Any]]:
    """Returns each placement's success minus the first one's, over all levels and at each; the
    interval is a paired bootstrap's over seeds and trials."""
    found: dict[str, dict[str, Any]] = {}
    if not placements:
        return found
    first, *others = placements
    for name in others:
        sides = placements[first], placements[name]
        seeds = set.intersection(*({r["factors"]["seed"] for r in side[0]} for side in sides))
        if not seeds:
            continue
        pair = outcomes_of(
            [
                [r for r in group if r["factors"]["seed"] in seeds]
                for side in sides
                for group in side
            ]
        )
        rates = np.nanmean(pair, axis=(1, 2))
        drawn = resampled(pair, 2000)
        here, there = slice(0, len(levels)), slice(len(levels), None)
        low, high = np.quantile(
            drawn[:, there].mean(axis=1) - drawn[:, here].mean(axis=1), [0.025, 0.975]
        )
        found[name] = {
            "against": first,
            "difference": float(rates[there].mean() - rates[here].mean()),
            "ci95": [float(low), float(high)],
            "by_level": {
                str(n): float(d) for n, d in zip(levels, rates[there] - rates[here], strict=True)
            },
        }
    return found


def _finite(line: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in line.items()}
