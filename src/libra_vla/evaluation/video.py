"""Videos to look at: H.264 in MP4, which every browser plays."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from libra_vla.files import atomic_file


def episode_files(folder: Path, task: int, trial: int) -> tuple[Path, Path]:
    """Where an evaluation keeps the film (mp4) and the trace (npz) of an episode it recorded."""
    name = f"task{task:02d}_trial{trial:03d}"
    return folder / "videos" / f"{name}.mp4", folder / "traces" / f"{name}.npz"


def write_video(target: Path | str, frames: Sequence[np.ndarray], *, fps: float) -> None:
    """Writes frames, uint8 [height, width, 3] RGB with even sides, atomically.

    Raises:
        LibraError: the disk is full or the folder cannot be written.
    """
    import av

    height, width = frames[0].shape[:2]
    with atomic_file(target) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        # 4:2:0 chroma is what browsers decode; crf 18 looks lossless at this size.
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "18"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
