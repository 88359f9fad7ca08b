"""Collecting: with a scripted attempt for the logic, and once with the real expert."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import TOY, make_toy, toy_tasks, toy_views

from libra_vla import collection
from libra_vla.collection import Attempt, CollectConfig, Demonstration, demonstrate
from libra_vla.collection.attempt import record
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.data.writer import encode
from libra_vla.errors import LibraError
from libra_vla.files import read_json
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.registry import LIBERO

SIZE = 16


def supports(task: Task) -> bool:
    return True


ABLE = replace(LIBERO, supports=supports)
"""LIBERO, without looking whether there is a skill for a task: that starts the simulator."""


def collect(config: CollectConfig, **options) -> dict:
    return collection.collect(config, **{"benchmark": ABLE} | options)


def attempt_alone(attempt: Attempt) -> Demonstration:
    """Every third attempt fails; the numbers tell which attempt it was."""
    if attempt.number % 3 == 1:
        return Demonstration(False, {}, np.zeros((0, 8)), np.zeros((0, 7)), 0.0)
    n, task = 4 + attempt.number % 2, attempt.task.index
    videos = {}
    for camera in ("agentview", "wrist"):
        frames = np.full((n, SIZE, SIZE, 3), 20 * attempt.number % 256, np.uint8)
        path = attempt.folder / f"{task}-{attempt.number}-{camera}.mp4"
        videos[camera] = encode(frames, path, fps=20.0)
    actions = np.tile([attempt.number / 100, task / 100, 0, 0, 0, 0, 1.0], (n, 1))
    return Demonstration(True, videos, np.zeros((n, 8)), actions, 0.05)


def attempt_unevenly(attempt: Attempt) -> Demonstration:
    time.sleep(0.2 if attempt.number % 2 == 0 else 0.0)
    return attempt_alone(attempt)


def attempt_slowly(attempt: Attempt) -> Demonstration:
    time.sleep(0.3)
    return attempt_alone(attempt)


def attempt_in_vain(attempt: Attempt) -> Demonstration:
    return Demonstration(False, {}, np.zeros((0, 8)), np.zeros((0, 7)), 0.0)


def attempt_dangerously(attempt: Attempt) -> Demonstration:
    if attempt.number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if attempt.number == 2:
        raise RuntimeError("the simulation diverged")
    return attempt_alone(attempt)


@pytest.fixture(autouse=True)
def libero():
    pytest.importorskip("libero")


def config(out: Path, **options) -> CollectConfig:
    defaults = {"tasks": "0,2", "episodes": 4, "workers": 0, "image_size": SIZE, "seed": 3}
    return CollectConfig(suite="libero_object", out=out, **defaults | options)


def origins(path: Path) -> list[tuple[int, int]]:
    """(task, attempt) of every episode, in order, as its own actions tell it."""
    dataset = LeRobotDataset.open(path)
    rows = [dataset.actions[e.start] for e in dataset.episodes]
    return [(round(float(r[1]) * 100), round(float(r[0]) * 100)) for r in rows]


ALL = [(0, 0), (0, 2), (0, 3), (2, 0), (2, 2), (2, 3), (0, 5), (2, 5)]
"""Attempts 1 and 4 fail, so each task needs a fifth and a sixth."""


def test_failures_are_left_out_counted_and_made_up_for(tmp_path: Path):
    summary = collect(config(tmp_path / "set"), run=attempt_alone)
    assert origins(tmp_path / "set") == ALL
    assert (summary["episodes"], summary["attempts"]) == (8, 12)
    assert list(summary["failures"].values()) == [2, 2]
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert len(dataset.tasks) == 2
    assert summary["frames"] == len(dataset.states)
    told = dataset.metadata
    assert told["attempts"] == {t: {"made": 6, "failed": 2} for t in ("0", "2")}
    assert (told["suite"], told["seed"], told["noise"]) == ("libero_object", 3, 0.1)
    assert "sampled resets" in told["initial_states"] and "mujoco" in told["versions"]
    assert not list((tmp_path / "set").glob(".*"))


def test_workers_change_nothing(tmp_path: Path):
    collect(config(tmp_path / "one"), run=attempt_alone)
    collect(config(tmp_path / "two", workers=2), run=attempt_unevenly)
    assert origins(tmp_path / "one") == origins(tmp_path / "two")
    one, two = (LeRobotDataset.open(tmp_path / name) for name in ("one", "two"))
    for episode, camera in itertools.product(range(8), one.cameras):
        np.testing.assert_array_equal(one.frames(episode, camera), two.frames(episode, camera))


def test_a_dead_worker_and_an_exception_are_failed_attempts(tmp_path: Path, capfd):
    settings = config(tmp_path / "set", tasks="1", episodes=2, workers=1)
    summary = collect(settings, run=attempt_dangerously)
    assert origins(tmp_path / "set") == [(1, 3), (1, 5)]
    assert list(summary["failures"].values()) == [4]
    told = capfd.readouterr().err
    assert "the worker died (signal 9)" in told and "the simulation diverged" in told


def test_a_hopeless_task_is_given_up(tmp_path: Path):
    with pytest.raises(LibraError, match=r"the expert failed 10 of 10 attempts at 'pick up the"):
        collect(config(tmp_path / "set"), run=attempt_in_vain)
    assert len(read_json(tmp_path / "set" / "attempts.json")["attempts"]["0"]) == 10


def test_resuming_makes_the_same_episodes(tmp_path: Path):
    calls = itertools.count()

    def interrupted(attempt: Attempt) -> Demonstration:
        if next(calls) == 4:
            raise KeyboardInterrupt
        return attempt_alone(attempt)

    with pytest.raises(KeyboardInterrupt, match="--resume"):
        collect(config(tmp_path / "set"), run=interrupted)
    assert origins(tmp_path / "set") == ALL[:3]
    summary = collect(config(tmp_path / "set", resume=True), run=attempt_alone)
    assert sorted(origins(tmp_path / "set")) == sorted(ALL)
    assert summary["attempts"] == 12
    more = config(tmp_path / "set", resume=True, episodes=5, tasks="0-2")
    assert collect(more, run=attempt_alone)["episodes"] == 15


def test_what_cannot_be_collected(tmp_path: Path):
    collect(config(tmp_path / "set", episodes=1), run=attempt_alone)
    with pytest.raises(LibraError, match=r"exists already.*--resume"):
        collect(config(tmp_path / "set"), run=attempt_alone)
    with pytest.raises(LibraError, match=r"cannot resume .* seed was 3"):
        collect(config(tmp_path / "set", resume=True, seed=4), run=attempt_alone)
    with pytest.raises(LibraError, match="libero_object has no task 99: expected 0 to 9"):
        collect(config(tmp_path / "new", tasks="99"), run=attempt_alone)
    for wrong in ({"episodes": 0}, {"noise": -0.1}, {"image_size": 17}, {"workers": -1}):
        with pytest.raises(LibraError):
            config(tmp_path / "new", **wrong)
    unable = replace(ABLE, supports=lambda task: task.index == 0)
    with pytest.raises(LibraError, match=r"has no skill for 2 \(.*\): add --tasks 0$"):
        collect(config(tmp_path / "new"), run=attempt_alone, benchmark=unable)
    with pytest.raises(LibraError, match="unknown meshes of LIBERO 'coarse': known: stock"):
        collect(config(tmp_path / "new", meshes="coarse"), run=attempt_alone)
    with pytest.raises(LibraError, match="Toy cannot spread its objects"):
        toy = replace(TOY, spreads=False)
        collect(config(tmp_path / "new", spread=0.1), run=attempt_alone, benchmark=toy)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_from_outside_it_goes_on_later(tmp_path: Path, how: signal.Signals):
    path = tmp_path / "set"
    script = tmp_path / "main.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1]); import test_collection as t\n"
        "from pathlib import Path\n"
        "if __name__ == '__main__':\n"
        "    t.collect(t.config(Path(sys.argv[2]), workers=2), run=t.attempt_slowly)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script), str(Path(__file__).parent), str(path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    row = path / "meta/episodes/chunk-000/file-000.parquet"
    while not row.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(how)
    _, told = process.communicate(timeout=60)
    assert how == signal.SIGKILL or "--resume" in told
    found = origins(path)
    assert ALL[: len(found)] == found
    assert how == signal.SIGKILL or not list(path.glob(".*"))
    collect(config(path, resume=True), run=attempt_alone)
    assert sorted(origins(path)) == sorted(ALL)
    assert not list(path.glob(".*"))


@pytest.mark.simulator
def test_real_demonstrations_are_reproducible(tmp_path: Path):
    pytest.importorskip("libero")
    options = {"tasks": "0", "episodes": 2, "image_size": 64, "noise": 0.2}
    summary = collect(config(tmp_path / "set", workers=2, **options), benchmark=LIBERO)
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert summary["episodes"] == 2 and len(dataset.tasks) == 1
    assert (dataset.states.shape[1], dataset.actions.shape[1]) == (8, 7)
    assert np.abs(dataset.actions).max() <= 1.0
    assert set(np.unique(dataset.actions[:, 6])) == {-1.0, 1.0}
    first = dataset.episodes[0]
    settings = config(tmp_path / "again", meshes="decimated", **options)
    task = LIBERO.choose("libero_object", "0")[0]
    again = demonstrate(Attempt(LIBERO, settings, task, first.place["attempt"], tmp_path))
    np.testing.assert_array_equal(dataset.actions[: first.length], again.actions.astype(np.float32))
    np.testing.assert_array_equal(dataset.states[: first.length], again.states)
    assert first.place["noise"] == again.noise > 0
    frames = dataset.frames(0, "agentview").astype(int)
    assert frames.shape == (first.length, 64, 64, 3)
    assert np.abs(frames[-1] - frames[0]).max() > 60, "nothing moved"


def test_fewer_pictures_change_nothing_else(tmp_path: Path):
    recordings, renders = {}, {}
    for every in (1, 2):
        env = TOY.make_env(toy_tasks("toy")[1], image_size=SIZE)
        env.reset(seed=0)
        recordings[every] = record(
            env,
            TOY.make_expert(env, seed=0),
            rng=np.random.default_rng(1),
            noise=0.5,
            max_steps=9,
            draw_every=every,
        )
        renders[every] = env.renders
        assert env.cameras == TOY.cameras, "and they look again afterwards"
    whole, sparse = recordings.values()
    np.testing.assert_array_equal(whole.actions, sparse.actions)
    np.testing.assert_array_equal(whole.states, sparse.states)
    assert renders == {1: 3, 2: 2}
    frames = {every: made.frames["agentview"] for every, made in recordings.items()}
    for shown, drawn in enumerate((0, 0, 2)):
        np.testing.assert_array_equal(frames[2][shown], frames[1][drawn])
    assert (frames[1][1] != frames[1][0]).any()


def test_an_episode_remembers_how_often_it_was_drawn(tmp_path: Path):
    options = {"tasks": "task_1", "episodes": 2, "noise": 0.5, "seed": 1, "draw_every": 2}
    settings = replace(config(tmp_path / "set", **options), suite="toy")
    collection.collect(settings, benchmark=TOY)
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert [episode.drawn_every for episode in dataset.episodes] == [2, 2]
    assert dataset.metadata["draw_every"] == 2
    film = dataset.frames(0, "agentview").astype(int)
    assert abs(film[1] - film[0]).max() < abs(film[2] - film[0]).max()
    with pytest.raises(LibraError, match="draw_every is 0: expected at least 1 control step"):
        config(tmp_path, draw_every=0)


def test_stills_tell_where_things_are(tmp_path: Path):
    options = {"tasks": "1,2", "episodes": 3, "stills": 4, "seed": 5}
    settings = replace(config(tmp_path / "set", **options), suite="toy")
    summary = collection.collect(settings, benchmark=TOY)
    assert (summary["episodes"], summary["frames"]) == (6, 18)
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert dataset.places is not None and dataset.places.shape == (18, 3, 3)
    assert dataset.place_names == ("ball", "cube", "tray")
    assert not dataset.places[:, 0].any(), "no scene has a ball"
    np.testing.assert_allclose(dataset.places[:, 1], [[0.1, 0.2, 0.3]] * 18)
    assert len(set(dataset.places[:, 2, 2])) > 1, "scenes are sampled"
    assert {episode.asked for episode in dataset.episodes} == {("tray", "tray")}
    views = toy_views(make_toy(toy_tasks("toy")[0]))
    assert all(episode.views == views for episode in dataset.episodes)
    assert len(np.unique(dataset.states, axis=0)) == 18, "the hand is elsewhere in each"
    assert not dataset.actions.any(), "nothing moves"
    again = replace(settings, out=tmp_path / "again", workers=1)
    collection.collect(again, benchmark=TOY)
    np.testing.assert_array_equal(LeRobotDataset.open(again.out).states, dataset.states)


def test_demonstrations_tell_where_things_are_with_a_picture_or_without(tmp_path: Path):
    options = {"tasks": "task_1", "episodes": 2, "places": True, "draw_every": 2, "seed": 1}
    settings = replace(config(tmp_path / "set", **options), suite="toy")
    collection.collect(settings, benchmark=TOY)
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert dataset.places is not None and dataset.actions.any()
    for episode in dataset.episodes:
        assert episode.asked == ("tray", "tray") and set(episode.views) == {"agentview"}
        told = dataset.places[episode.start : episode.start + episode.length]
        assert not told[:, :2].any(), "neither a ball nor a cube is told of"
        steps = np.arange(episode.length)
        np.testing.assert_array_equal(told[:, 2, 1], steps)
    with pytest.raises(LibraError, match="Toy has no stills: leave out stills"):
        collection.collect(
            replace(settings, out=tmp_path / "no"), benchmark=replace(TOY, stills=None)
        )


def test_what_no_still_can_be_taken_of(tmp_path: Path):
    settings = replace(config(tmp_path / "set", stills=2), suite="toy")
    with pytest.raises(LibraError, match="Toy has no stills: leave out stills"):
        collection.collect(settings, benchmark=replace(TOY, stills=None))
    with pytest.raises(LibraError, match="nothing moves in stills: leave out shoves, fumble"):
        config(tmp_path, stills=2, shoves=0.5, fumble=0.1)
    with pytest.raises(LibraError, match="stills is -1"):
        config(tmp_path, stills=-1)
    assert not (tmp_path / "set").exists()


def test_any_benchmark_is_demonstrated_with_its_own_robot(tmp_path: Path):
    options = {"tasks": "task_1", "episodes": 2, "noise": 0.5, "seed": 1}
    settings = replace(config(tmp_path / "set", **options), suite="toy")
    summary = collection.collect(settings, benchmark=TOY)
    assert summary["failures"] == {"do number 1": 1}, "the first seed is odd"
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert dataset.convention == TOY.convention
    assert (dataset.tasks, dataset.cameras) == (("do number 1",), ("agentview",))
    np.testing.assert_array_equal(dataset.actions, [[1.0, 0.0, -1.0]] * 6)
    moved = dataset.states[1:3, 0] - dataset.states[:2, 0]
    assert (abs(moved - 0.01) > 1e-4).any(), "what is carried out is disturbed"
