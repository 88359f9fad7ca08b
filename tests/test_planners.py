"""Planners that really work beside the control loop."""

import threading
import time

import pytest
from fakes import ScriptedPolicy, observation

from libra_vla.errors import LibraError
from libra_vla.execution import planners
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.planners import ThreadPlanner


def until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(planners, "FIRST_PAUSE", 0.01)


class Held(ScriptedPolicy):
    """Plans only as long as its gate is open; fails while `error` is set."""

    def __init__(self) -> None:
        super().__init__(chunk=5, horizon_factor=4)
        self.gate, self.error = threading.Event(), None
        self.gate.set()

    def plan(self, observation):
        self.gate.wait()
        if self.error:
            raise self.error
        return super().plan(observation)


@pytest.fixture
def policy():
    policy = Held()
    yield policy
    policy.gate.set()


@pytest.fixture
def background(policy):
    planner = ThreadPlanner(policy, failures=4)
    yield planner
    policy.gate.set()
    planner.close()


def test_the_latest_observation_is_planned_for(policy, background):
    policy.gate.clear()
    background.offer(observation(0))
    until(lambda: background.trouble is not None)
    for step in (1, 2, 3):
        background.offer(observation(step))
    assert background.busy and background.take(3) is None
    policy.gate.set()
    until(lambda: not background.busy)
    assert background.take(4).plan.observation_step == 3
    assert background.take(5) is None
    assert [step for _, step in policy.calls] == [0, 3]


def test_what_was_under_way_at_a_reset_is_dropped(policy, background):
    policy.gate.clear()
    background.offer(observation(5))
    until(lambda: background.trouble is not None)
    background.reset(1)
    policy.gate.set()
    until(lambda: not background.busy)
    assert background.take(0) is None


def test_failures_are_tried_again_after_a_pause_and_reported(policy, background):
    policy.error = ConnectionError("the link is down\nsecond line")
    background.offer(observation(0))
    until(lambda: background.trouble is not None and "failed 1 times" in background.trouble)
    assert "ConnectionError: the link is down" in background.trouble
    assert "second line" not in background.trouble
    policy.error = None
    until(lambda: not background.busy)
    background.offer(observation(1))
    until(lambda: not background.busy)
    assert background.take(1).plan.observation_step == 1 and background.trouble is None


def test_too_many_failures_in_a_row_are_an_error(policy, background):
    policy.error = ValueError("no")
    for _ in range(4):
        background.offer(observation(0))
        until(lambda: not background.busy)
    with pytest.raises(LibraError, match="the planner failed 4 times in a row: ValueError: no"):
        background.take(0)


def test_a_closed_planner_takes_no_offers(background):
    background.close()
    with pytest.raises(LibraError, match="closed"):
        background.offer(observation(0))


def test_a_stalled_planner_stops_the_robot_and_it_goes_on_by_itself(policy):
    executor = Executor(policy, ExecutionConfig(mode="concurrent", hold=2, slow=2))
    executor.reset(0)
    executor.act(observation)
    until(lambda: not executor._planning._planner.busy)
    while executor.trace == [] or executor.plans[-1].step < 6:
        executor.act(observation)
        time.sleep(0.001)
    policy.gate.clear()
    for _ in range(60):
        action = executor.act(observation)
    assert (action[:2] == 0).all() and executor.halts[-1].starved
    assert "the planner has been at work for" in executor.halts[-1].reason
    assert max(executor.control_ms) < 1000, "nobody waited"
    chunks = len(executor.trace)
    policy.gate.set()
    until(lambda: not executor._planning._planner.busy)
    for _ in range(3):
        executor.act(observation)
    assert len(executor.trace) > chunks
    executor.close()


def test_a_planner_of_somebody_else_may_plan_in_any_mode(policy):
    elsewhere = ScriptedPolicy(chunk=5, horizon_factor=4)
    for mode in ("synchronous", "concurrent"):
        executor = Executor(policy, ExecutionConfig(mode=mode), planner=elsewhere)
        executor.reset(0)
        executor.act(observation)
        until(lambda: elsewhere.calls)
        executor.close()
        elsewhere.calls.clear()
    assert policy.calls == [] or {kind for kind, _ in policy.calls} == {"refine"}
