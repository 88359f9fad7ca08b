import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.evaluation.statistics import mean_of, percentiles, rate, wilson


def test_wilson_edges_are_exact():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0
    assert wilson(485, 500) == pytest.approx((0.951, 0.982), abs=1e-3)  # 97 % +/- 1.5 points
    assert rate(0, 0) == (None, [0.0, 1.0])
    with pytest.raises(ValueError, match="6 successes of 5"):
        wilson(6, 5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_mirrors(case):
    successes, n = case
    low, high = wilson(successes, n)
    assert 0.0 <= low <= successes / n <= high <= 1.0
    mirrored = wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-12)


@given(st.integers(1, 600).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(case):
    stats = pytest.importorskip("scipy.stats")
    theirs = stats.binomtest(*case).proportion_ci(method="wilson")
    assert wilson(*case) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_percentiles():
    summary = percentiles(np.arange(1.0, 102.0))
    assert summary == {"p50": 51.0, "p95": 96.0, "p99": 100.0, "mean": 51.0, "n": 101}
    assert percentiles([])["p99"] is None
    assert mean_of([1.0, None, 3.0]) == 2.0
    assert mean_of([None]) is None
