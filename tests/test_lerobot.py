"""Reading LeRobot datasets: real ones frame by frame, damaged ones with one clear line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import write_dataset

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError

REAL = Path(__file__).parent / "data"
KINDS = ("lerobot_v3_image", "lerobot_v3_video")
"""Written by LeRobot 0.6.1: PNG in parquet, and AV1 with three episodes in one file."""
DATA = "data/chunk-000/file-000.parquet"
INFO = "meta/info.json"
VIDEO = "videos/observation.images.wrist/chunk-000/file-001.mp4"


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_dataset_is_read_number_by_number(kind: str):
    dataset = LeRobotDataset.open(REAL / kind)
    assert [(e.index, e.start, e.length) for e in dataset.episodes] == [
        (0, 0, 14),
        (1, 14, 9),
        (2, 23, 11),
    ]
    assert dataset.fps == 10 and dataset.cameras == ("image", "image2")
    assert dataset.tasks == ("open the drawer", "pick up the black bowl")
    assert dataset.convention is None and dataset.metadata == {}
    for episode in dataset.episodes:
        t = np.arange(episode.length)[:, None] / 5
        rows = slice(episode.start, episode.start + episode.length)
        np.testing.assert_allclose(dataset.states[rows], np.sin(np.arange(8) + t), atol=1e-6)
        np.testing.assert_allclose(dataset.actions[rows], np.cos(np.arange(7) + t), atol=1e-6)


def square(frame: np.ndarray) -> float:
    """Middle of the square's visible columns: the background is the same in every row."""
    rows = frame.astype(int)
    difference = np.abs(rows[len(rows) // 2] - rows[0]).sum(axis=-1)
    columns = np.flatnonzero(difference > 0.5 * difference.max())
    return (columns[0] + columns[-1] + 1) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_real_dataset_is_read_frame_by_frame(kind: str):
    dataset = LeRobotDataset.open(REAL / kind)
    for episode in dataset.episodes:
        for camera in dataset.cameras:
            height, width = dataset.camera_shapes[camera]
            frames = dataset.frames(episode.index, camera)
            assert frames.dtype == np.uint8
            assert frames.shape == (episode.length, height, width, 3)
            # The first and the last frames cut the square off.
            for t in range(2, episode.length - 2):
                expected = (t + 0.5) / episode.length * width
                assert abs(square(frames[t]) - expected) < 0.5 * width / episode.length


@pytest.mark.parametrize("kind", KINDS)
def test_some_frames_are_the_same_as_of_all_frames(kind: str):
    dataset = LeRobotDataset.open(REAL / kind)
    everything = dataset.frames(1, "image2")
    for indices in ([3], [7, 2, 2], slice(4, None, 2), slice(0, 0), [-1]):
        some = dataset.frames(1, "image2", indices)
        np.testing.assert_array_equal(some, everything[indices])


def test_names_tell_the_order_of_a_shape(tmp_path: Path):
    shutil.copytree(REAL / "lerobot_v3_image", tmp_path / "set")
    info = json.loads((tmp_path / "set" / INFO).read_text())
    info["features"]["observation.images.image"] |= {
        "shape": [3, 32, 48],
        "names": ["channels", "height", "width"],
    }
    (tmp_path / "set" / INFO).write_text(json.dumps(info))
    shapes = LeRobotDataset.open(tmp_path / "set").camera_shapes
    assert shapes == {"image": (32, 48), "image2": (32, 32)}


def test_the_fingerprint_follows_the_data(tmp_path: Path):
    first = LeRobotDataset.open(write_dataset(tmp_path / "a"))
    again = LeRobotDataset.open(write_dataset(tmp_path / "b"))
    longer = LeRobotDataset.open(write_dataset(tmp_path / "c", episodes=5))
    assert first.fingerprint == again.fingerprint != longer.fingerprint


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def edit_info(dataset: Path, **changes: object) -> None:
    info = json.loads((dataset / INFO).read_text())
    (dataset / INFO).write_text(json.dumps(info | changes))


def set_action(dataset: Path, value: float) -> None:
    table = pq.read_table(dataset / DATA)
    actions = np.array(table["action"].to_pylist(), np.float32)
    actions[3, 1] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), actions.shape[1])
    at = table.column_names.index("action")
    pq.write_table(table.set_column(at, "action", column), dataset / DATA)


