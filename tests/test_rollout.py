import numpy as np
import pytest
from fakes import (
    RAISES,
    SOLVED,
    TIMEOUT,
    ScriptedPolicy,
    ToyEnv,
    load_scripted,
    toy_tasks,
)

from libra_vla.errors import LibraError
from libra_vla.evaluation.rollout import rollout
from libra_vla.execution.executor import ExecutionConfig, Executor


def run(outcome: int, policy: ScriptedPolicy | None = None, **options):
    env, policy = ToyEnv(toy_tasks("toy")[0]), policy or ScriptedPolicy()
    executor = Executor(policy, ExecutionConfig())
    options = {
        "end_effector": lambda: env.position.copy(),
        "seed": 3,
        "step_budget": 8,
        "init_state": np.array([outcome]),
    } | options
    return rollout(env, executor, **options), env, policy


def test_the_first_success_ends_the_episode():
    episode, env, policy = run(SOLVED)
    assert episode.success and episode.steps == 6 and episode.error is None
    assert env.renders == 2 == len(episode.states), "one observation per chunk"
    assert len(episode.positions) == 7 and len(episode.control_ms) == 6
    assert [c.executed for c in episode.chunks] == [5, 1]
    assert policy.seeds == [3] and env.seed == 3
    assert episode.frames == []


def test_the_budget_ends_it_too():
    episode, _, _ = run(TIMEOUT)
    assert not episode.success and episode.steps == 8 and episode.error is None


def test_an_exception_is_an_error_and_no_failure():
    episode, _, _ = run(RAISES)
    assert episode.error == "RuntimeError: the simulation is unstable"
    assert not episode.success and episode.steps == 5 and len(episode.chunks) == 2


def test_actions_that_are_not_finite_are_an_error():
    episode, _, _ = run(SOLVED, ScriptedPolicy(bad_step=5))
    assert "actions must be finite" in episode.error
    assert episode.steps == 5


def test_a_reset_that_fails_is_an_error():
    episode, _, _ = run(SOLVED, init_state=np.array(["x"]))
    assert episode.error.startswith("ValueError") and episode.steps == 0


def test_frames_are_those_the_policy_saw_and_the_last():
    episode, _, _ = run(SOLVED, record_frames=True)
    assert [int(f[0, 0, 0]) for f in episode.frames] == [0, 5, 6]


def test_another_instruction_and_another_goal():
    seen = []
    policy = ScriptedPolicy()
    plan = policy.plan
    policy.plan = lambda o: seen.append(o.instruction) or plan(o)
    episode, _, _ = run(TIMEOUT, policy, instruction="do something else", watch=lambda: bool(seen))
    assert seen == ["do something else"] and episode.goal_elsewhere is True
    assert episode.steps == 1 and not episode.success, "there is nothing left to do"


@pytest.mark.parametrize(
    ("name", "message"),
    [("other_robot", "the environment does not follow"), ("other_camera", "'wrist' is missing")],
)
def test_a_policy_for_something_else_is_refused(tmp_path, name, message):
    with pytest.raises(LibraError, match=message):
        run(SOLVED, load_scripted(tmp_path / name, "cpu"))
