"""Frames to mp4 and back, with PyAV."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from libra_vla.errors import LibraError
from libra_vla.files import atomic_file

QUALITY: dict[str, object] = {"crf": "18", "preset": "veryfast"}
"""x264 settings."""
KEY_EVERY = 2
"""A key frame every second frame (LeRobot's choice) makes random access cheap."""


def write_video(
    path: Path | str, frames: Iterable[np.ndarray], *, fps: float, drawn_every: int = 1
) -> None:
    """Encodes uint8 [h, w, 3] frames as H.264 (yuv420p: every browser plays it), atomically.

    Args:
        drawn_every: frames from one new picture to the next, where pictures repeat: only every
            second new one needs to be a key frame then.

    Raises:
        LibraError: no frames, an odd side, or a disk that is full.
    """
    with atomic_file(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = None
        for index, frame in enumerate(frames):
            if stream is None:
                height, width = frame.shape[:2]
                if height % 2 or width % 2:
                    raise LibraError(
                        f"cannot encode {width} x {height} frames: both sides must be even"
                    )
                stream = container.add_stream("libx264", rate=Fraction(round(fps * 1000), 1000))
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                # One thread: encoding happens in workers, and the result stays the same.
                stream.options = dict(QUALITY, g=str(KEY_EVERY * drawn_every), threads="1")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts = index
            container.mux(stream.encode(picture))
        if stream is None:
            raise LibraError(f"no frames to write to {path}")
        container.mux(stream.encode())


def require_whole(path: Path) -> None:
    """Raises LibraError if a video is missing or, for an mp4, cut off anywhere.

    Walks the file's boxes, which takes microseconds; nothing is decoded.
    """
    if not path.is_file():
        raise LibraError(f"{path} is missing: make or copy the dataset again")
    if path.suffix != ".mp4":
        return
    size, position, kinds = path.stat().st_size, 0, set()
    with path.open("rb") as file:
        while position < size:
            file.seek(position)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:], "big")
            elif length == 0:
                length = size - position
            kinds.add(head[4:8])
            position += max(length, 8)
    if position != size or b"moov" not in kinds:
        raise LibraError(f"{path} is truncated or no video: make or copy the dataset again")


def read_video(
    path: Path | str, *, fps: float, start: int = 0, count: int | None = None
) -> np.ndarray:
    """Decodes frames start .. start + count - 1 (or all that follow), uint8 [n, h, w, 3].

    Raises:
        LibraError: the file is missing, truncated, no video, or has too few frames.
    """
    frames: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            # More threads are no faster with frames this small (measured at 128 px).
            stream.thread_count = 1
            assert stream.time_base is not None
            if start:
                container.seek(int(start / fps / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                index = round(float(frame.time or 0.0) * fps)
                if index >= start:
                    # With threads, half the time would go into waking them, more on busy cores.
                    frames.append(frame.to_ndarray(format="rgb24", threads=1))
                if count is not None and len(frames) == count:
                    break
    except (FFmpegError, OSError, IndexError) as error:
        raise LibraError(
            f"{path} cannot be decoded ({error}): it is truncated or no video; make or copy the "
            "dataset again"
        ) from error
    if count is not None and len(frames) < count:
        raise LibraError(
            f"{path} holds {len(frames)} frames from frame {start} on, but the dataset needs "
            f"{count}: it is truncated; make or copy the dataset again"
        )
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), dtype=np.uint8)
