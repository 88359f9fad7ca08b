"""The planner beside the control loop, in simulated time: every run is the same."""

from collections import Counter

import numpy as np
import pytest
from fakes import CONVENTION, ScriptedPolicy, observation
from hypothesis import example, given
from hypothesis import strategies as st

from libra_vla.action_space import ActionSpace
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.execution.latency import Latency
from libra_vla.execution.protocol import Plan

ROWS = 1000
SPACE = ActionSpace(CONVENTION, bins=(ROWS,) * 3, low=(-1.0,) * 3, high=(1.0,) * 3)


class RowPolicy(ScriptedPolicy):
    """Its intents say which row of which plan they are: the gripper's bin is the row, x's is the
    step of the observation; its actions are the intents' bin centres."""

    def __init__(self, chunk: int = 5, horizon_factor: int = 2) -> None:
        super().__init__(chunk, horizon_factor, action_space=SPACE)
        self.sure = 0.75

    def plan(self, observation) -> Plan:
        self.calls.append(("plan", observation.step))
        rows = np.arange(self.chunk * self.horizon_factor)
        coarse = np.stack([np.full_like(rows, observation.step), rows, rows], axis=1)
        distribution = np.full((*coarse.shape, ROWS), self.sure, np.float32)
        return Plan(coarse, distribution, observation.step)

    def refine(self, observation, coarse):
        self.calls.append(("refine", observation.step))
        return SPACE.decode(coarse)


def fixed(steps: int):
    return lambda ms, rng: steps


def run(delay, steps: int = 40, policy=None, refine_delay: int = 0, **options):
    """Returns the executor after an episode, and its actions."""
    policy = policy or RowPolicy()
    config = ExecutionConfig(**{"mode": "concurrent"} | options)
    delay = fixed(delay) if isinstance(delay, int) else delay
    executor = Executor(policy, config, latency=Latency(delay, fixed(refine_delay)))
    executor.reset(7)
    return executor, [executor.act(lambda: observation()) for _ in range(steps)]


def test_a_plan_is_begun_before_the_buffer_runs_dry_and_nobody_waits():
    executor, _ = run(4)
    assert [(p.step, p.arrived, p.kept) for p in executor.plans[:3]] == [
        (0, 4, 10), (9, 13, 6), (14, 18, 6),
    ]  # fmt: skip
    assert [h.steps for h in executor.halts] == [4], "only until the first plan"
    assert executor.halts[0].reason == "the planner is at work" and executor.halts[0].starved
    assert [c.plan_ms for c in executor.trace] == [None] * len(executor.trace)
    assert executor.report()["held_steps"] == 0


def test_without_delay_it_is_synchronous():
    executor, actions = run(0)
    expected, same = run(0, mode="synchronous")
    np.testing.assert_array_equal(actions, same)
    assert executor.halts == expected.halts == []
    assert [c.plan_step for c in executor.trace] == [c.plan_step for c in expected.trace]


def test_two_runs_are_the_same_and_another_seed_is_another_run():
    def jitter(ms, rng):
        return int(rng.integers(1, 8))

    first, second = run(jitter, steps=80), run(jitter, steps=80)
    np.testing.assert_array_equal(first[1], second[1])
    assert [vars(p) | {"ms": 0} for p in first[0].plans] == [
        vars(p) | {"ms": 0} for p in second[0].plans
    ]
    assert first[0].report() == second[0].report()


def test_in_line_inference_makes_the_robot_stand_still_and_then_begins_at_the_beginning():
    executor, actions = run(3, mode="sequential", steps=26)
    assert [c.step for c in executor.trace] == [3, 8, 16, 21]
    assert [c.coarse[0, 2] for c in executor.trace] == [0, 5, 0, 5]
    assert [(h.step, h.steps, h.starved) for h in executor.halts] == [(0, 3, False), (13, 3, False)]
    still = np.array(actions)[[0, 1, 2, 13, 14, 15]]
    assert (still[:, :2] == 0).all()
    assert (still[3:, 2] == actions[12][2]).all(), "the gripper as it was"
    report = executor.report()
    assert (report["waited_steps"], report["starved"], report["plans"]) == (6, 0, 2)
    assert report["age"] == {"mean": pytest.approx(7.5), "max": 12}


