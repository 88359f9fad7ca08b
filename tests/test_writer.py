"""Writing datasets: what goes in comes out, whatever interrupts it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import CONVENTION, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from libra_vla.action_space import ActionConvention
from libra_vla.data import writer as writer_module
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.data.statistics import merge_statistics, statistics
from libra_vla.data.writer import DatasetWriter, encode
from libra_vla.errors import LibraError
from libra_vla.files import read_json


def make_writer(path: Path, **options) -> DatasetWriter:
    defaults = {
        "fps": 20.0,
        "cameras": {"agentview": (64, 64), "wrist": (64, 64)},
        "state_names": ["a", "b", "c", "d"],
        "convention": CONVENTION,
    }
    return DatasetWriter(path, **defaults | options)


def scene(length: int, seed: int = 0, size: int = 64) -> np.ndarray:
    """Smooth surfaces with edges and a moving thing, uint8 [length, size, size, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] / size
    frames = np.stack([np.stack([x, y, 1 - x * y], -1)] * length) * 160 + 40
    for t, frame in enumerate(frames):
        left = (3 * t) % (size - size // 4)
        frame[size // 3 : size // 2, left : left + size // 4] = (200, 60, 60)
    return np.clip(frames + rng.normal(0, 2, frames.shape), 0, 255).astype(np.uint8)


def episode(length: int = 6, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {
        "videos": {"agentview": scene(length, seed), "wrist": scene(length, seed + 1)},
        "states": rng.normal(size=(length, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(length, 3)).astype(np.float32),
        "instruction": "put it there",
    }


def files(path: Path) -> set[str]:
    return {str(f.relative_to(path)) for f in path.rglob("*") if f.is_file()}


numbers = st.floats(-1e6, 1e6, width=32)
words = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=20)
lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), lengths=lengths)
def test_what_goes_in_comes_out(tmp_path: Path, data: st.DataObject, lengths: list[int]):
    path = Path(tempfile.mkdtemp(dir=tmp_path)) / "set"
    writer = make_writer(path)
    written = []
    for seed, n in enumerate(lengths):
        one = episode(n, seed) | {
            "states": data.draw(arrays(np.float32, (n, 4), elements=numbers)),
            "actions": data.draw(arrays(np.float32, (n, 3), elements=numbers)),
            "instruction": data.draw(words),
        }
        assert writer.add_episode(**one) == seed
        written.append(one)
    dataset = LeRobotDataset.open(path)
    assert [e.length for e in dataset.episodes] == lengths
    assert [e.instruction for e in dataset.episodes] == [o["instruction"] for o in written]
    np.testing.assert_array_equal(dataset.states, np.concatenate([o["states"] for o in written]))
    np.testing.assert_array_equal(dataset.actions, np.concatenate([o["actions"] for o in written]))
    for index, one in enumerate(written):
        for camera, frames in one["videos"].items():
            assert psnr(dataset.frames(index, camera), frames) > 30


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def test_what_the_dataset_says_of_itself(tmp_path: Path):
    writer = make_writer(tmp_path / "set", metadata={"seed": 3})
    for seed, words in enumerate(["left", "right", "left"]):
        writer.add_episode(**episode(5, seed) | {"instruction": words}, extra={"attempt": seed})
    dataset = LeRobotDataset.open(tmp_path / "set")
    assert (dataset.convention, dataset.metadata) == (CONVENTION, {"seed": 3})
    assert dataset.camera_shapes == {"agentview": (64, 64), "wrist": (64, 64)}
    assert [e.place["attempt"] for e in dataset.episodes] == [0, 1, 2]
    info = dataset.info
    totals = [info[f"total_{what}"] for what in ("episodes", "frames", "tasks")]
    assert (totals, info["splits"]) == ([3, 15, 2], {"train": "0:3"})
    tasks = pq.read_table(tmp_path / "set" / "meta" / "tasks.parquet")
    assert tasks.to_pydict() == {"task_index": [0, 1], "task": ["left", "right"]}
    data = pq.read_table(tmp_path / "set" / "data").to_pydict()
    assert data["task_index"] == [0] * 5 + [1] * 5 + [0] * 5
    np.testing.assert_allclose(data["timestamp"], np.tile(np.arange(5) / 20, 3), atol=1e-6)


def test_statistics_are_those_of_the_whole(tmp_path: Path):
    writer = make_writer(tmp_path / "set")
    for seed in range(4):
        writer.add_episode(**episode(5 + seed, seed))
    actions = LeRobotDataset.open(tmp_path / "set").actions
    stored = read_json(tmp_path / "set" / "meta" / "stats.json")
    np.testing.assert_allclose(stored["action"]["mean"], actions.mean(0), atol=1e-6)
    np.testing.assert_allclose(stored["action"]["std"], actions.std(0), atol=1e-6)
    np.testing.assert_allclose(stored["action"]["max"], actions.max(0))
    assert stored["action"]["count"] == [len(actions)]
    assert np.shape(stored["observation.images.wrist"]["q50"]) == (3, 1, 1)
    assert 0 <= stored["observation.images.wrist"]["min"][0][0][0] < 0.5


@given(st.lists(arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)),
                       elements=st.floats(-100, 100)), min_size=1, max_size=5))  # fmt: skip
