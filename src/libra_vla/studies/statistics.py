"""Does a curve have a peak, where, and what would a predicted one have cost? Pure functions.

A training run is the unit: episodes of one run share its weights, so a test that counted them as
independent would find peaks in the luck of single runs.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


def student_t(t: float, freedom: int) -> float:
    """Returns the two-sided p-value of Student's t (Abramowitz and Stegun 26.7.3 and 26.7.4).

    Raises:
        ValueError: fewer than one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom: expected at least 1")
    if math.isinf(t):
        return 0.0
    angle = math.atan(abs(t) / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = 1.0, 0.0
    for k in range(freedom // 2):
        total += term
        term *= square * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    inside = 2 / math.pi * (angle + sine * math.cos(angle) * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


@dataclass(frozen=True)
class Line:
    """A regression line: slope per unit of x, its t value and its two-sided p-value."""

    slope: float
    t: float
    p: float


def line(x: np.ndarray, y: np.ndarray) -> Line:
    """Fits y = a + b x by least squares; p is 1 where there are fewer than three points."""
    n, spread = len(x), float(((x - x.mean()) ** 2).sum()) if len(x) else 0.0
    if n < 3 or spread == 0.0:
        return Line(0.0, 0.0, 1.0)
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((residuals**2).sum()) / (n - 2) / spread)
    if error < 1e-12:
        t = 0.0 if abs(slope) < 1e-12 else math.copysign(math.inf, slope)
    else:
        t = slope / error
    return Line(slope, t, student_t(t, n - 2))


@dataclass(frozen=True)
class TwoLines:
    """The two-lines test for an inverted U.

    Attributes:
        inverted_u: the left line rises and the right one falls, each with p < 0.05.
        breakpoint: where the lines part, on the scale of x; None where there are too few levels.
        left, right: the two lines.
    """

    inverted_u: bool
    breakpoint: float | None
    left: Line
    right: Line


def two_lines(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> TwoLines:
    """Tests for an inverted U (Simonsohn 2018, "Two lines: a valid alternative to the invalid
    testing of U-shaped relationships with quadratic regressions").

    A quadratic is not needed, and a curve that only levels off is not taken for a U. The break
    point is chosen by the paper's Robin Hood procedure: a smooth fit (here a cubic) gives the flat
    region, the levels whose fit lies within one standard error of the highest inner one; a first
    pair of lines parts at its median; then the side with the weaker line gets more of the region,
    in proportion to the t values.

    Args:
        x: granularity of each run, conventionally log N.
        y: success rate of each run, one number per training run.

    Raises:
        ValueError: x and y differ in length.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"x has shape {x.shape} and y {y.shape}: expected two equal lists")
    flat = _flat_region(x, y)
    if flat is None:
        return TwoLines(False, None, Line(0.0, 0.0, 1.0), Line(0.0, 0.0, 1.0))
    left, right = _parted(x, y, float(np.median(flat)))
    strengths = min(abs(left.t), 1e6), min(abs(right.t), 1e6)
    share = strengths[1] / sum(strengths) if sum(strengths) else 0.5
    middle = float(np.quantile(flat, share))
    left, right = _parted(x, y, middle)
    found = left.slope > 0 > right.slope and left.p < 0.05 and right.p < 0.05
    return TwoLines(found, middle, left, right)


def _parted(x: np.ndarray, y: np.ndarray, middle: float) -> tuple[Line, Line]:
    return line(x[x <= middle], y[x <= middle]), line(x[x >= middle], y[x >= middle])


def _flat_region(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """x of the runs at inner levels whose fit is within a standard error of the highest one."""
    levels = np.unique(x)
    degree = min(3, len(levels) - 1)
    if len(levels) < 3 or len(x) <= degree + 1:
        return None
    scaled = (x - x.mean()) / x.std()
    design = np.vander(scaled, degree + 1)
    solution, *_ = np.linalg.lstsq(design, y, rcond=None)
    fitted = design @ solution
    variance = float(((y - fitted) ** 2).sum()) / (len(x) - degree - 1)
    covariance = variance * np.linalg.inv(design.T @ design)
    inner = (x > levels[0]) & (x < levels[-1])
    top = int(np.flatnonzero(inner)[np.argmax(fitted[inner])])
    error = math.sqrt(max(0.0, float(design[top] @ covariance @ design[top])))
    return x[inner & (fitted >= fitted[top] - error)]


@dataclass(frozen=True)
class Peak:
    """Where success is highest.

    Attributes:
        level: of the highest mean; the smallest of several.
        interval: 95 % bootstrap interval of the level.
        shares: level -> share of the resamples it wins.
    """

    level: int
    interval: tuple[float, float]
    shares: dict[int, float]


def resampled(outcomes: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Success rates [resamples, levels] of resampled studies.

    Args:
        outcomes: 0 or 1 (or NaN: not run), [levels, seeds, trials]. Seeds, then trials, are drawn
            with replacement, the same ones for every level: what is paired stays paired.
    """
    rng = np.random.default_rng(seed)
    _, seeds, trials = outcomes.shape
    # How often each seed and each trial was drawn: products of these weights are the resample.
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(float)
    drawn = rng.multinomial(trials, np.full(trials, 1 / trials), size=resamples).astype(float)
    known = np.isfinite(outcomes)
    total, count = (
        np.einsum("lsr,rs->rl", table @ drawn.T, chosen)
        for table in (np.where(known, outcomes, 0.0), known.astype(float))
    )
    return total / np.maximum(count, 1.0)


def peak(levels: Sequence[int], outcomes: np.ndarray, *, resamples: int = RESAMPLES) -> Peak:
    """Returns the best of `levels` with its bootstrap interval; outcomes as in `resampled`.

    Levels that tie in a resample share it evenly.
    """
    rates = resampled(outcomes, resamples)
    wins = rates >= rates.max(axis=1, keepdims=True) - 1e-12
    shares = (wins / wins.sum(axis=1, keepdims=True)).mean(axis=0)
    best = int(np.argmax(np.nanmean(outcomes, axis=(1, 2))))
    order = np.argsort(levels)
    running = np.cumsum(shares[order])
    low, high = (int(order[np.searchsorted(running, q - 1e-9)]) for q in (0.025, 0.975))
    return Peak(
        levels[best],
        (float(levels[low]), float(levels[high])),
        {n: float(s) for n, s in zip(levels, shares, strict=True)},
    )


def nearest(levels: Sequence[int], n: float) -> int:
    """Returns the level that is nearest to n on a logarithmic scale."""
    return min(levels, key=lambda level: abs(math.log(level) - math.log(n)))


def regret(
    levels: Sequence[int], outcomes: np.ndarray, predicted: float, *, resamples: int = RESAMPLES
) -> tuple[float, tuple[float, float]]:
    """Returns what a predicted N* costs: the best level's success minus the predicted level's.

    The interval is a paired bootstrap's. Where the best level was found on the same trials, its
    luck is part of the regret: it is an upper estimate.
    """
    rates = np.nanmean(outcomes, axis=(1, 2))
    best, chosen = int(np.argmax(rates)), list(levels).index(nearest(levels, predicted))
    drawn = resampled(outcomes, resamples)
    low, high = np.quantile(drawn[:, best] - drawn[:, chosen], [0.025, 0.975])
    return float(rates[best] - rates[chosen]), (float(low), float(high))


def isotonic(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Returns the closest non-decreasing sequence in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        blocks.append((float(value), 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (b, m), (a, n) = blocks.pop(), blocks.pop()
            blocks.append(((a * n + b * m) / (n + m), n + m))
    return np.concatenate([np.full(count, mean) for mean, count in blocks])


@dataclass(frozen=True)
class Balance:
    """The N at which the planner's difficulty equals the refiner's.

    Attributes:
        n: the balance point N*, interpolated on a logarithmic scale.
        interval: 95 % bootstrap interval over the seeds of the preliminary runs.
        band: where the ratio of the difficulties lies within [0.9, 1.1].
        bracketed: the ratio passes 1 between the levels; otherwise `n` is the level where it
            is nearest to 1.
    """

    n: float
    interval: tuple[float, float]
    band: tuple[float, float]
    bracketed: bool


@dataclass(frozen=True)
class Least:
    """The level at which something is smallest.

    Attributes:
        n: that level.
        interval: 95 % bootstrap interval over the seeds of the preliminary runs.
        bracketed: it is no end of the levels.
    """

    n: float
    interval: tuple[float, float]
    bracketed: bool


BAND = 0.9, 1.1
"""Ratio of planner to refiner that counts as balanced (the review's)."""


def balance(
    levels: Sequence[int], ratios: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Balance:
    """Returns where the planner's difficulty crosses the refiner's.

    The rule: the mean over seeds of log(planner / refiner), made non-decreasing in N, is
    interpolated linearly in log N; N* is where it is 0. Where it never is, N* is the level whose
    mean itself is nearest to 0: with a ratio that rises and falls, no end of the levels.

    Args:
        levels: in ascending order.
        ratios: planner's difficulty over the refiner's, positive, [levels, seeds].

    Raises:
        ValueError: levels that do not ascend, or ratios that are not positive.
    """
    if list(levels) != sorted(set(levels)) or ratios.shape[0] != len(levels):
        raise ValueError(f"levels are {levels} for ratios {ratios.shape}: expected ascending ones")
    if not (np.isfinite(ratios).all() and (ratios > 0).all()):
        raise ValueError("ratios of difficulties must be positive and finite")
    logs, scale = np.log(ratios), np.log(np.asarray(levels, float))

    def crossing(columns: np.ndarray, height: float = 0.0) -> float:
        means = logs[:, columns].mean(axis=1)
        curve = isotonic(means) + np.arange(len(levels)) * 1e-12  # np.interp wants no ties
        if not curve[0] <= height <= curve[-1]:
            return float(levels[np.abs(means - height).argmin()])
        return round(float(np.exp(np.interp(height, curve, scale))), 6)  # an end is its level

    every = np.arange(logs.shape[1])
    low, high = np.quantile(_over_seeds(crossing, every, resamples, seed), [0.025, 0.975])
    curve = isotonic(logs.mean(axis=1))
    return Balance(
        n=crossing(every),
        interval=(float(low), float(high)),
        band=(crossing(every, math.log(BAND[0])), crossing(every, math.log(BAND[1]))),
        bracketed=bool(curve[0] <= 0 <= curve[-1]),
    )


def least(
    levels: Sequence[int], values: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0
) -> Least:
    """Returns the level at which the mean over seeds is smallest; the first of equal ones.

    Args:
        levels: in ascending order.
        values: finite, [levels, seeds].
    """

    def lowest(columns: np.ndarray) -> float:
        return float(levels[values[:, columns].mean(axis=1).argmin()])

    every = np.arange(values.shape[1])
    drawn = _over_seeds(lowest, every, resamples, seed)
    low, high = np.quantile(drawn, [0.025, 0.975], method="nearest")  # a level, as `n` is
    n = lowest(every)
    return Least(n, (float(low), float(high)), bracketed=levels[0] < n < levels[-1])


def _over_seeds(
    statistic: Callable[[np.ndarray], float], every: np.ndarray, resamples: int, seed: int
) -> list[float]:
    """A statistic of columns [S] of which as many as there are were drawn with replacement."""
    rng = np.random.default_rng(seed)
    return [statistic(rng.choice(every, len(every))) for _ in range(resamples)]
