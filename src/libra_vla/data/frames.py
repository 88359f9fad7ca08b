"""All frames of a dataset at the size a policy reads, memory-mapped: decoded once, then free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.files import atomic_file
from libra_vla.images import resize


@dataclass(frozen=True)
class FrameStore:
    """Resized frames of every episode.

    Attributes:
        frames: uint8 [T, C, size, size, 3], memory-mapped.
    """

    frames: np.ndarray

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
            shape = (len(dataset.states), len(cameras), size, size, 3)
            with atomic_file(path) as partial:
                store = np.lib.format.open_memmap(partial, "w+", dtype=np.uint8, shape=shape)
                for episode in tqdm(dataset.episodes, desc="decode", unit="episode", leave=False):
                    rows = slice(episode.start, episode.start + episode.length)
                    for column, camera in enumerate(cameras):
                        frames = dataset.frames(episode.index, camera)
                        store[rows, column] = [resize(frame, size) for frame in frames]
                store.flush()
                del store
        return cls(np.load(path, mmap_mode="r", allow_pickle=False))
