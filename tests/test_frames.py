"""Frames at a policy's size, and what `libra data info` says and draws."""

import time
from pathlib import Path

import numpy as np
import pytest
from datasets import CONVENTION, write_dataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from libra_vla.cli.summaries import data_info
from libra_vla.data import frames as frames_module
from libra_vla.data.frames import FrameStore
from libra_vla.data.info import contact_sheet, describe
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.data.writer import DatasetWriter
from libra_vla.errors import LibraError
from libra_vla.images import resize

REAL = Path(__file__).parent / "data"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 9))
def test_shrinking_averages_areas(factor: int, seed: int):
    image = noise(16 * factor, 16 * factor, seed)
    blocks = image.reshape(16, factor, 16, factor, 3).mean((1, 3))
    assert np.abs(resize(image, 16) - blocks).max() <= 1


def test_resizing_keeps_a_flat_image_and_takes_any_shape():
    for height, width in ((100, 70), (33, 64), (8, 8)):
        flat = np.full((height, width, 3), (10, 128, 250), dtype=np.uint8)
        assert (resize(flat, 32) == (10, 128, 250)).all()
    same = noise(32, 32)
    np.testing.assert_array_equal(resize(same, 32), same)


def test_resizing_is_fast():
    image, best = noise(256, 256), 1.0
    for _ in range(20):
        began = time.perf_counter()
        resize(image, 64)
        best = min(best, time.perf_counter() - began)
    assert best < 1e-3


@pytest.mark.parametrize("kind", ["lerobot_v3_image", "lerobot_v3_video"])
def test_a_store_holds_what_inference_sees(tmp_path: Path, kind: str):
    source = LeRobotDataset.open(REAL / kind)
    dataset = LeRobotDataset(**vars(source) | {"path": tmp_path})
    for name in ("data", "meta", "videos"):
        (tmp_path / name).symlink_to(REAL / kind / name)
    store = FrameStore.open(dataset, 16, ["image2", "image"])
    assert store.frames.shape == (34, 2, 16, 16, 3) and store.frames.dtype == np.uint8
    assert isinstance(store.frames, np.memmap)
    for episode in dataset.episodes:
        for column, camera in enumerate(["image2", "image"]):
            for row, frame in enumerate(dataset.frames(episode.index, camera)):
                kept = store.frames[episode.start + row, column]
                np.testing.assert_array_equal(kept, resize(frame, 16))


def test_a_store_is_built_once_and_again_when_stale(tmp_path: Path, monkeypatch):
    write_dataset(tmp_path / "set", episodes=2)
    FrameStore.open(LeRobotDataset.open(tmp_path / "set"), 32, ["wrist"])
    FrameStore.open(LeRobotDataset.open(tmp_path / "set"), 16, ["wrist"])
    assert len(list((tmp_path / "set" / ".cache").iterdir())) == 2
    with monkeypatch.context() as patch:
        patch.setattr(frames_module, "resize", None)
        FrameStore.open(LeRobotDataset.open(tmp_path / "set"), 32, ["wrist"])
    info = tmp_path / "set" / "meta" / "info.json"
    info.write_text(info.read_text() + "\n")
    FrameStore.open(LeRobotDataset.open(tmp_path / "set"), 32, ["wrist"])
    assert len(list((tmp_path / "set" / ".cache").iterdir())) == 1


def test_pictures_that_repeat_are_stored_once(tmp_path: Path):
    whole = LeRobotDataset.open(write_dataset(tmp_path / "whole"))
    every, sparse = (
        FrameStore.open(dataset, 64, ["wrist"])
        for dataset in (
            whole,
            LeRobotDataset.open(write_dataset(tmp_path / "sparse", drawn_every=5)),
        )
    )
    new = np.concatenate([e.start + np.array([0, 5, 10]) for e in whole.episodes])
    assert every.frames.shape[0] == 4 * 12 and sparse.frames.shape[0] == 4 * 3
    assert np.abs(every.of(new).astype(int) - sparse.of(new)).mean() < 2.0  # other key frames
    np.testing.assert_array_equal(sparse.of(new + 1), sparse.of(new))