def drop_rows(dataset: Path) -> None:
    pq.write_table(pq.read_table(dataset / DATA).slice(0, 9), dataset / DATA)


def widen(dataset: Path) -> None:
    features = json.loads((dataset / INFO).read_text())["features"]
    features["action"] |= {"shape": [6]}
    edit_info(dataset, features=features)


DAMAGES = {
    "no dataset": (lambda d: (d / INFO).unlink(), "is no LeRobot dataset"),
    "old version": (lambda d: edit_info(d, codebase_version="v2.1"), "v2.1.*expected v3.0.*conver"),
    "no version": (lambda d: (d / INFO).write_text("[]"), "format None"),
    "info cut off": (lambda d: truncate(d / INFO), "not valid JSON"),
    "no actions": (lambda d: edit_info(d, features={"observation.state": {}}), "no 'action'"),
    "no fps": (lambda d: (d / INFO).write_text('{"codebase_version": "v3.0"}'), "lacks .*fps"),
    "data cut off": (lambda d: truncate(d / DATA), "file-000.parquet is damaged"),
    "data missing": (lambda d: (d / DATA).unlink(), "file-000.parquet is missing"),
    "column missing": (
        lambda d: pq.write_table(pq.read_table(d / DATA).drop_columns("action"), d / DATA),
        "file-000.parquet is damaged .no column action",
    ),
    "rows missing": (drop_rows, "holds 45 frames of data, but its episodes have 48"),
    "video cut off": (lambda d: truncate(d / VIDEO), "file-001.mp4 is truncated"),
    "video empty": (lambda d: (d / VIDEO).write_bytes(b""), "file-001.mp4 is truncated"),
    "camera missing": (lambda d: shutil.rmtree((d / VIDEO).parent), "file-000.mp4 is missing"),
    "episode missing": (
        lambda d: (d / "meta/episodes/chunk-000/file-001.parquet").unlink(),
        "expected episode 1 at frame 12, found episode 2",
    ),
    "last episode missing": (
        lambda d: (d / "meta/episodes/chunk-000/file-003.parquet").unlink(),
        "lists 3 of its 4 episodes",
    ),
    "NaN": (lambda d: set_action(d, np.nan), "'action' holds nan in dim.* 1 at frame 3 of ep.* 0"),
    "infinity": (lambda d: set_action(d, -np.inf), "'action' holds -inf"),
    "other size": (widen, "'action' holds 3 numbers at frame 0, but .* says 6"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_clear_line(tmp_path: Path, damage: str):
    harm, message = DAMAGES[damage]
    harm(write_dataset(tmp_path / "set"))
    with pytest.raises(LibraError, match=message) as caught:
        LeRobotDataset.open(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_an_empty_dataset_says_so(tmp_path: Path):
    write_dataset(tmp_path / "set", episodes=0)
    with pytest.raises(LibraError, match="is empty"):
        LeRobotDataset.open(tmp_path / "set")


def test_a_video_with_too_few_frames(tmp_path: Path):
    short = write_dataset(tmp_path / "short", length=5)
    dataset = LeRobotDataset.open(write_dataset(tmp_path / "set"))
    shutil.copy(short / VIDEO, dataset.path / VIDEO)
    with pytest.raises(LibraError, match=r"holds 5 frames from frame 0 on, but .* needs 12"):
        dataset.frames(1, "wrist")


def test_a_missing_camera_names_those_there_are(tmp_path: Path):
    dataset = LeRobotDataset.open(write_dataset(tmp_path / "set"))
    with pytest.raises(LibraError, match=r"camera 'front' is missing .* has agentview, wrist"):
        dataset.frames(0, "front")


def test_what_a_killed_writer_leaves_is_not_read(tmp_path: Path):
    path = write_dataset(tmp_path / "set")
    (path / "meta/episodes/chunk-000/.file-004.x.partial.parquet").write_bytes(b"PAR1")
    assert len(LeRobotDataset.open(path).episodes) == 4