def test_starving_keeps_the_last_intent_then_slows_down_then_holds_the_pose():
    delays = iter([0, 30] + [0] * 20)
    executor, actions = run(lambda ms, rng: next(delays), steps=50, hold=3, slow=2)
    assert [(p.step, p.arrived) for p in executor.plans[:3]] == [(0, 0), (5, 35), (35, 35)]
    kept = executor.trace[2]
    assert (kept.step, kept.own, kept.executed) == (10, 0, 3)
    assert (kept.coarse[:, 2] == 9).all(), "the last intent"
    halt = executor.halts[0]
    assert (halt.step, halt.steps) == (13, 22) and "at work" in halt.reason
    last = actions[12]
    np.testing.assert_allclose(actions[13][:2], last[:2] * 2 / 3, atol=1e-6)
    np.testing.assert_allclose(actions[14][:2], last[:2] * 1 / 3, atol=1e-6)
    for action in actions[15:35]:
        assert (action[:2] == 0).all() and action[2] == last[2]
    assert executor.trace[3].step == 35, "it goes on as soon as a plan comes"
    report = executor.report()
    assert (report["starved"], report["starved_steps"], report["held_steps"]) == (1, 22, 3)


def test_a_chunk_on_a_kept_intent_ends_when_a_plan_comes():
    delays = iter([0, 7] + [3] * 20)
    executor, _ = run(lambda ms, rng: next(delays), steps=30)
    kept = executor.trace[2]
    assert (kept.step, kept.own, kept.executed) == (10, 0, 2)
    assert (executor.trace[3].step, executor.trace[3].plan_step) == (12, 5)


def test_a_plan_that_is_slower_than_itself_is_not_lost_on_a_robot_that_stood_still():
    executor, _ = run(8, policy=RowPolicy(horizon_factor=1), steps=80, hold=0, slow=0)
    assert [p.kept for p in executor.plans[:4]] == [5, 0, 5, 0], "made in motion, it is late"
    assert executor.report()["late_plans"] == 4
    assert executor.halts[1].reason == "the last plan came when its steps were over"


def test_an_age_limit_ends_a_plan_early():
    executor, _ = run(2, policy=RowPolicy(horizon_factor=4), max_age=6, steps=60)
    assert executor.report()["age"]["max"] == 6
    sequential, _ = run(0, mode="sequential", max_age=6, steps=40)
    assert [p.step for p in sequential.plans] == list(range(0, 40, 5))
    assert sequential.report()["age"]["max"] == 4


class Contrary(RowPolicy):
    """At one control step it sees something that its plans did not foresee."""

    at = 10

    def refine(self, observation, coarse):
        actions = super().refine(observation, coarse)
        if observation.step == self.at and ("plan", self.at) not in self.calls:
            actions[1, 0] += 2.0 * 3 / ROWS
        return actions


@pytest.mark.parametrize(("bins", "plans"), [(3, [0, 15]), (2, [0, 10, 25]), (None, [0, 15])])
def test_disagreement_plans_again(bins, plans):
    policy = Contrary(horizon_factor=3)
    executor, _ = run(0, policy=policy, mode="sequential", replan_bins=bins, steps=30)
    assert [p.step for p in executor.plans] == plans
    assert executor.report()["replans"]["disagreement"] == (bins == 2)
    assert [c.plan_step for c in executor.trace][2] == (10 if bins == 2 else 0)


def test_disagreement_while_the_planner_works_beside():
    policy = Contrary(horizon_factor=4)
    policy.at = 12
    executor, _ = run(2, policy=policy, replan_bins=2, watermark=5, steps=30)
    again = next(p for p in executor.plans if p.why == "disagreement")
    assert again.arrived == again.step + 2 and executor.halts[1:] == []