def test_merging_one_by_one_is_merging_at_once(parts: list[np.ndarray]):
    each = [{"x": statistics(part)} for part in parts]
    merged = each[0]
    for part in each[1:]:
        merged = merge_statistics([merged, part])
    for name, value in merge_statistics(each)["x"].items():
        np.testing.assert_allclose(merged["x"][name], value, atol=1e-5)


def test_encoded_videos_are_adopted(tmp_path: Path):
    one = episode()
    clips = {c: encode(f, tmp_path / f"{c}.mp4", fps=20) for c, f in one["videos"].items()}
    make_writer(tmp_path / "a").add_episode(**one | {"videos": clips})
    make_writer(tmp_path / "b").add_episode(**one)
    assert not list(tmp_path.glob("*.mp4"))
    for name in files(tmp_path / "a") | files(tmp_path / "b"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_resuming_goes_on_and_drops_what_belongs_to_no_episode(tmp_path: Path):
    whole = write_dataset(tmp_path / "whole", episodes=3)
    cut = write_dataset(tmp_path / "cut", episodes=3)
    (cut / "meta/episodes/chunk-000/file-002.parquet").unlink()
    (cut / "data/chunk-000/.file-009.x.partial.parquet").touch()
    (cut / ".partial").mkdir()
    (cut / ".partial" / "video.mp4").touch()
    writer = make_writer(cut, resume=True)
    assert writer.episodes == 2
    assert len(LeRobotDataset.open(cut).episodes) == 2
    assert {name for name in files(cut) if "file-002" in name or "partial" in name} == set()
    source = LeRobotDataset.open(whole)
    writer.add_episode(
        {c: source.frames(2, c) for c in source.cameras},
        source.states[24:],
        source.actions[24:],
        source.episodes[2].instruction,
    )
    assert files(cut) == files(whole)
    np.testing.assert_array_equal(LeRobotDataset.open(cut).actions, source.actions)


def test_a_writer_stopped_while_it_began_is_resumed(tmp_path: Path):
    write_dataset(tmp_path, episodes=0)
    (tmp_path / "meta" / "info.json").unlink()  # the last file to be written
    (tmp_path / "meta" / ".info.x.partial.json").touch()
    assert make_writer(tmp_path, resume=True).episodes == 0
    (tmp_path / "meta" / "info.json").unlink()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LibraError, match="exists already"):
        make_writer(tmp_path, resume=True)


