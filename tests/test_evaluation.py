import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import CONVENTION, SPACE, TOY, ToyEnv, load_scripted
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.evaluation.trial import count_closings
from libra_vla.execution.trace import ChunkRecord


def configure(tmp_path: Path, **options) -> EvalConfig:
    defaults = {"policy": tmp_path / "run", "suite": "toy", "out": tmp_path / "out"}
    return EvalConfig(**defaults | {"episodes": 4, "tasks": "0", "workers": 1} | options)


def run(config: EvalConfig, **options) -> tuple[dict, list]:
    """Returns the results and the (task, trial) of each trial that was run."""
    ran = []
    results = evaluate(
        config,
        on_progress=lambda trial, done, total: ran.append(trial.key),
        benchmark=TOY,
        load_policy=load_scripted,
        **options,
    )
    return results, ran


def test_results_follow_the_contract(tmp_path):
    results, ran = run(configure(tmp_path))
    assert results == json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(ran) == 4
    expected = {"episodes": 4, "successes": 3, "errors": 0, "success_rate": 0.75}
    assert {k: results[k] for k in expected} == expected
    assert results["ci95"] == pytest.approx([0.30064, 0.95441], abs=1e-5)
    assert results["schema_version"] == 1 and results["complete"] and results["wall_s"] > 0
    assert results["policy"]["preset"] == "scripted" and results["policy"]["H"] == 5
    assert (results["mode"], results["horizon_factor"], results["execute"]) == ("sequential", 2, 5)
    assert results["failures"] == {"semantic": 1, "actuation": 0, "other": 0}
    assert results["protocol"]["trials"] == 4 and results["protocol"]["step_budget"] == 8
    assert results["protocol"]["official"] is False
    task = results["tasks"][0]
    assert (task["index"], task["instruction"], task["successes"]) == (0, "do number 0", 3)
    for kind, count in (("plan", 4), ("refine", 8), ("chunk", 8), ("control", 6 * 3 + 8)):
        assert results["latency_ms"][kind]["n"] == count
        assert results["latency_ms"][kind]["p50"] >= 0
    assert results["smoothness"]["path_length"] > 0
    assert [t["init_state"] for t in results["trials"]] == [0, 1, 2, 3]
    assert len({t["seed"] for t in results["trials"]}) == 4
    assert {type(t["closings"]) for t in results["trials"]} == {int}
    assert {"python", "cpu", "torch"} <= results["versions"].keys()


@given(
    told=st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=6),
    closed=st.sampled_from((-1.0, 1.0)),
)
def test_every_change_from_open_to_closed_counts_and_nothing_that_was_not_carried_out(told, closed):
    convention = replace(CONVENTION, gripper_open=-closed, gripper_closed=closed)
    chunks = []
    for chunk in told:
        gripper = [closed if closes else -closed for closes in (*chunk, False, True)]
        actions = np.stack([np.zeros(len(gripper))] * 2 + [np.array(gripper)], axis=1)
        chunks.append(
            ChunkRecord(0, 0, np.zeros(0), np.zeros(0), actions, None, 0.0, executed=len(chunk))
        )
    flat = "".join("01"[closes] for chunk in told for closes in chunk)
    assert count_closings(chunks, convention) == ("0" + flat).count("01")
    assert count_closings(chunks, replace(convention, gripper=None)) is None


def test_two_workers_find_what_one_finds(tmp_path):
    one, _ = run(configure(tmp_path, out=tmp_path / "one", tasks="0,2"))
    two, _ = run(configure(tmp_path, out=tmp_path / "two", tasks="0,2", workers=2))

    def without_time(results):
        return [{k: v for k, v in t.items() if k != "wall_s"} for t in results["trials"]]

    assert without_time(one) == without_time(two)


def test_exceptions_and_killed_workers_are_errors_and_no_failures(tmp_path):
    results, ran = run(configure(tmp_path, tasks="1"))
    assert len(ran) == 4
    assert (results["successes"], results["errors"]) == (1, 2)
    assert results["success_rate"] == 0.5 and results["failures"]["actuation"] == 1
    raised, killed = (results["trials"][i]["error"] for i in (1, 2))
    assert raised == "RuntimeError: the simulation is unstable"
    assert killed and "\n" not in killed


def test_resuming_skips_what_is_finished_and_repeats_errors(tmp_path):
    config = configure(tmp_path, tasks="1")
    before, _ = run(config)
    again, ran = run(configure(tmp_path, tasks="1", resume=True))
    assert sorted(ran) == [(1, 1), (1, 2)]
    assert again["errors"] == before["errors"] and again["episodes"] == 4