def test_low_confidence_plans_again():
    policy = RowPolicy()
    policy.sure = 0.3
    executor, _ = run(0, policy=policy, mode="sequential", replan_confidence=0.5, steps=20)
    assert [p.step for p in executor.plans] == [0, 5, 10, 15]
    assert executor.report()["replans"]["low confidence"] == 3
    policy.sure = 0.6
    executor, _ = run(0, policy=policy, mode="sequential", replan_confidence=0.5, steps=20)
    assert [p.step for p in executor.plans] == [0, 10]


def test_frozen_actions_are_those_of_the_chunk_before():
    executor, actions = run(0, mode="synchronous", execute=3, freeze=2, steps=9, refine_delay=2)
    assert [c.step for c in executor.trace] == [2, 5, 8], "only the first has to be waited for"
    before, after = executor.trace[:2]
    np.testing.assert_array_equal(after.actions[:2], before.actions[3:])
    np.testing.assert_array_equal(actions[5:7], before.actions[3:])
    assert executor.report()["waited_steps"] == 2


class Joining(RowPolicy):
    def refine_onto(self, observation, coarse, known, *, frozen):
        self.calls.append(("join", len(known), frozen))
        return self.refine(observation, coarse)


def test_inpainting_hands_over_what_was_left():
    policy = Joining()
    run(0, policy=policy, mode="synchronous", execute=3, inpaint=True, freeze=1, steps=9)
    assert [c for c in policy.calls if c[0] == "join"] == [("join", 2, 1)] * 2


@given(
    chunk=st.integers(1, 6),
    factor=st.integers(1, 4),
    mode=st.sampled_from(["synchronous", "sequential", "concurrent"]),
    execute=st.integers(1, 6),
    hold=st.integers(0, 6),
    slow=st.integers(0, 3),
    watermark=st.none() | st.integers(0, 20),
    max_age=st.none() | st.integers(6, 20),
    delays=st.lists(st.integers(0, 15), min_size=1, max_size=8),
    refine_delay=st.integers(0, 2),
    steps=st.integers(1, 80),
)
@example(
    chunk=1, factor=2, mode="concurrent", execute=1, hold=2, slow=0, watermark=2, max_age=None,
    delays=[5], refine_delay=2, steps=20,
)  # fmt: skip
def test_every_intent_is_carried_out_at_most_once_in_order_and_in_time(
    chunk, factor, mode, execute, hold, slow, watermark, max_age, delays, refine_delay, steps
):
    count = iter(range(10**6))
    executor, actions = run(
        lambda ms, rng: delays[next(count) % len(delays)],
        policy=RowPolicy(chunk, factor),
        steps=steps,
        refine_delay=refine_delay,
        mode=mode,
        execute=min(execute, chunk),
        hold=hold,
        slow=slow,
        watermark=watermark,
        max_age=max_age,
    )
    carried_out: Counter = Counter()
    newest, kept = (-1, -1), 0
    for record in executor.trace:
        for row in range(record.executed):
            intent = (record.plan_step, int(record.coarse[row, 2]))
            if row < record.own:
                assert intent > newest, "in order"
                carried_out[intent] += 1
                newest, kept = intent, 0
            else:
                assert intent[1] == chunk * factor - 1 and intent >= newest
                # A newer plan may come so late that all there is of it is its last intent.
                newest, kept = intent, kept + 1 if intent == newest else 1
                assert kept <= hold, "a plan's last intent, for a while"
            age = record.step + row - record.plan_step
            limited = max_age is not None and mode == "concurrent"
            assert age >= 0 and (not limited or age <= max_age + refine_delay)
    assert all(times == 1 for times in carried_out.values()), "nothing twice"
    halted = sum(h.steps for h in executor.halts)
    assert sum(c.executed for c in executor.trace) + halted == steps == len(actions)
    assert all(h.reason for h in executor.halts)
    assert np.isfinite(actions).all()
