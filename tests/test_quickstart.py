"""The main job, end to end, as small as it gets, on the real simulator."""

import os
import signal
import sys
import time
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

from libra_vla import quickstart as main_job
from libra_vla.errors import LibraError
from libra_vla.files import read_json, write_json
from libra_vla.quickstart import QuickstartConfig, quickstart

SMALL = {
    "demonstrations": 1, "steps": 3, "trials": 1, "control_trials": 1, "spread_trials": 1,
    "workers": 2,
}  # fmt: skip


def test_a_folder_with_other_settings_is_refused(tmp_path: Path):
    write_json(tmp_path / "quickstart.json", {"settings": {"steps": 7}, "seconds": {}})
    with pytest.raises(LibraError, match="made with other settings"):
        quickstart(QuickstartConfig(out=tmp_path))
    (tmp_path / "quickstart.json").rename(tmp_path / "something-else")
    with pytest.raises(LibraError, match="exists already: choose another --out"):
        quickstart(QuickstartConfig(out=tmp_path))
    with pytest.raises(LibraError, match="start at 1"):
        QuickstartConfig(out=tmp_path, trials=0)


def test_every_arm_is_told_apart(tmp_path: Path):
    arms = main_job._arms(QuickstartConfig(out=tmp_path))
    assert len({arm.out for arm in arms}) == len(arms) == 7
    official = [arm for arm in arms if arm.states == "official" and not arm.instruction_from]
    compared = [arm for arm in official if arm.out.name != "Without images"]
    assert len(official) == 3 and all(arm.episodes * len(main_job.TASKS) >= 20 for arm in compared)
    assert all(arm.meshes == "stock" for arm in arms if arm.states == "official")
    spread = [arm for arm in arms if arm.spread]
    assert len(spread) == 3 and all(arm.seed != 0 for arm in spread), "a seed of their own"
    assert all(arm.mode == "sequential" for arm in arms)


def interrupt(begun: Path, out: Path) -> tuple[int, str]:
    """Presses Ctrl-C when a file has appeared; returns the exit code and the last line."""
    options = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    words = ["quickstart", "--out", str(out), *options]
    code = f"import sys; from libra_vla.cli import main; sys.exit(main({words}))"
    process = Popen([sys.executable, "-c", code], stderr=PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    while not begun.exists():
        assert process.poll() is None, f"ended before {begun}"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    said = process.stderr.read().splitlines()
    return process.wait(timeout=120), said[-1]


@pytest.mark.slow
@pytest.mark.simulator
def test_quickstart_end_to_end(tmp_path: Path):
    out = tmp_path / "quickstart"
    for begun in ("demonstrations", "policies/Libra", "evaluations/Libra"):
        assert interrupt(out / begun, out) == (130, f"stopped: the same command goes on with {out}")
    results = quickstart(QuickstartConfig(out=out, **SMALL))
    assert results["episodes"] == 2 and results["errors"] == 0
    assert read_json(out / "results.json") == results
    stages = ["demonstrations", "training and evaluation", "report"]
    assert list(results["quickstart"]["seconds"]) == stages
    page = (out / "report.html").read_text()
    assert "put the bowl on the stove" in page and len(list(out.glob("*.mp4"))) == 2
    before = (out / "policies" / "Libra" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    again = quickstart(QuickstartConfig(out=out, **SMALL))
    assert again["successes"] == results["successes"]
    after = (out / "policies" / "Libra" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    assert before == after, "what is done is not done again"