def test_an_evaluation_goes_on_with_more_trials_and_never_with_fewer(tmp_path):
    before, _ = run(configure(tmp_path, tasks="2", episodes=2))
    after, ran = run(configure(tmp_path, tasks="2", episodes=4, resume=True))
    assert (before["episodes"], after["episodes"]) == (2, 4)
    assert sorted(ran) == [(2, 2), (2, 3)]
    whole, _ = run(configure(tmp_path, tasks="2", episodes=4, out=tmp_path / "whole"))
    assert [t["success"] for t in after["trials"]] == [t["success"] for t in whole["trials"]]
    with pytest.raises(
        LibraError, match="already has 4 trials of a task: ask for at least as many"
    ):
        run(configure(tmp_path, tasks="2", episodes=3, resume=True))


def test_resuming_a_torn_journal_repeats_the_torn_trial(tmp_path):
    run(configure(tmp_path))
    journal = tmp_path / "out" / "episodes.jsonl"
    journal.write_text(journal.read_text()[:-20])
    results, ran = run(configure(tmp_path, resume=True))
    assert len(ran) == 1 and results["successes"] == 3
    assert len(journal.read_text().splitlines()) == 4
    journal.write_text("{not json\n" + journal.read_text())
    with pytest.raises(LibraError, match="line 1, is not valid JSON"):
        run(configure(tmp_path, resume=True))


def test_resuming_something_else_is_refused(tmp_path):
    run(configure(tmp_path))
    with pytest.raises(LibraError, match="seed was 0 and is now 1"):
        run(configure(tmp_path, resume=True, seed=1))
    identity = tmp_path / "out" / "evaluation.json"
    identity.write_text(identity.read_text().replace("0" * 64, "f" * 64))
    with pytest.raises(LibraError, match="policy checkpoint_hash was 'ffff"):
        run(configure(tmp_path, resume=True))


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(LibraError, match="exists already"):
            run(configure(tmp_path, resume=resume))


def test_a_policy_for_another_robot_stops_the_evaluation_and_leaves_nothing(tmp_path):
    with pytest.raises(LibraError, match="does not follow the action convention"):
        run(configure(tmp_path, policy=tmp_path / "other_robot"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "episodes is 0: expected at least 1"),
        ({"episodes": 5}, "has 4 official initial states per task"),
        ({"workers": -1}, "workers is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"tasks": "0,3"}, "toy has no task 3: expected 0 to 2"),
        ({"tasks": "task-1"}, "unknown task of toy 'task-1': did you mean 'task_1'"),
        ({"states": "offical"}, "did you mean 'official'"),
        ({"instruction": "other"}, "unknown instruction 'other'"),
        ({"instruction": "permuted", "instruction_from": {0: 1}}, "says whose instruction"),
        ({"spread": 1.0}, "spread only applies to sampled"),
        ({"horizon_factor": 3}, "plans for M = 2"),
        ({"delay": "4"}, "a delay is none: add --real-time"),
        ({"planner": "thread"}, "add --mode concurrent --real-time"),
        ({"planner": "procces"}, "did you mean 'process'"),
        ({"real_time": True, "delay": "2~3"}, "a spread of at most 2 steps"),
        ({"real_time": True, "delay": "fast"}, "expected measured, a number of control steps"),
        ({"move_object": "soon"}, "a control step and metres, such as 20:0.04"),
        ({"inpaint": True}, "leave some of it over"),
        ({"instruction_from": {0: 7}}, "cannot give task 0 the instruction of task 7"),
        ({"instruction_from": {1: 0}}, "a task that is evaluated"),
    ],
)
def test_a_wrong_request_is_one_clear_line(tmp_path, options, message):
    with pytest.raises(LibraError, match=message) as raised:
        run(configure(tmp_path, **options))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_swapped_instructions_are_reported_with_the_other_goal(tmp_path):
    results, _ = run(configure(tmp_path, tasks="0,2", instruction_from={0: 1, 2: 0}))
    first, second = results["tasks"]
    assert first["instruction"] == "do number 1"
    assert first["swapped"] == {
        "task_instruction": "do number 0",
        "instruction_from": 1,
        "other_goal": {"evaluated": 4, "reached": 4},
    }
    assert second["swapped"]["other_goal"] == {"evaluated": 0, "reached": 0}