BAD = {
    "a lost camera": ({"videos": {"agentview": scene(6)}}, "camera 'wrist' is missing"),
    "too few frames": (
        {"videos": {"agentview": scene(5), "wrist": scene(6)}},
        "frames of 'agentview' are uint8.*5, 64, 64, 3.*expected",
    ),
    "a wide state": ({"states": np.zeros((6, 5))}, r"'observation.state' has shape \[6, 5\]"),
    "few states": (
        {"states": np.zeros((4, 4))},
        "'observation.state' has 4 frames, but there are 6 actions",
    ),
    "places": ({"places": np.zeros((6, 2, 3))}, "'observation.environment_state' is told by all"),
    "no frames": ({"actions": np.zeros((0, 3))}, r"'action' has shape \[0, 3\]"),
    "NaN": ({"actions": np.full((6, 3), np.nan)}, "'action' holds NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_episode_changes_nothing(tmp_path: Path, case: str):
    writer = make_writer(tmp_path / "set")
    writer.add_episode(**episode())
    before = files(tmp_path / "set")
    change, message = BAD[case]
    with pytest.raises(LibraError, match=message):
        writer.add_episode(**episode() | change)
    assert files(tmp_path / "set") == before
    assert len(LeRobotDataset.open(tmp_path / "set").episodes) == 1


def test_nothing_is_overwritten_or_mixed(tmp_path: Path):
    path = write_dataset(tmp_path / "set")
    with pytest.raises(LibraError, match="exists already"):
        make_writer(path)
    with pytest.raises(LibraError, match="other cameras, sizes"):
        make_writer(path, resume=True, cameras={"agentview": (32, 32)})
    other = ActionConvention.from_json(CONVENTION.to_json() | {"gripper_open": 1.0})
    with pytest.raises(LibraError, match="gripper_open"):
        make_writer(path, resume=True, convention=other)


def test_odd_sides_cannot_be_encoded(tmp_path: Path):
    writer = make_writer(tmp_path / "set", cameras={"agentview": (63, 64)})
    frames = np.zeros((6, 63, 64, 3), np.uint8)
    with pytest.raises(LibraError, match="must be even"):
        writer.add_episode(**episode() | {"videos": {"agentview": frames}})
    assert not [name for name in files(tmp_path / "set") if name.endswith(".mp4")]


@pytest.mark.parametrize("write", range(3), ids=["tasks", "data", "row"])
def test_a_failing_write_leaves_the_dataset_as_it_was(tmp_path: Path, monkeypatch, write: int):
    writer = make_writer(tmp_path / "set")
    writer.add_episode(**episode())
    before = files(tmp_path / "set")
    real, calls = pq.write_table, []

    def full(table, where, **options):
        calls.append(where)
        if len(calls) == write + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(table, where, **options)

    monkeypatch.setattr(writer_module.pq, "write_table", full)
    with pytest.raises(LibraError, match="the disk is full"):
        writer.add_episode(**episode() | {"instruction": "something new"})
    monkeypatch.undo()
    assert files(tmp_path / "set") == before
    assert len(LeRobotDataset.open(tmp_path / "set").episodes) == 1
    writer.add_episode(**episode() | {"instruction": "something else"})
    assert LeRobotDataset.open(tmp_path / "set").tasks == ("put it there", "something else")


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_really_full_disk(small_disk: Path):
    writer = make_writer(small_disk / "set")
    with pytest.raises(LibraError, match="the disk is full"):
        for seed in range(100):
            writer.add_episode(**episode(20, seed))
    assert len(LeRobotDataset.open(small_disk / "set").episodes) == writer.episodes > 1
    assert not [n for n in files(small_disk / "set") if "partial" in n]


def write_forever(path: str) -> None:
    writer = make_writer(Path(path))
    for seed in range(10_000):
        writer.add_episode(**episode(4, seed))


@pytest.mark.parametrize("wait_s", [0.3, 0.41])
def test_a_kill_at_any_moment_leaves_a_valid_dataset(tmp_path: Path, wait_s: float):
    path, here = tmp_path / "set", str(Path(__file__).parent)
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_writer as t; t.write_forever"
    process = subprocess.Popen([sys.executable, "-c", f"{code}(sys.argv[2])", here, str(path)])
    last = path / "meta/episodes/chunk-000/file-002.parquet"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(wait_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = len(LeRobotDataset.open(path).episodes)
    assert found >= 3
    writer = make_writer(path, resume=True)
    assert writer.episodes == found
    writer.add_episode(**episode())
    dataset = LeRobotDataset.open(path)
    assert len(dataset.episodes) == dataset.info["total_episodes"] == found + 1