def test_a_store_that_fails_leaves_nothing(tmp_path: Path):
    path = write_dataset(tmp_path / "set")
    dataset = LeRobotDataset.open(path)
    with pytest.raises(LibraError, match="it has agentview, wrist"):
        FrameStore.open(dataset, 32, ["front"])
    (path / "videos/observation.images.wrist/chunk-000/file-003.mp4").write_bytes(b"no video")
    with pytest.raises(LibraError, match=r"file-003\.mp4 cannot be decoded"):
        FrameStore.open(dataset, 32, ["wrist"])
    assert not list((path / ".cache").iterdir())


def test_a_description_counts(tmp_path: Path):
    found = describe(write_dataset(tmp_path / "set", episodes=5))
    assert (found["episodes"], found["frames"], found["fps"]) == (5, 60, 20.0)
    assert found["instructions"] == {"go left": 3, "go right": 2}
    assert found["length"] == {"min": 12, "median": 12.0, "max": 12}
    assert found["cameras"] == {"agentview": [64, 64], "wrist": [64, 64]}
    assert found["actions"]["gripper"]["histogram"] == [30, *[0] * 8, 30]
    assert found["convention"]["names"] == ("x", "y", "gripper")
    assert (found["places"], found["views"]) == ([], [])
    told = describe(write_dataset(tmp_path / "stills", stills=True))
    assert (told["places"], told["views"]) == (["circle", "shadow", "square"], ["agentview"])
    line = "told: where things are, of 3 that there may be, and where in the pictures of agentview"
    assert line in data_info(told).splitlines()


def test_others_datasets_are_described_too():
    found = describe(REAL / "lerobot_v3_video")
    assert list(found["actions"]) == [f"a{i}" for i in range(7)]
    assert sum(found["actions"]["a0"]["histogram"]) == 34
    assert found["convention"] is None


def test_a_motion_that_turns_back_is_counted(tmp_path: Path):
    writer = DatasetWriter(
        tmp_path / "set", fps=20.0, cameras={}, state_names=["a"], convention=CONVENTION
    )  # fmt: skip
    there = np.repeat([1.0, 0.1, -1.0], 5)
    still, fingers = np.zeros(15), np.tile([1.0, -1.0, 1.0], 5)
    for text, x, y in (
        ("go", there, 0.2 * fingers),  # too small to count, and the gripper never does
        ("go", np.abs(there), still),
        ("dither", still, fingers),
    ):
        actions = np.stack([x, y, fingers], axis=1).astype(np.float32)
        writer.add_episode({}, np.zeros((15, 1), np.float32), actions, text)
    assert describe(tmp_path / "set")["turns"] == {
        "go": {"dimension": "x", "per_episode": 0.5},
        "dither": {"dimension": "y", "per_episode": 10.0},
    }


def test_a_contact_sheet_shows_every_task(tmp_path: Path):
    contact_sheet(REAL / "lerobot_v3_video", tmp_path / "sheet.png", columns=4, size=64)
    with Image.open(tmp_path / "sheet.png") as sheet:
        # Three episodes, two cameras each, under a caption.
        assert sheet.size == (4 * 64, 3 * (2 * 64 + 18))
        assert np.asarray(sheet).std() > 30


def test_of_many_tasks_a_contact_sheet_shows_one_episode_each(tmp_path: Path):
    path = write_many(tmp_path / "set", tasks=11)
    contact_sheet(path, tmp_path / "sheet.png", columns=2, size=64)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 32, 11 * (32 + 18))


def test_what_was_recorded_with_episodes_is_summarised(tmp_path: Path):
    found = describe(write_many(tmp_path / "set", tasks=3), bins=5)
    assert found["recorded"] == {"noise": {"min": 0.0, "median": 0.1, "max": 0.2}}
    assert all(len(a["histogram"]) == 5 for a in found["actions"].values())
    assert describe(REAL / "lerobot_v3_video")["recorded"] == {}
    with pytest.raises(LibraError, match="bins"):
        describe(tmp_path / "set", bins=1)


def write_many(path: Path, *, tasks: int) -> Path:
    """Two episodes of each task."""
    writer = DatasetWriter(
        path, fps=20.0, cameras={"front": (16, 16)}, state_names=["a"], convention=CONVENTION
    )
    for index in range(2 * tasks):
        writer.add_episode(
            {"front": np.full((2, 16, 16, 3), index, np.uint8)},
            np.zeros((2, 1)),
            np.zeros((2, 3)),
            f"do number {index % tasks}",
            extra={"task": index % tasks, "attempt": index, "noise": (index % tasks) / 10},
        )
    return path
