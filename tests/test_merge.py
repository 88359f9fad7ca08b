"""Merging datasets: every number and every frame of the parts, and nothing half-written."""

import errno
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import CONVENTION, write_dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libra_vla.cli import main
from libra_vla.data import merge as merge_module
from libra_vla.data.lerobot import EXTRAS, LeRobotDataset
from libra_vla.data.merge import merge
from libra_vla.data.statistics import statistics
from libra_vla.data.writer import DatasetWriter
from libra_vla.errors import LibraError
from libra_vla.files import read_json, write_json

REAL = Path(__file__).parent / "data"
SIZE = 16


def part(path: Path, lengths: list[int], seed: int, **options) -> Path:
    """A small dataset whose every frame and number tells the seed and the episode."""
    rng = np.random.default_rng(seed)
    defaults = {
        "fps": 20.0,
        "cameras": {"front": (SIZE, SIZE)},
        "state_names": ["a", "b"],
        "convention": CONVENTION,
        "metadata": {"seed": seed},
    }
    given = defaults | options
    size = next(iter(given["cameras"].values()))
    writer = DatasetWriter(path, **given)
    for index, length in enumerate(lengths):
        frames = np.full((length, *size, 3), rng.integers(256), np.uint8)
        writer.add_episode(
            dict.fromkeys(writer.cameras, frames),
            rng.normal(size=(length, 2)).astype(np.float32),
            rng.uniform(-1, 1, size=(length, len(writer.convention.names))),
            f"do number {int(rng.integers(3))}",
            extra={"attempt": index, f"only_{seed % 2}": 0.5},
        )
    return path


def assert_holds(whole: LeRobotDataset, parts: list[Path]) -> None:
    """Every episode of the parts is there, in order, number by number and frame by frame."""
    index = 0
    for dataset in map(LeRobotDataset.open, parts):
        for mine in dataset.episodes:
            copy = whole.episodes[index]
            assert (copy.length, copy.instruction) == (mine.length, mine.instruction)
            rows = slice(copy.start, copy.start + copy.length)
            own = slice(mine.start, mine.start + mine.length)
            np.testing.assert_array_equal(whole.states[rows], dataset.states[own])
            np.testing.assert_array_equal(whole.actions[rows], dataset.actions[own])
            for camera in dataset.cameras:
                np.testing.assert_array_equal(
                    whole.frames(index, camera), dataset.frames(mine.index, camera)
                )
            index += 1
    assert index == len(whole.episodes) == whole.info["total_episodes"]


def assert_consistent(path: Path) -> None:
    """What LeRobot relies on: running indices, tasks by index, totals and statistics."""
    dataset = LeRobotDataset.open(path)
    data = pq.read_table(path / "data").sort_by("index").to_pydict()
    assert data["index"] == list(range(dataset.info["total_frames"]))
    tasks = pq.read_table(path / "meta" / "tasks.parquet").to_pydict()
    assert tasks["task_index"] == list(range(len(set(tasks["task"]))))
    assert dataset.info["total_tasks"] == len(tasks["task"])
    for episode in dataset.episodes:
        rows = slice(episode.start, episode.start + episode.length)
        assert set(data["episode_index"][rows]) == {episode.index}
        assert data["frame_index"][rows] == list(range(episode.length))
        assert {tasks["task"][i] for i in data["task_index"][rows]} == {episode.instruction}
        assert episode.place["dataset_to_index"] == rows.stop
    stored = read_json(path / "meta" / "stats.json")
    for key, values in (("action", dataset.actions), ("observation.state", dataset.states)):
        expected = statistics(values)
        for name in ("min", "max", "mean", "std", "count"):
            np.testing.assert_allclose(stored[key][name], expected[name], rtol=1e-4, atol=1e-5)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=2, max_size=3))
def test_a_merged_dataset_holds_its_parts(tmp_path: Path, lengths: list[list[int]]):
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    parts = [part(folder / f"part-{i}", n, seed=i) for i, n in enumerate(lengths)]
    summary = merge(parts, folder / "whole")
    whole = LeRobotDataset.open(folder / "whole")
    assert_holds(whole, parts)
    assert_consistent(folder / "whole")
    assert summary["episodes"] == sum(map(len, lengths))
    assert whole.convention == CONVENTION
    assert not list(folder.glob(".*"))
    rest = merge([folder / "whole", part(folder / "more", [2], seed=9)], folder / "again")
    assert rest["episodes"] == summary["episodes"] + 1
    assert_consistent(folder / "again")


def test_videos_are_copied_byte_by_byte(tmp_path: Path):
    parts = [part(tmp_path / f"part-{i}", [3, 2], seed=i) for i in range(2)]
    merge(parts, tmp_path / "whole")

    def videos(path: Path) -> list[bytes]:
        return [file.read_bytes() for file in sorted(path.rglob("*.mp4"))]

    assert videos(tmp_path / "whole") == videos(parts[0]) + videos(parts[1])


