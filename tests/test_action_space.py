"""The hybrid action space: properties that hold for every robot, and its errors."""

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.errors import LibraError

CONVENTION = ActionConvention(
    names=("x", "y", "gripper"),
    units=("m", "m", "1"),
    representation="delta",
    rate_hz=20.0,
    gripper=2,
)


@st.composite
def spaces(draw: st.DrawFn) -> ActionSpace:
    low = draw(st.lists(st.floats(-100, 100), min_size=3, max_size=3))
    span = draw(st.lists(st.floats(1e-3, 100), min_size=3, max_size=3))
    bins = draw(st.lists(st.integers(2, 300), min_size=3, max_size=3))
    high = [a + b for a, b in zip(low, span, strict=True)]
    return ActionSpace(CONVENTION, tuple(bins), tuple(low), tuple(high))


actions = npst.arrays(np.float64, (7, 3), elements=st.floats(-1, 1))
anything = npst.arrays(np.float64, (7, 3), elements=st.floats(-1e6, 1e6))


@given(spaces(), actions)
def test_round_trip_through_bins_is_within_half_a_bin(space: ActionSpace, action: np.ndarray):
    error = np.abs(space.decode(space.encode(action)) - action)
    assert (error <= space.widths / 2 + 1e-6).all()


@given(spaces(), anything)
def test_every_action_falls_into_a_bin(space: ActionSpace, raw: np.ndarray):
    coarse = space.encode(space.normalise(raw))
    assert coarse.dtype == np.int64
    assert (coarse >= 0).all() and (coarse < np.array(space.bins)).all()
    assert (np.abs(space.normalise(raw)) <= 1.0).all()


@given(spaces(), actions)
def test_normalising_undoes_denormalising(space: ActionSpace, action: np.ndarray):
    span = np.array(space.high) - np.array(space.low)
    # float32 cannot resolve a span that is tiny beside its offset.
    assume((span > 1e-3 * np.abs(space.low)).all())
    assert np.allclose(space.normalise(space.denormalise(action)), action, atol=1e-3)


@given(spaces())
def test_bins_are_a_fixed_point_of_their_centres(space: ActionSpace):
    for n in set(space.bins):
        coarse = np.minimum(np.arange(n)[:, None], np.array(space.bins) - 1)
        assert (space.encode(space.decode(coarse)) == coarse).all()


def test_edges_follow_the_paper():
    space = ActionSpace(CONVENTION, (10, 10, 2), (-1.0,) * 3, (1.0,) * 3)
    assert space.encode(np.array([-1.0, 1.0, 0.0])).tolist() == [0, 9, 1]
    assert space.encode(np.array([-7.0, 7.0, -0.001])).tolist() == [0, 9, 0]
    assert space.encode(np.array([0.2, 0.1999, 1.0])).tolist() == [6, 5, 1]
    assert np.allclose(space.decode(np.array([0, 9, 1])), [-0.9, 0.9, 0.5])
    assert np.allclose(space.widths, [0.2, 0.2, 1.0])


def test_a_dimension_that_never_moved_stays_put():
    data = np.array([[0.3, 1.0, -1.0], [0.3, 2.0, 1.0]])
    space = ActionSpace.fit(data, CONVENTION, bins=10)
    assert space.normalise(data)[:, 0].tolist() == [0.0, 0.0]
    assert np.allclose(space.denormalise(np.array([[0.7, 0.0, 0.0]]))[:, 0], 0.3)


def test_the_gripper_is_left_alone():
    data = np.tile([[0.0, 0.0, -1.0]], (5, 1))
    data[:, :2] = np.random.default_rng(0).normal(size=(5, 2))
    space = ActionSpace.fit(data, CONVENTION, bins=11, gripper_bins=2, normalisation="quantile")
    assert (space.low[2], space.high[2], space.bins) == (-1.0, 1.0, (11, 11, 2))


def test_quantiles_clip_outliers():
    data = np.random.default_rng(0).uniform(-1, 1, size=(1000, 3))
    data[0, 0] = 50.0
    assert ActionSpace.fit(data, CONVENTION, bins=10).high[0] == 50.0
    assert ActionSpace.fit(data, CONVENTION, bins=10, normalisation="quantile").high[0] < 1.0


@given(spaces())
def test_json_round_trip(space: ActionSpace):
    assert ActionSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_non_finite_actions_are_named(bad: float):
    space = ActionSpace(CONVENTION, (4, 4, 4), (-1.0,) * 3, (1.0,) * 3)
    action = np.zeros((2, 3))
    action[1, 1] = bad
    for method in (space.normalise, space.encode, space.denormalise):
        with pytest.raises(LibraError, match=r"'y'.*\[1\].*finite"):
            method(action)
    with pytest.raises(LibraError, match=r"action 1 .*'y'"):
        ActionSpace.fit(action, CONVENTION, bins=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.normalise(np.zeros(4)), r"shape \[4\]: expected \[..., 3\]"),
        (lambda s: s.decode(np.array([0, 0, 4])), "leave their bins"),
        (lambda s: s.decode(np.array([0.0, 0.0, 0.0])), "expected integers"),
        (lambda s: ActionSpace.fit(np.zeros((0, 3)), CONVENTION, bins=4), "empty"),
        (lambda s: ActionSpace.fit(np.zeros((5, 2)), CONVENTION, bins=4), r"expected \[T, 3\]"),
        (lambda s: ActionSpace.fit(np.zeros((5, 3)), CONVENTION, bins=1), "at least 2"),
        (
            lambda s: ActionSpace.fit(
                np.zeros((5, 3)),
                CONVENTION,
                bins=4,
                normalisation="minmax",  # type: ignore[arg-type]
            ),
            "did you mean 'min_max'",
        ),
        (lambda s: ActionSpace.from_json({"convention": {}}), "damaged"),
    ],
)
def test_bad_input_is_one_clear_line(call, message: str):
    space = ActionSpace(CONVENTION, (4, 4, 4), (-1.0,) * 3, (1.0,) * 3)
    with pytest.raises(LibraError, match=message) as error:
        call(space)
    assert "\n" not in str(error.value)


def test_differences_between_robots_are_named():
    other = ActionConvention(
        names=("x", "y", "gripper"),
        units=("m", "m", "1"),
        representation="delta",
        rate_hz=10.0,
        gripper=2,
        gripper_open=1.0,
        gripper_closed=0.0,
    )
    with pytest.raises(LibraError, match=r"rate_hz is 10.0 instead of 20.0; gripper_open is 1.0"):
        CONVENTION.require_equal(other, mine="the policy", theirs="the environment")


def test_statistics_of_another_robot_are_refused():
    mine = ActionSpace(CONVENTION, (4, 4, 4), (-1.0,) * 3, (1.0,) * 3)
    theirs = ActionSpace(CONVENTION, (4, 4, 4), (-1.0,) * 3, (2.0, 1.0, 1.0))
    with pytest.raises(LibraError, match="other statistics"):
        mine.require_compatible(theirs, mine="the policy", theirs="the dataset")
    finer = ActionSpace(CONVENTION, (8, 4, 4), (-1.0,) * 3, (1.0,) * 3)
    with pytest.raises(LibraError, match="granularity"):
        mine.require_compatible(finer, mine="the policy", theirs="the dataset")
