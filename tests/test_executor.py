import numpy as np
import pytest
from fakes import Clock, ScriptedPolicy, observation
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.errors import LibraError
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.protocol import Plan, Policy
from libra_vla.execution.trace import trace_arrays


def run(policy: ScriptedPolicy, config: ExecutionConfig, steps: int) -> tuple[Executor, list, list]:
    """Returns the executor, the actions and the steps at which an observation was taken."""
    executor, seen = Executor(policy, config), []
    executor.reset(seed=7)
    actions = []
    for step in range(steps):
        actions.append(executor.act(lambda step=step: seen.append(step) or observation(step)))
    return executor, actions, seen


def test_the_fake_is_a_policy():
    assert isinstance(ScriptedPolicy(), Policy)


def test_sequential_plans_every_m_chunks_and_observes_once_per_chunk():
    policy = ScriptedPolicy()
    executor, actions, seen = run(policy, ExecutionConfig(), 20)
    assert seen == [0, 5, 10, 15]
    assert [s for kind, s in policy.calls if kind == "plan"] == [0, 10]
    assert [s for kind, s in policy.calls if kind == "refine"] == seen
    assert [c.planned for c in executor.trace] == [True, False, True, False]
    assert [c.plan_step for c in executor.trace] == [0, 0, 10, 10]
    assert [round(a[1] * 1000) for a in actions] == list(range(20))
    assert policy.seeds == [7]


def test_synchronous_plans_at_every_chunk():
    policy = ScriptedPolicy()
    executor, _, _ = run(policy, ExecutionConfig(mode="synchronous"), 12)
    assert [s for kind, s in policy.calls if kind == "plan"] == [0, 5, 10]
    assert all(c.plan_step == c.step for c in executor.trace)


def test_a_smaller_horizon_factor_plans_more_often():
    policy = ScriptedPolicy(horizon_factor=4)
    run(policy, ExecutionConfig(horizon_factor=3), 30)
    assert [s for kind, s in policy.calls if kind == "plan"] == [0, 15]


def test_executing_part_of_a_chunk_moves_the_window_by_as_much():
    policy = ScriptedPolicy()
    executor, _, seen = run(policy, ExecutionConfig(execute=2), 10)
    assert seen == [0, 2, 4, 6, 8]
    assert [s for kind, s in policy.calls if kind == "plan"] == [0, 6]  # 4 of 5 left at step 6
    assert executor.trace[1].coarse[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert [c.executed for c in executor.trace] == [2] * 5


@given(
    chunk=st.integers(1, 6),
    factor=st.integers(1, 4),
    execute=st.integers(1, 6),
    mode=st.sampled_from(["synchronous", "sequential"]),
    steps=st.integers(1, 60),
)
def test_every_step_is_executed_once_on_intents_meant_for_it(chunk, factor, execute, mode, steps):
    policy = ScriptedPolicy(chunk=chunk, horizon_factor=factor)
    config = ExecutionConfig(mode=mode, execute=min(execute, chunk))
    executor, actions, _ = run(policy, config, steps)
    assert [round(a[1] * 1000) for a in actions] == list(range(steps))
    for record in executor.trace:
        assert record.coarse[:, 0].tolist() == [(record.step + i) % 10 for i in range(chunk)]
        assert 0 <= record.step - record.plan_step <= chunk * (factor - 1)
    assert sum(c.executed for c in executor.trace) == steps


def test_control_time_leaves_out_the_observation():
    clock = Clock()
    policy = ScriptedPolicy(clock=clock, plan_s=0.2, refine_s=0.02)
    executor = Executor(policy, clock=clock)
    executor.reset(0)

    def observe():
        clock.now += 1.0
        return observation()

    for _ in range(10):
        executor.act(observe)
    expected = [220, 0, 0, 0, 0, 20, 0, 0, 0, 0]
    np.testing.assert_allclose(executor.control_ms, expected, atol=1e-6)
    assert executor.trace[0].plan_ms == pytest.approx(200)
    assert executor.trace[1].plan_ms is None


def test_reset_starts_over():
    executor, _, _ = run(ScriptedPolicy(), ExecutionConfig(), 7)
    executor.reset(8)
    executor.act(observation)
    assert [c.step for c in executor.trace] == [0] and executor.trace[0].planned
    assert len(executor.control_ms) == 1


def test_trace_becomes_arrays():
    executor, _, _ = run(ScriptedPolicy(), ExecutionConfig(), 12)
    arrays = trace_arrays(executor.trace)
    assert arrays["coarse"].shape == arrays["actions"].shape == (3, 5, 3)
    assert arrays["executed"].tolist() == [5, 5, 2]
    assert np.isnan(arrays["plan_ms"]).tolist() == [False, True, False]
    np.testing.assert_allclose(arrays["confidence"], 0.75)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mode": "sequental"}, "did you mean 'sequential'"),
        ({"horizon_factor": 3}, "plans for M = 2"),
        ({"horizon_factor": 0}, "expected 1 to 2"),
        ({"execute": 6}, "hold H = 5 actions"),
        ({"execute": 0}, "expected 1 to 5"),
        ({"hold": -1}, "hold is -1: expected at least 0"),
        ({"replan_confidence": 1.5}, "replan_confidence is 1.5: expected 0 to 1"),
        ({"freeze": 1}, "leave some of it over"),
        ({"execute": 3, "inpaint": True}, "cannot in-paint"),
        ({"inpaint": True}, "leave some of it over"),
        ({"max_age": 3}, "max_age is 3: a chunk's last action is 4 control steps old"),
    ],
)
def test_a_wrong_configuration_is_one_clear_line(config, message):
    with pytest.raises(LibraError, match=message):
        Executor(ScriptedPolicy(), ExecutionConfig(**config))


class Misplanning(ScriptedPolicy):
    wrong: Plan

    def plan(self, observation):
        return self.wrong


@pytest.mark.parametrize(
    ("coarse", "step", "message"),
    [
        (np.zeros((9, 3), np.int64), 0, r"expected at least \[10, 3\]"),
        (np.zeros((10, 2), np.int64), 0, r"coarse actions \[10, 2\]"),
        (np.full((10, 3), 10), 0, "bins that do not exist"),
        (np.zeros((10, 3), np.int64), 4, "planned for control step 4 at step 0"),
    ],
)
def test_a_wrong_plan_is_refused(coarse, step, message):
    policy = Misplanning()
    policy.wrong = Plan(coarse, np.ones((*coarse.shape, 11), np.float32), step)
    with pytest.raises(LibraError, match=message):
        Executor(policy).act(observation)


def test_actions_that_are_not_finite_or_misshapen_are_refused():
    with pytest.raises(LibraError, match="nan for 'x' at control step 6: actions must be finite"):
        run(ScriptedPolicy(bad_step=5), ExecutionConfig(), 8)
    policy = ScriptedPolicy()
    policy.refine = lambda observation, coarse: np.zeros((4, 3))
    with pytest.raises(LibraError, match=r"actions \[4, 3\]: expected \[5, 3\]"):
        Executor(policy).act(observation)