def test_where_episodes_come_from_is_remembered(tmp_path: Path):
    a, b, c = (part(tmp_path / name, [2] * (i + 1), seed=i) for i, name in enumerate("abc"))
    merge([a, b], tmp_path / "ab")
    merge([c, tmp_path / "ab"], tmp_path / "cab")
    whole = LeRobotDataset.open(tmp_path / "cab")
    told = whole.metadata["parts"]
    assert [(p["name"], p["episodes"]) for p in told] == [
        ("c", [0, 3]),
        ("a", [3, 4]),
        ("b", [4, 6]),
    ]
    assert [p["metadata"] for p in told] == [{"seed": 2}, {"seed": 0}, {"seed": 1}]
    assert told[1]["fingerprint"] == LeRobotDataset.open(a).fingerprint
    assert [e.place["attempt"] for e in whole.episodes] == [0, 1, 2, 0, 0, 1]
    assert [e.place["only_0"] for e in whole.episodes] == [0.5] * 4 + [None] * 2


@pytest.mark.parametrize("kind", ["lerobot_v3_image", "lerobot_v3_video"])
def test_lerobots_own_files_are_merged(tmp_path: Path, kind: str):
    """Several episodes share a file there, and images lie inside of parquet files."""
    other = tmp_path / "other"
    shutil.copytree(REAL / kind, other)
    info = read_json(other / "meta" / "info.json")
    write_json(other / "meta" / "info.json", info | {"splits": {}})  # another fingerprint
    merge([REAL / kind, other], tmp_path / "whole")
    assert_holds(LeRobotDataset.open(tmp_path / "whole"), [REAL / kind, other])
    data = pq.read_table(tmp_path / "whole" / "data").sort_by("index")
    assert data["index"].to_pylist() == list(range(68))


DIFFERENCES = {
    "cameras": ({"cameras": {"side": (SIZE, SIZE)}}, r"cameras is \['side'\] instead"),
    "size": ({"cameras": {"front": (32, 32)}}, r"shape of .*front is \[32, 32, 3\] instead"),
    "state": ({"state_names": ["b", "a"]}, r"names of observation.state is"),
    "rate": ({"fps": 10.0}, r"fps is 10\.0 instead of 20\.0"),
    "robot": ({"robot_type": "ur5"}, r"robot_type is 'ur5' instead of 'panda'"),
    "gripper": (
        {"convention": replace(CONVENTION, gripper_open=1.0, gripper_closed=0.0)},
        r"its gripper_open is 1\.0 instead of -1\.0; its gripper_closed",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_does_not_fit_is_named(tmp_path: Path, name: str):
    options, expected = DIFFERENCES[name]
    one, other = part(tmp_path / "a", [2], seed=0), part(tmp_path / "b", [2], seed=1, **options)
    with pytest.raises(LibraError, match=rf"/b does not fit .*/a: .*{expected}"):
        merge([one, other], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_bad_requests(tmp_path: Path):
    one, other = part(tmp_path / "a", [2], seed=0), part(tmp_path / "b", [2], seed=1)
    with pytest.raises(LibraError, match="at least two"):
        merge([one], tmp_path / "whole")
    with pytest.raises(LibraError, match="are the same dataset"):
        merge([one, other, one], tmp_path / "whole")
    with pytest.raises(LibraError, match="exists already"):
        merge([one, other], other)
    with pytest.raises(LibraError, match="no LeRobot dataset"):
        merge([one, tmp_path / "nothing"], tmp_path / "whole")
    (other / EXTRAS).unlink()
    with pytest.raises(LibraError, match=r"b/meta/libra_vla.json does not say what its actions"):
        merge([one, other], tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch):
    parts = [part(tmp_path / name, [2], seed=i) for i, name in enumerate("ab")]

    def full(source, target):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(merge_module.shutil, "copyfile", full)
    with pytest.raises(LibraError, match="the disk is full"):
        merge(parts, tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_merged_dataset_is_not_recorded_into(tmp_path: Path):
    parts = [part(tmp_path / name, [2, 2], seed=i) for i, name in enumerate("ab")]
    merge(parts, tmp_path / "whole")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(LibraError, match=r"cannot be continued.*`libra data merge`"):
        part(tmp_path / "whole", [2], seed=2, resume=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_on_the_command_line(tmp_path: Path, capsys):
    a, b = (write_dataset(tmp_path / name, episodes=2 + i) for i, name in enumerate("ab"))
    assert main(["data", "merge", str(a), str(b), "--out", str(tmp_path / "whole")]) == 0
    assert "2 datasets: 5 episodes" in capsys.readouterr().out
    assert main(["data", "info", str(tmp_path / "whole"), "--bins", "5"]) == 0
    assert "episodes 2 to 4 are from b" in capsys.readouterr().out


def test_a_part_that_is_being_collected_is_merged_as_it_was(tmp_path: Path, monkeypatch):
    """Another process adds an episode after its dataset was opened and before it is copied."""
    still, growing = part(tmp_path / "a", [3], seed=0), part(tmp_path / "b", [4], seed=1)
    longer = part(tmp_path / "c", [4, 5], seed=1)
    copy = merge_module._Whole.add

    def add_late(whole: object, dataset: LeRobotDataset) -> None:
        if dataset.path == growing:
            shutil.copytree(longer, growing, dirs_exist_ok=True)
        copy(whole, dataset)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(merge_module._Whole, "add", add_late)
    assert merge([still, growing], tmp_path / "both")["episodes"] == 2
    assert [e.length for e in LeRobotDataset.open(tmp_path / "both").episodes] == [3, 4]
