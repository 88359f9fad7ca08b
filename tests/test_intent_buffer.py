import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.errors import LibraError
from libra_vla.execution.intent_buffer import IntentBuffer
from libra_vla.execution.protocol import Plan


def plan(step: int, length: int = 10) -> Plan:
    """Row i holds the control step it is meant for, and the step of the observation behind it."""
    coarse = np.stack([step + np.arange(length), np.full(length, step)], axis=1)
    return Plan(coarse, np.ones((length, 2, 1000), np.float32), step)


def test_windows_walk_through_a_plan():
    buffer = IntentBuffer(10)
    assert buffer.put(plan(0)) == 10
    assert buffer.window(0, 5).coarse[:, 0].tolist() == [0, 1, 2, 3, 4]
    window = buffer.window(5, 5)
    assert window.coarse[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert window.confidence.shape == (5, 2)
    assert (window.observation_step, window.own, window.usable) == (0, 5, 5)
    assert buffer.remaining(10) == 0


def test_a_late_plan_loses_the_steps_that_passed():
    buffer = IntentBuffer(10)
    buffer.put(plan(0))
    buffer.window(4, 2)
    assert buffer.put(plan(1)) == 7  # steps 4 to 10 of 1 to 10
    assert buffer.window(4, 2).observation_step == 1
    assert buffer.put(plan(0)) == 0, "overtaken by a newer observation"
    assert buffer.window(4, 1).coarse.tolist() == [[4, 1]]


def test_a_newer_plan_replaces_what_was_not_executed():
    buffer = IntentBuffer(10)
    buffer.put(plan(0))
    buffer.window(0, 5)
    assert buffer.put(plan(5)) == 10
    assert buffer.window(5, 10).coarse[:, 1].tolist() == [5] * 10


def test_a_plan_whose_steps_are_all_over_leaves_the_buffer_as_it_was():
    buffer = IntentBuffer(10)
    buffer.put(plan(0))
    buffer.window(6, 2)
    assert buffer.put(plan(1, length=3)) == 0
    assert buffer.remaining(6) == 4


def test_errors_are_one_clear_line():
    buffer = IntentBuffer(10)
    with pytest.raises(LibraError, match="holds 0 coarse actions from control step 0"):
        buffer.window(0, 5)
    buffer.put(plan(0))
    buffer.window(6, 2)
    with pytest.raises(LibraError, match="steps only go forward"):
        buffer.window(5, 2)
    buffer.clear()
    with pytest.raises(LibraError, match="plan first"):
        buffer.window(0, 1)
    with pytest.raises(LibraError, match="capacity 0"):
        IntentBuffer(0)
    with pytest.raises(LibraError, match="age limit of -1"):
        IntentBuffer(1, max_age=-1)


def test_a_plan_for_a_robot_that_stood_still_begins_when_it_moves_again():
    buffer = IntentBuffer(10)
    assert buffer.put(plan(3), start=8, now=8) == 10
    window = buffer.window(8, 4)
    assert window.coarse[:, 0].tolist() == [3, 4, 5, 6] and window.observation_step == 3
    buffer.postpone(2)
    assert buffer.remaining(12) == 8
    assert buffer.window(14, 2).coarse[:, 0].tolist() == [7, 8]


def test_the_last_intent_may_be_kept_for_a_while():
    buffer = IntentBuffer(10)
    buffer.put(plan(0))
    coarse, *_, own, usable = buffer.window(8, 5, hold=2)
    assert coarse[:, 0].tolist() == [8, 9, 9, 9, 9] and (own, usable) == (2, 4)
    assert (buffer.usable(8), buffer.usable(8, hold=2), buffer.usable(12, hold=2)) == (2, 4, 0)
    assert buffer.window(11, 5, hold=2).own == 0
    with pytest.raises(LibraError, match="holds 0 coarse actions from control step 12"):
        buffer.window(12, 5, hold=2)


def test_intents_that_are_too_old_may_be_seen_but_not_carried_out():
    buffer = IntentBuffer(10, max_age=6)
    assert buffer.put(plan(0)) == 7
    window = buffer.window(4, 5, hold=9)
    assert window.coarse[:, 0].tolist() == [4, 5, 6, 7, 8]
    assert (window.own, window.usable) == (5, 3)
    assert buffer.remaining(7) == 3 and buffer.usable(7, hold=9) == 0
    with pytest.raises(LibraError, match="plan first"):
        buffer.window(7, 2, hold=9)


@given(
    capacity=st.integers(1, 12),
    max_age=st.none() | st.integers(0, 12),
    hold=st.none() | st.integers(0, 4),
    script=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 30), st.integers(1, 15)),
            st.tuples(st.just("window"), st.integers(0, 30), st.integers(1, 6)),
        ),
        max_size=40,
    ),
)
def test_whatever_happens_a_window_is_in_order_on_time_and_of_the_newest_plan(
    capacity, max_age, hold, script
):
    buffer = IntentBuffer(capacity, max_age)
    newest, last_asked = -1, 0
    for action, step, size in script:
        if action == "put":
            left = buffer.put(plan(step, size))
            assert 0 <= left <= min(size, capacity)
            newest = max(newest, step) if left else newest
            continue
        held, usable = buffer.remaining(step), buffer.usable(step, hold=hold or 0)
        assert held <= capacity
        if step < last_asked or usable < 1 or (held < size and hold is None):
            with pytest.raises(LibraError):
                buffer.window(step, size, hold=hold)
            continue
        window = buffer.window(step, size, hold=hold)
        last_asked = step
        own = list(range(step, step + window.own))
        last = own[-1] if own else window.coarse[0, 0]
        expected = own + [last] * (size - window.own)
        assert window.coarse[:, 0].tolist() == expected, "in order and on time"
        assert set(window.coarse[:, 1]) == {newest} == {window.observation_step}
        oldest = step + window.usable - 1 - window.observation_step
        assert 0 <= window.usable <= window.own + (hold or 0)
        assert max_age is None or oldest <= max_age, "nothing older than the limit"


def test_threads_may_share_it():
    buffer, wrong = IntentBuffer(10), []

    def fill() -> None:
        for step in range(2000):
            buffer.put(plan(step), now=step)

    thread = threading.Thread(target=fill)
    thread.start()
    step = 0
    while thread.is_alive():
        if buffer.usable(step):
            window = buffer.window(step, 3, hold=3)
            rows = window.coarse[: window.own, 0].tolist()
            if rows != list(range(step, step + window.own)):
                wrong.append((step, rows))
        step += 1
    thread.join()
    assert wrong == []
