"""All frames of a dataset at the size a policy reads, memory-mapped: decoded once, then free."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.files import atomic_file
from libra_vla.images import resize


@dataclass(frozen=True)
class FrameStore:
    """Resized frames of every episode.

    Attributes:
        frames: uint8 [K, C, size, size, 3], memory-mapped: every picture that is not a repetition.
        shown: which of them each row of the dataset has, int64 [T].
    """

    frames: np.ndarray
    shown: np.ndarray

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The frames of rows [B] of the dataset, uint8 [B, C, size, size, 3]."""
        return self.frames[self.shown[rows]]

    @classmethod
    def open(cls, dataset: LeRobotDataset, size: int, cameras: Sequence[str]) -> "FrameStore":
        """Opens the store in `<dataset>/.cache`, decoding the videos if it is not there yet.

        Raises:
            LibraError: a camera is missing, a video is damaged, the disk is full.
        """
        dataset.require_cameras(cameras)
        name = f"{dataset.fingerprint}-{'-'.join(cameras)}-{size}.npy"
        path = dataset.path / ".cache" / name
        if not path.exists():
            _build(dataset, size, cameras, path)
        return cls(np.load(path, mmap_mode="r", allow_pickle=False), _shown(dataset))


def _build(dataset: LeRobotDataset, size: int, cameras: Sequence[str], path: Path) -> None:
    for old in path.parent.glob("[!.]*.npy"):
        if not old.name.startswith(dataset.fingerprint):
            old.unlink(missing_ok=True)
    header = {
        "descr": "|u1",
        "fortran_order": False,
        "shape": (int(_shown(dataset)[-1]) + 1, len(cameras), size, size, 3),
    }
    # Written rather than mapped: a full disk is an error then, and not a bus error.
    with atomic_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for episode in tqdm(dataset.episodes, desc="decode", unit="episode", leave=False):
            block = np.empty((len(episode.drawn), *header["shape"][1:]), dtype=np.uint8)
            for column, camera in enumerate(cameras):
                frames = dataset.frames(episode.index, camera, episode.drawn)
                for row, frame in enumerate(frames):
                    block[row, column] = resize(frame, size)
            file.write(block.data)


def _shown(dataset: LeRobotDataset) -> np.ndarray:
    """Which picture, counted without repetitions, each row of a dataset has, int64 [T]."""
    new = np.zeros(len(dataset.states), dtype=np.int64)
    for episode in dataset.episodes:
        new[episode.start + episode.drawn] = 1
    return np.cumsum(new) - 1
