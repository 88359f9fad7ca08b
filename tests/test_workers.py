"""Worker processes: order, isolation, real deaths."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from libra_vla.errors import LibraError
from libra_vla.training.trainer import stop_between_steps
from libra_vla.workers import Outcome, fan_out

calls = 0


def count(job: int) -> tuple[int, int, str | None]:
    global calls
    calls += 1
    return job, calls, os.environ.get("OMP_NUM_THREADS")


def misbehave(job: str) -> str:
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "raise":
        raise ValueError("no good")
    if job == "bad input":
        raise LibraError("unknown thing")
    return job.upper()


def mark_then_sleep(folder: str) -> None:
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)


def hold_then_sleep(folder: str) -> None:
    lock = get_context("spawn").RLock()  # as a progress bar does
    with lock:
        mark_then_sleep(folder)


def hold_then_train(folder: str) -> None:
    lock = get_context("spawn").RLock()
    with lock, stop_between_steps() as stopped:
        Path(folder, str(os.getpid())).touch()
        stopped.wait(60)
        time.sleep(1)  # the rest of a step
    raise KeyboardInterrupt("stopped: go on with --resume")


def wait_for(job: tuple[Path, float, str]) -> bool:
    """Leaves a mark after a while; tells whether another one was there at the beginning."""
    folder, seconds, other = job
    seen = (folder / other).exists()
    time.sleep(seconds)
    (folder / f"{seconds}").touch()
    return seen


def test_a_job_waits_for_another_and_is_overtaken(tmp_path: Path):
    # The third waits for the slow one; the fourth, which waits for the quick one, goes first.
    jobs = [
        (tmp_path, 2.0, ""),
        (tmp_path, 0.2, ""),
        (tmp_path, 0.1, "2.0"),
        (tmp_path, 0.3, "2.0"),
    ]
    outcomes = list(fan_out(wait_for, jobs, workers=2, after={2: 0, 3: 1}))
    assert [o.index for o in outcomes] == [1, 3, 0, 2]
    assert {o.index: o.value for o in outcomes if o.index > 1} == {3: False, 2: True}


def test_every_job_has_one_outcome_and_globals_survive():
    outcomes = sorted(fan_out(count, range(7), workers=2), key=lambda o: o.index)
    assert [o.value[0] for o in outcomes] == list(range(7))
    assert max(o.value[1] for o in outcomes) >= 4, "no worker kept its globals"
    assert {o.value[2] for o in outcomes} == {"1"}


def test_inline():
    assert [o.value for o in fan_out(str.upper, ["a", "b"], workers=0)] == ["A", "B"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_costs_one_job(workers: int):
    jobs = ["a", "die", "b", "raise", "c", "d"]
    outcomes = {o.index: o for o in fan_out(misbehave, jobs, workers=workers)}
    assert [outcomes[i].value for i in (0, 2, 4, 5)] == ["A", "B", "C", "D"]
    assert outcomes[1] == Outcome(1, error="the worker died (signal 9)")
    assert outcomes[3].error is not None and "ValueError: no good" in outcomes[3].error


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_input_stops_everything(workers: int):
    with pytest.raises(LibraError, match="unknown thing"):
        list(fan_out(misbehave, ["a", "bad input", "b"], workers=workers))


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            status = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if status != "Z":
            found.append(pid)
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans_when_the_parent_ends(tmp_path: Path, how: signal.Signals):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_workers as t\n"
        "from libra_vla.workers import fan_out\n"
        "if __name__ == '__main__':\n"
        "    list(fan_out(t.mark_then_sleep, [sys.argv[2]] * 2, workers=2))\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    marks = tmp_path / "marks"
    marks.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(marks)],
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(marks.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    pids = [int(p.name) for p in marks.iterdir()]
    assert len(pids) == 2
    parent.send_signal(how)
    parent.wait(timeout=60)
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pids)


@pytest.mark.parametrize("job", [hold_then_sleep, hold_then_train])
def test_an_interrupt_leaves_workers_the_time_to_put_things_away(tmp_path: Path, job: Any):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_workers as t\n"
        "from libra_vla.workers import fan_out\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        list(fan_out(t.{job.__name__}, [sys.argv[2]], workers=1))\n"
        "    except KeyboardInterrupt:\n"
        "        print('stopped', file=sys.stderr)\n"
    )
    script, marks = tmp_path / "parent.py", tmp_path / "marks"
    script.write_text(code)
    marks.mkdir()
    parent = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(marks)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(marks.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    assert parent.communicate(timeout=60)[1] == "stopped\n", "no traceback, nothing leaked"
