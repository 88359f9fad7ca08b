"""Intervals and percentiles: a rate without its interval proves little."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

Z95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


def wilson(successes: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Returns the Wilson score interval (low, high) of a success rate, within [0, 1].

        (s + z^2/2 -/+ z sqrt(s (n - s) / n + z^2/4)) / (n + z^2)

    0 of n gives exactly 0 below, n of n exactly 1 above, and no trial at all (0, 1).

    Raises:
        ValueError: unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials: expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    centre = successes + z**2 / 2
    half = z * math.sqrt(successes * (n - successes) / n + z**2 / 4)
    low = 0.0 if successes == 0 else (centre - half) / (n + z**2)
    high = 1.0 if successes == n else (centre + half) / (n + z**2)
    return low, high


def rate(successes: int, n: int) -> tuple[float | None, list[float]]:
    """Returns the success rate (None without trials) and its 95 % interval, for JSON."""
    return (successes / n if n else None), list(wilson(successes, n))


def percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float | int | None]:
    """Returns `p50`, `p95`, `p99`, `mean` (None without values) and the number `n` of values."""
    if len(values) == 0:
        return {"p50": None, "p95": None, "p99": None, "mean": None, "n": 0}
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "p50": float(p50),
        "p95": float(p95),
        "p99": float(p99),
        "mean": float(np.mean(values)),
        "n": len(values),
    }


def mean_of(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are known, or None."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def paired_difference(better: int, worse: int, n: int) -> tuple[float | None, list[float]]:
    """Returns the difference of two success rates over the same `n` trials, and its 95 % interval.

    Only the trials that ended differently count. The interval is Wald's with half a trial added to
    each of the four outcomes (Agresti and Min 2005), cut to [-1, 1].

    Args:
        better: trials that only the first one solved.
        worse: trials that only the second one solved.
    """
    if n == 0:
        return None, [-1.0, 1.0]
    b, c, total = better + 0.5, worse + 0.5, n + 2
    middle = (b - c) / total
    half = Z95 * math.sqrt(b + c - (b - c) ** 2 / total) / total
    return (better - worse) / n, [max(-1.0, middle - half), min(1.0, middle + half)]
