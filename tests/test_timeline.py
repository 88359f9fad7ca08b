import numpy as np
import pytest
from test_concurrent import run

from libra_vla.errors import LibraError
from libra_vla.execution.trace import trace_arrays
from libra_vla.reports.timeline import timeline, write_timeline


@pytest.fixture
def arrays() -> dict:
    delays = iter([2, 30] + [3] * 20)
    executor, _ = run(lambda ms, rng: next(delays), steps=80, hold=3)
    plans = [(p.step, p.arrived, p.kept) for p in executor.plans]
    halts = [(h.step, h.steps, h.starved) for h in executor.halts]
    return trace_arrays(executor.trace) | {"plans": np.array(plans), "halts": np.array(halts)}


def test_every_plan_chunk_and_halt_is_drawn(arrays):
    picture = timeline(arrays)
    late = int((arrays["plans"][:, 2] == 0).sum())
    assert picture.count('class="plan-span"') == len(arrays["plans"]) - late
    assert picture.count('class="plan-late"') == late
    assert picture.count('class="halt"') == len(arrays["halts"]) == 2
    assert picture.count('class="chunk-kept"') >= 1 and "no intents" in picture
    assert timeline(arrays, steps=10).count('class="chunk-span"') == 2


def test_a_trace_becomes_a_file_of_its_own(arrays, tmp_path):
    np.savez(tmp_path / "trace.npz", **arrays)
    write_timeline(tmp_path / "trace.npz", tmp_path / "t.svg", title="One episode")
    text = (tmp_path / "t.svg").read_text()
    assert text.startswith('<svg xmlns="http://www.w3.org/2000/svg"') and "One episode" in text
    del arrays["plans"]
    np.savez(tmp_path / "older.npz", **arrays)
    with pytest.raises(LibraError, match="is not the trace of an episode"):
        write_timeline(tmp_path / "older.npz", tmp_path / "t.svg")
