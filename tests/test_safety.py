import numpy as np
import pytest
from fakes import CONVENTION, ScriptedPolicy, observation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.errors import LibraError
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.safety import Safety, SafetyConfig, at_rest

SPACE = ActionSpace(CONVENTION, (10, 10, 10), low=(-2.0, 0.5, -1.0), high=(2.0, 1.0, 1.0))
ARM = ActionConvention(("dx", "dy", "dz", "gripper"), ("1",) * 4, "delta", 20.0, gripper=3)
BOX = (-0.1, -0.1, 0.0, 0.1, 0.1, 0.3)


def test_what_is_in_order_passes_unchanged_and_uncounted():
    safety = Safety(SafetyConfig(max_change=0.5), SPACE)
    for action in ([1.0, 0.7, 1.0], [1.9, 0.8, -1.0], [2.0, 0.9, 1.0]):
        np.testing.assert_array_equal(safety(np.array(action)), np.float32(action))
    assert not safety.interventions


def test_each_intervention_is_counted():
    safety = Safety(SafetyConfig(max_change=0.1, hold_on_nan=True, deadline_ms=5.0), SPACE)
    assert safety(np.array([9.0, 0.7, 1.0])).tolist() == pytest.approx([2.0, 0.7, 1.0])
    assert safety(np.array([-2.0, 0.7, -1.0])).tolist() == pytest.approx([1.8, 0.7, -1.0])
    held = safety(np.array([np.nan, 0.7, 1.0]))
    assert held.tolist() == [0.0, 0.0, -1.0], "still, even where no demonstration stood still"
    safety.took(4.0)
    safety.took(6.0)
    expected = {"clamped": 1, "rate limited": 1, "not finite": 1, "late": 1}
    assert dict(safety.interventions) == expected
    safety.reset()
    assert not safety.interventions


def test_the_workspace_is_not_left_and_the_way_back_is_free():
    space = ActionSpace(ARM, (10,) * 4, (-1.0,) * 4, (1.0,) * 4)
    safety = Safety(SafetyConfig(workspace=BOX, metres=0.05), space)
    safety.saw(np.array([0.08, 0.0, 0.1, 0.0]))
    first = safety(np.array([1.0, 1.0, 0.0, 1.0]))
    assert first.tolist() == pytest.approx([0.4, 1.0, 0.0, 1.0]), "two centimetres are left"
    assert safety(np.array([1.0, 0.0, 0.0, 1.0]))[0] == pytest.approx(0.0)
    assert safety(np.array([-1.0, 0.0, 0.0, 1.0]))[0] == -1.0
    assert safety.interventions["workspace"] == 2
    safety.saw(np.array([0.2, 0.0, 0.1, 0.0]))
    assert safety(np.array([-1.0, 0.0, 0.0, 1.0]))[0] == -1.0, "from outside"
    assert safety(np.array([1.0, 0.0, 0.0, 1.0]))[0] == pytest.approx(0.0)


def test_absolute_commands_rest_by_repetition():
    joints = ActionConvention(("j", "grip"), ("rad", "1"), "joints", 20.0, gripper=1, rest="last")
    assert at_rest(joints, np.array([0.7, 1.0]), motion=0.5).tolist() == pytest.approx([0.7, 1.0])


@given(
    actions=npst.arrays(
        np.float32, st.tuples(st.integers(1, 20), st.just(3)), elements=st.floats(width=32)
    ),
    change=st.floats(0.01, 2.0),
)
def test_whatever_comes_in_what_goes_out_is_finite_bounded_and_no_jump(actions, change):
    space = ActionSpace(CONVENTION, (10,) * 3, (-1.0,) * 3, (1.0,) * 3)
    safety = Safety(SafetyConfig(hold_on_nan=True, max_change=change), space)
    out = [safety(action) for action in actions]
    assert np.isfinite(out).all() and np.abs(out).max() <= 1.0 + 1e-6
    moving = np.array([row for row, a in zip(out, actions, strict=True) if np.isfinite(a).all()])
    if len(moving) == len(out) > 1:
        assert np.abs(np.diff(moving[:, :2], axis=0)).max() <= change + 1e-5


def test_the_executor_holds_the_pose_instead_of_raising_where_it_may():
    policy = ScriptedPolicy(bad_step=5)
    config = ExecutionConfig(safety=SafetyConfig(hold_on_nan=True))
    executor = Executor(policy, config)
    executor.reset(0)
    actions = [executor.act(observation) for _ in range(10)]
    assert np.isfinite(actions).all()
    assert actions[6][:2].tolist() == [0.0, 0.0] and actions[6][2] == actions[5][2]
    assert executor.report()["interventions"] == {"not finite": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_change": 0.0}, "max_change is 0.0: expected more than 0"),
        ({"workspace": (0, 0, 0, 1, 1, 0)}, "lower corner, then its upper one"),
    ],
)
def test_wrong_limits_are_refused(options, message):
    with pytest.raises(LibraError, match=message):
        SafetyConfig(**options)
