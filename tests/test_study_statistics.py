import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.studies.statistics import (
    balance,
    isotonic,
    least,
    line,
    nearest,
    peak,
    regret,
    student_t,
    two_lines,
)

LEVELS = [2, 4, 8, 10, 16, 32, 50, 64, 100]
X = np.log(LEVELS)
TOP = np.log(12.0)


def simulated(curve, rng, *, seeds: int = 3, episodes: int = 100, luck: float = 0.04) -> np.ndarray:
    """Outcomes [levels, seeds, episodes] of runs whose weights have luck of their own."""
    rates = np.clip(curve[:, None] + rng.normal(0, luck, (len(curve), seeds)), 0, 1)
    return (rng.random((*rates.shape, episodes)) < rates[..., None]).astype(float)


def share_found(curve, *, studies: int = 300) -> float:
    rng = np.random.default_rng(7)
    found = 0
    for _ in range(studies):
        outcomes = simulated(curve, rng)
        runs = outcomes.mean(axis=2)
        found += two_lines(np.repeat(X, runs.shape[1]), runs.ravel()).inverted_u
    return found / studies


def test_the_two_lines_test_accepts_an_inverted_u():
    assert share_found(0.85 - 0.12 * (X - TOP) ** 2) > 0.95
    assert share_found(0.85 - 0.25 * np.abs(X - TOP)) > 0.95


@pytest.mark.parametrize(
    "curve",
    [
        np.full(9, 0.6),
        0.3 + 0.12 * X,
        0.9 - 0.12 * X,
        0.8 - 0.5 * np.exp(-1.5 * (X - X[0])),  # rises, then levels off
        np.where(TOP > X, 0.4 + 0.2 * (X - X[0]), 0.4 + 0.2 * (TOP - X[0])),
        np.where(TOP > X, 0.8, 0.8 - 0.2 * (X - TOP)),
    ],
    ids=["flat", "rising", "falling", "saturating", "plateau", "shoulder"],
)
def test_the_two_lines_test_rarely_finds_a_peak_where_there_is_none(curve):
    assert share_found(curve) <= 0.05


def test_too_few_levels_are_no_evidence():
    assert not two_lines([1, 1, 2, 2], [0.1, 0.2, 0.8, 0.9]).inverted_u
    assert two_lines([1, 1, 2, 2], [0.1, 0.2, 0.8, 0.9]).breakpoint is None


@pytest.mark.parametrize(
    ("t", "freedom", "p"),  # from a table of Student's distribution
    [(12.706, 1, 0.05), (4.303, 2, 0.05), (2.571, 5, 0.05), (2.228, 10, 0.05), (3.055, 12, 0.01)],
)
def test_p_values_are_those_of_the_tables(t, freedom, p):
    assert student_t(t, freedom) == pytest.approx(p, rel=2e-3)
    assert student_t(-t, freedom) == student_t(t, freedom) and student_t(0.0, freedom) == 1.0


def test_a_line_without_noise_is_certain():
    x = np.arange(5.0)
    assert (line(x, 2 * x).slope, line(x, 2 * x).p) == (2.0, 0.0)
    assert line(x, 0 * x).p == 1.0 and line(x[:2], x[:2]).p == 1.0


def test_the_peak_is_found_and_doubted_as_far_as_the_data_go():
    rng = np.random.default_rng(0)
    sharp = peak(LEVELS, simulated(0.9 - 0.3 * (X - np.log(10)) ** 2, rng, luck=0.0))
    assert sharp.level in (8, 10, 16) and sharp.interval[0] >= 8 and sharp.interval[1] <= 16
    assert sum(sharp.shares.values()) == pytest.approx(1)
    flat = peak(LEVELS, simulated(np.full(9, 0.5), rng))
    assert flat.interval[1] / flat.interval[0] > 5
    same = peak([2, 4], np.ones((2, 2, 4)))
    assert same.interval == (2, 4) and same.shares == {2: 0.5, 4: 0.5}


def test_regret_is_nothing_at_the_peak_and_paired_elsewhere():
    outcomes = simulated(0.9 - 0.2 * (X - np.log(10)) ** 2, np.random.default_rng(1))
    best = peak(LEVELS, outcomes).level
    assert regret(LEVELS, outcomes, best) == (0.0, (0.0, 0.0))
    cost, (low, high) = regret(LEVELS, outcomes, 90.0)
    assert low <= cost <= high and cost > 0.3 and low > 0.1
    assert nearest(LEVELS, 90.0) == 100 and nearest([10, 40], 20) == 10


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12))
def test_isotonic_keeps_the_mean_and_never_falls(values):
    fitted = isotonic(values)
    assert (np.diff(fitted) >= -1e-12).all() and len(fitted) == len(values)
    assert fitted.mean() == pytest.approx(np.mean(values), abs=1e-9)
    assert isotonic(sorted(values)) == pytest.approx(sorted(values))


@given(top=st.floats(2.5, 90.0), slope=st.floats(0.3, 2.0))
def test_balance_finds_the_crossing_of_a_straight_line(top, slope):
    ratios = np.exp(slope * (X - np.log(top)))[:, None].repeat(3, axis=1)
    found = balance(LEVELS, ratios, resamples=20)
    assert found.bracketed and found.n == pytest.approx(top, rel=1e-6)
    assert found.interval == pytest.approx((top, top), rel=1e-6)
    assert found.band[0] < top < found.band[1]


def test_the_smallest_is_found_and_an_end_is_told():
    valley = (X - X[3])[:, None] ** 2 + np.random.default_rng(0).normal(0, 0.01, (9, 3))
    found = least(LEVELS, valley, resamples=50)
    assert (found.n, found.interval, found.bracketed) == (LEVELS[3], (LEVELS[3],) * 2, True)
    rising = least(LEVELS, X[:, None].repeat(2, axis=1), resamples=20)
    assert (rising.n, rising.bracketed) == (2, False)
    torn = np.stack([-X, X, X], axis=1)
    low, high = least(LEVELS, torn, resamples=200).interval
    assert (low, high) == (2, 100), "seeds that disagree make it wide"


def test_balance_says_when_the_levels_do_not_hold_it():
    found = balance(LEVELS, np.full((9, 2), 3.0), resamples=20)
    assert not found.bracketed and found.n == 2
    hill = np.exp(-0.1 - 0.2 * np.abs(X - X[4]))[:, None]
    found = balance(LEVELS, hill, resamples=20)
    assert not found.bracketed and found.n == LEVELS[4], "neither end: it comes nearest inside"
    with pytest.raises(ValueError, match="positive"):
        balance(LEVELS, np.zeros((9, 2)))
    noisy = np.exp(X[:, None] - TOP + np.random.default_rng(0).normal(0, 0.3, (9, 3)))
    low, high = balance(LEVELS, noisy).interval
    assert low < balance(LEVELS, noisy).n < high
