"""The planner in a process of its own, and what becomes of the robot when that dies."""

import os
import signal
import time

import numpy as np
import pytest
from fakes import ScriptedPolicy, observation
from hypothesis import given
from hypothesis import strategies as st
from test_planners import until

from libra_vla.errors import LibraError
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.process import ProcessPlanner
from libra_vla.execution.wire import (
    pack,
    pack_observation,
    pack_plan,
    unpack,
    unpack_observation,
    unpack_plan,
)


def scripted(kind: str = "") -> ScriptedPolicy:
    if kind == "missing":
        raise LibraError("there is no such policy")
    policy = ScriptedPolicy()
    if kind == "slow":
        policy.plan = lambda observation: time.sleep(60)
    return policy


@pytest.fixture
def planner():
    planner = ProcessPlanner(scripted)
    yield planner
    planner.close()


def test_messages_arrive_as_they_were():
    seen = observation(7, (0.5, -1.0, 2.0))
    again = unpack_observation(pack_observation(seen))
    np.testing.assert_array_equal(again.images["agentview"], seen.images["agentview"])
    np.testing.assert_array_equal(again.state, seen.state)
    assert again.state.dtype == np.float32
    assert (again.instruction, again.step) == (seen.instruction, 7)
    plan = ScriptedPolicy().plan(seen)
    same = unpack_plan(pack_plan(plan))
    np.testing.assert_array_equal(same.coarse, plan.coarse)
    np.testing.assert_array_equal(same.confidence, plan.confidence)


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 399), st.integers(1, 255))))
def test_a_damaged_message_is_one_clear_line(cut, flips):
    message = bytearray(pack_observation(observation(7)))[:cut]
    for place, flip in flips:
        if place < len(message):
            message[place] ^= flip
    try:
        unpack_observation(bytes(message))
    except LibraError as error:
        assert "\n" not in str(error)


def test_objects_are_no_numbers():
    with pytest.raises(LibraError, match="array 'a' is of type"):
        unpack(pack({}, {"a": np.array(["text"])}))


def test_it_plans_as_it_would_here(planner):
    plan, expected = planner.plan(observation(3)), scripted().plan(observation(3))
    np.testing.assert_array_equal(plan.coarse, expected.coarse)
    np.testing.assert_array_equal(plan.distribution, expected.distribution)
    first = planner.pid
    planner.plan(observation(4))
    assert planner.pid == first


def test_an_error_in_the_child_is_named_and_the_child_lives(planner):
    planner.plan(observation(0))
    pid = planner.pid
    with pytest.raises(RuntimeError, match="a message holds no observation"):
        planner.plan(Broken())
    planner.plan(observation(1))
    assert planner.pid == pid


class Broken:
    """Packs, but is no observation to a policy."""

    images, state, instruction, step = {}, np.zeros(3), "", "seven"


def test_a_policy_that_does_not_load_is_named():
    with pytest.raises(RuntimeError, match="LibraError: there is no such policy"):
        ProcessPlanner(scripted, ["missing"]).plan(observation())


def test_a_child_that_takes_too_long_is_ended():
    planner = ProcessPlanner(scripted, ["slow"], timeout=0.2)
    with pytest.raises(TimeoutError, match=r"no answer within 0\.2 s"):
        planner.plan(observation())
    assert planner.pid is None


def test_a_killed_child_is_replaced(planner):
    planner.plan(observation(0))
    pid = planner.pid
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ConnectionError, match=r"died \(signal 9\)"):
        planner.plan(observation(1))
    assert planner.plan(observation(2)).observation_step == 2
    assert planner.pid not in (None, pid)
    planner.close()
    with pytest.raises(ConnectionError, match="closed"):
        planner.plan(observation(3))


def test_a_planner_killed_in_mid_episode_stops_the_robot_for_a_while(planner):
    """The robot goes on with the intents it has, holds its pose, and recovers."""
    config = ExecutionConfig(mode="concurrent", hold=2, slow=2)
    executor = Executor(scripted(), config, planner=planner)
    executor.reset(0)

    def go(steps: int) -> list[np.ndarray]:
        actions = []
        for _ in range(steps):
            actions.append(executor.act(lambda: observation()))
            time.sleep(0.01)
        return actions

    while len(executor.trace) < 4:
        go(1)
    killed_at = executor._step
    os.kill(planner.pid, signal.SIGKILL)
    went_on = go(3)
    while not (executor.halts and executor.halts[-1].step > killed_at):
        assert executor._step < killed_at + 60
        go(1)
    held = go(4)
    assert all((a[:2] == 0).all() and a[2] == held[0][2] for a in held[2:])
    chunks = len(executor.trace)
    until(lambda: go(1) and len(executor.trace) > chunks + 1, seconds=30)
    assert any("died (signal 9)" in h.reason or "at work" in h.reason for h in executor.halts)
    assert np.isfinite(went_on).all() and max(executor.control_ms) < 1000
    executor.close()
