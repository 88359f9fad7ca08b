"""Faults of the planner, at the robot's own pace: 20 control steps per second."""

import os
import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from fakes import CONVENTION, ScriptedPolicy, observation
from test_process_planner import scripted

from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.process import ProcessPlanner

PERIOD = 1.0 / CONVENTION.rate_hz


class Robot:
    """A control loop with a planner in a process of its own."""

    def __init__(self) -> None:
        self.planner = ProcessPlanner(scripted)
        self.planner.plan(observation())
        config = ExecutionConfig(mode="concurrent", hold=3, slow=2)
        self.executor = Executor(ScriptedPolicy(), config, planner=self.planner)
        self.executor.reset(0)
        self.actions: list[np.ndarray] = []
        self.late = 0

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        end = due = time.monotonic()
        end += seconds
        while time.monotonic() < end and not until():
            time.sleep(max(0.0, due - time.monotonic()))
            self.late += time.monotonic() - due > PERIOD
            due = max(due, time.monotonic()) + PERIOD
            self.actions.append(self.executor.act(lambda: observation()))

    def fresh(self) -> Callable[[], bool]:
        """Returns whether a plan has come since now."""
        count = len(self.executor.plans)
        return lambda: len(self.executor.plans) > count + 1

    def stands(self) -> bool:
        """Whether the robot rests, with the gripper as it was."""
        before, last = self.actions[-2:]
        return bool((last[:2] == 0).all() and last[2] == before[2])


@pytest.fixture
def robot():
    robot = Robot()
    yield robot
    robot.executor.close()
    robot.planner.close()


@pytest.mark.slow
def test_a_planner_that_hangs_for_five_seconds(robot):
    robot.run(2.0)
    assert not robot.stands()
    os.kill(robot.planner.pid, signal.SIGSTOP)
    robot.run(5.0)
    assert robot.stands(), "it held its pose"
    halt = robot.executor.halts[-1]
    assert halt.starved and halt.steps > 60 and "at work for" in halt.reason
    os.kill(robot.planner.pid, signal.SIGCONT)
    robot.run(10.0, until=robot.fresh())
    robot.run(0.5)
    assert not robot.stands(), "and went on by itself"
    assert np.isfinite(robot.actions).all()


@pytest.mark.slow
def test_a_planner_that_is_killed_again_and_again(robot):
    for _ in range(5):
        robot.run(1.0)
        pid = robot.planner.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        robot.run(30.0, until=robot.fresh())
        assert robot.planner.pid not in (None, pid)
    assert np.isfinite(robot.actions).all()
    assert len(robot.executor.halts) >= 2
