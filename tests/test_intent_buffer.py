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
    coarse, confidence, age = buffer.window(5, 5)
    assert coarse[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert confidence.shape == (5, 2) and age == 5
    assert buffer.remaining(10) == 0


def test_a_late_plan_loses_the_steps_that_passed():
    buffer = IntentBuffer(10)
    buffer.put(plan(0))
    buffer.window(4, 2)
    assert buffer.put(plan(1)) == 7  # steps 4 to 10 of 1 to 10
    assert buffer.window(4, 2).age == 3
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


@given(
    capacity=st.integers(1, 12),
    script=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 30), st.integers(1, 15)),
            st.tuples(st.just("window"), st.integers(0, 30), st.integers(1, 6)),
        ),
        max_size=40,
    ),
)
def test_whatever_happens_a_window_is_in_order_on_time_and_of_the_newest_plan(capacity, script):
    buffer = IntentBuffer(capacity)
    newest, last_asked = -1, 0
    for action, step, size in script:
        if action == "put":
            left = buffer.put(plan(step, size))
            assert 0 <= left <= min(size, capacity)
            newest = max(newest, step) if left else newest
            continue
        held = buffer.remaining(step)
        assert held <= capacity
        if step < last_asked or held < size:
            with pytest.raises(LibraError):
                buffer.window(step, size)
            continue
        coarse, _, age = buffer.window(step, size)
        last_asked = step
        assert coarse[:, 0].tolist() == list(range(step, step + size)), "in order and on time"
        assert set(coarse[:, 1]) == {newest} and age == step - newest >= 0