def test_the_next_task_that_a_scene_can_tell_lends_its_instruction(tmp_path):
    results, _ = run(configure(tmp_path, tasks=None, instruction="permuted"))
    assert [t["index"] for t in results["tasks"]] == [0, 2], "the scene of task 1 can tell nothing"
    assert {t["swapped"]["instruction_from"] for t in results["tasks"]} == {1}
    assert not results["protocol"]["official"]
    reading = results["reading"]
    assert reading["evaluated"] == 8 and reading["told"]["count"] == 8
    assert reading["told"]["ci95"] == pytest.approx([0.675, 1.0], abs=1e-3)
    assert reading["own"]["count"] == reading["neither"]["count"] == 0
    with pytest.raises(LibraError, match="none of the 1 tasks of toy can tell"):
        run(configure(tmp_path, out=tmp_path / "one", tasks="1", instruction="permuted"))


def test_what_is_reached_first_counts(tmp_path):
    results, _ = run(configure(tmp_path, instruction_from={0: 1}))
    assert {t["steps"] for t in results["trials"]} == {3}, "its own task takes six steps"
    assert sum(results["failures"].values()) == 0, "it did what it was told"
    assert results["successes"] == 0 and results["reading"]["told"]["rate"] == 1.0


def test_failures_may_be_recorded_alone(tmp_path):
    run(configure(tmp_path, videos="failures"))
    assert [p.name for p in (tmp_path / "out" / "videos").iterdir()] == ["task00_trial001.mp4"]


class PunctualEnv(ToyEnv):
    """Solved at the sixth step if every action was intended for the step that carried it out."""

    def reset(self, **options) -> None:
        super().reset(**options)
        self.late = False

    def step(self, action: np.ndarray) -> bool:
        intended = SPACE.decode(np.full((1, 3), self.steps % 10))[0, 0]
        self.late |= abs(float(action[0]) - float(intended)) > 1e-3
        return super().step(action) and not self.late


def make_punctual(task, *, image_size=8, **options) -> PunctualEnv:
    return PunctualEnv(task, image_size)


def test_asynchrony_is_to_blame_if_the_same_trial_succeeds_without(tmp_path):
    benchmark = replace(TOY, make_env=make_punctual)
    late = configure(tmp_path, mode="concurrent", delay="3", explain_failures=True)
    results = evaluate(
        late, benchmark=benchmark, load_policy=load_scripted, on_progress=lambda *_: None
    )
    assert results["successes"] == 0
    assert results["failures"] == {
        "semantic": 1, "actuation": 0, "asynchrony-induced": 3, "other": 0,
    }  # fmt: skip
    assert results["tasks"][0]["failures"] == results["failures"]
    with pytest.raises(LibraError, match="which this is: choose another mode"):
        configure(tmp_path, mode="synchronous", explain_failures=True)


def test_sampled_states_have_no_index(tmp_path):
    results, _ = run(configure(tmp_path, states="sampled", spread=0.5, episodes=6))
    assert {t["init_state"] for t in results["trials"]} == {None}
    assert results["failures"]["semantic"] == 6 and not results["protocol"]["official"]


def test_videos_and_traces_of_the_first_trials(tmp_path):
    av = pytest.importorskip("av")
    run(configure(tmp_path, videos=2))
    names = ["task00_trial000", "task00_trial001"]
    assert sorted(p.stem for p in (tmp_path / "out" / "videos").glob("*.mp4")) == names
    assert sorted(p.stem for p in (tmp_path / "out" / "traces").glob("*.npz")) == names
    with np.load(tmp_path / "out" / "traces" / "task00_trial000.npz") as trace:
        assert trace["positions"].shape == (7, 3) and trace["coarse"].shape == (2, 5, 3)
    with av.open(str(tmp_path / "out" / "videos" / "task00_trial000.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert float(video.streams.video[0].average_rate) == 4.0, "real time: 20 Hz, 5 per chunk"
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in video.decode(video=0)]
    assert shown == pytest.approx([0, 5, 6], abs=3)


def timed(tmp_path, name: str, **options) -> dict:
    options = {"real_time": True, "max_steps": 60, "states": "sampled"} | options
    return run(configure(tmp_path, out=tmp_path / name, **options))[0]


def test_in_real_time_the_world_goes_on_while_inference_runs(tmp_path):
    results = {
        mode: timed(tmp_path, mode, mode=mode, delay="3")["runtime"]
        for mode in ("synchronous", "sequential", "concurrent")
    }
    waited = {mode: r["waited_steps"] / 4 for mode, r in results.items()}
    assert waited == {"synchronous": 24, "sequential": 15, "concurrent": 0}
    starved = {mode: r["starved_steps"] / 4 for mode, r in results.items()}
    assert starved == {"synchronous": 0, "sequential": 0, "concurrent": 3}, "before the first plan"
    assert results["concurrent"]["steps"] == 240 and results["concurrent"]["late_plans"] == 0


def test_jitter_is_the_same_every_time(tmp_path):
    options = {"mode": "concurrent", "delay": "4~3"}
    first, second = (timed(tmp_path, name, **options) for name in ("one", "two"))
    drop = ("wall_s",)
    rows = [
        [{k: v for k, v in t.items() if k not in drop} for t in r["trials"]]
        for r in (first, second)
    ]
    assert rows[0] == rows[1]
    assert first["protocol"]["time"]["refine_delay"] == "0" and not first["protocol"]["official"]
    assert {t["runtime"]["plans"] for t in first["trials"]} != {
        first["trials"][0]["runtime"]["plans"]
    }


def test_delays_may_come_from_a_trace(tmp_path):
    trace = tmp_path / "latencies.txt"
    trace.write_text("100\n120\n240\n")
    runtime = timed(tmp_path, "traced", mode="synchronous", delay=str(trace))["runtime"]
    assert 2 * 4 < runtime["waited_steps"] / 4 < 5 * 8, "2, 3 or 5 steps of 50 ms per chunk"


def test_measured_latency_of_a_concurrent_planner_needs_no_option(tmp_path):
    results, _ = run(configure(tmp_path, mode="concurrent"))
    assert results["runtime"]["waited_steps"] == 0 and results["runtime"]["starved_steps"] == 4
    assert results["latency_ms"]["plan"]["n"] == results["runtime"]["plans"] > 0


@pytest.mark.parametrize("planner", ["thread", "process"])
def test_planners_by_the_clock(tmp_path, planner):
    began = time.monotonic()
    results = timed(tmp_path, planner, mode="concurrent", planner=planner, episodes=1, workers=0)
    assert results["errors"] == 0 and results["runtime"]["steps"] == 60
    assert time.monotonic() - began > 59 * 0.05, "20 Hz"
    assert results["runtime"]["plans"] > 5


def test_an_object_may_be_moved_in_mid_episode(tmp_path):
    still = timed(tmp_path, "still")
    moved = timed(tmp_path, "moved", move_object="7:0.5")
    assert moved["protocol"]["moved_object"] == "7:0.5"
    paths = [r["smoothness"]["path_length"] for r in (still, moved)]
    assert paths[1] - paths[0] == pytest.approx(0.5, abs=0.01)


SCRIPT = """
import sys
from dataclasses import replace
from pathlib import Path
from fakes import SPACE, TOY, ToyEnv, load_scripted
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate

if __name__ == "__main__":
    out, resume = Path(sys.argv[1]), sys.argv[2] == "resume"
    config = EvalConfig(out, "toy", out, tasks="2", episodes=4, workers=2, resume=resume)
    try:
        evaluate(config, benchmark=TOY, load_policy=load_scripted)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        sys.exit(130)
"""


def test_ctrl_c_stops_cleanly_and_says_how_to_go_on(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, str(script), str(out)]
    process = subprocess.Popen(
        [*command, "fresh"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (out / "episodes.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "of 4 trials: run the same command with --resume to go on" in errors
    assert "Traceback" not in errors
    partial = json.loads((out / "results.json").read_text())
    assert not partial["complete"] and 1 <= partial["episodes"] < 4
    subprocess.run([*command, "resume"], env=environment, check=True, capture_output=True)
    whole = json.loads((out / "results.json").read_text())
    assert whole["complete"] and whole["successes"] == 4


def test_instructions_may_come_in_other_words(tmp_path):
    def doors(suite: str):
        return [replace(t, instruction=f"open door {t.index}") for t in TOY.tasks(suite)]

    benchmark = replace(TOY, tasks=doors)
    settings = configure(tmp_path, paraphrase=1, episodes=1, workers=0)
    results = evaluate(settings, benchmark=benchmark, load_policy=load_scripted)
    assert results["tasks"][0]["instruction"] == "pull door 0 open"
    assert results["protocol"]["paraphrase"] == 1 and not results["protocol"]["official"]
    with pytest.raises(LibraError, match=r"'do number 0' has no paraphrase 1: its form is unknown"):
        run(configure(tmp_path, out=tmp_path / "none", paraphrase=1))
    assert not (tmp_path / "none").exists()
