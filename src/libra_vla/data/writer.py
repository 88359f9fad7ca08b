"""Writes LeRobot v3.0 datasets that are valid after every episode, whenever the writer dies."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libra_vla.action_space import ActionConvention
from libra_vla.data.lerobot import (
    ACTION,
    EXTRAS,
    IMAGES,
    PLACES,
    STATE,
    VERSION,
    episode_files,
    read_table,
)
from libra_vla.data.statistics import Statistics, image_statistics, merge_statistics, statistics
from libra_vla.data.video import write_video
from libra_vla.errors import LibraError
from libra_vla.files import (
    atomic_file,
    clear_disk_errors,
    read_json,
    require_absent,
    write_json,
)

CHUNK = 1000
"""Files per folder, LeRobot's default."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODE_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
TASKS_PATH = "meta/tasks.parquet"
PARTIAL = ".partial"
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


@dataclass(frozen=True)
class Clip:
    """A camera's frames of one episode as an mp4 file, with their `image_statistics`."""

    path: Path
    stats: Statistics


def encode(frames: np.ndarray, path: Path, *, fps: float, drawn_every: int = 1) -> Clip:
    """Encodes frames, uint8 [n, h, w, 3], into a file beside the dataset, in any process.

    Args:
        drawn_every: see `write_video`.

    Raises:
        LibraError: see `write_video`.
    """
    write_video(path, frames, fps=fps, drawn_every=drawn_every)
    return Clip(path, image_statistics(frames[::drawn_every]))


class DatasetWriter:
    """Appends episodes, each in files of its own.

    An episode's row in `meta/episodes` is written last: what has no row does not exist, so a kill
    loses the episodes in flight and nothing else. Files are written aside in `.partial`, where no
    reader looks, since LeRobot takes every parquet file it finds for data.

    Args:
        path: folder of the dataset.
        fps: control rate, Hz.
        cameras: name -> (height, width).
        state_names: one per number of the state.
        convention: what actions mean.
        metadata: how the data are made; stored as given.
        robot_type: LeRobot's name of the robot.
        places: names of the places that each frame tells, if they do; see `PLACES`.
        resume: go on with what is there.

    Raises:
        LibraError: the folder is not empty, or holds something else than what is to be resumed.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float,
        cameras: Mapping[str, tuple[int, int]],
        state_names: Sequence[str],
        convention: ActionConvention,
        metadata: Mapping[str, Any] | None = None,
        robot_type: str = "panda",
        places: Sequence[str] = (),
        resume: bool = False,
    ) -> None:
        self.path, self.fps, self.cameras = Path(path), fps, tuple(cameras)
        self.robot_type, self.convention = robot_type, convention
        self.metadata = dict(metadata or {})
        self.features = _features(fps, cameras, state_names, convention, places)
        self.rows: list[dict[str, Any]] = []
        self._stats: dict[str, Statistics] = {}
        if resume and (self.path / "meta" / "info.json").exists():
            self._recover()
        elif not (resume and self._unborn()):
            require_absent(self.path, what="the dataset", remedy="choose another folder")
        self.flush()

    def _unborn(self) -> bool:
        """Whether a writer was stopped here before it had written `info.json`, which comes last."""
        skeleton = {self.path / name for name in (TASKS_PATH, "meta/stats.json", EXTRAS)}
        files = (path for path in self.path.rglob("*") if path.is_file())
        return all(path in skeleton or path.name.startswith(".") for path in files)

    def _recover(self) -> None:
        """Takes over the episodes that are whole, and removes what belongs to none."""
        info = read_json(self.path / "meta" / "info.json")
        stored = ActionConvention.from_json(read_json(self.path / EXTRAS)["convention"])
        stored.require_equal(self.convention, mine=str(self.path), theirs="the new episodes")
        if info["features"] != json.loads(json.dumps(self.features)):
            raise LibraError(
                f"{self.path} holds other cameras, sizes or dimensions than asked for: choose "
                "another output folder, or the settings it was made with"
            )
        for file in episode_files(self.path):
            self.rows.extend(read_table(file).to_pylist())
        self.rows.sort(key=lambda row: row["episode_index"])
        for row in self.rows:
            if any(
                row[f"meta/episodes/{k}"] != v for k, v in file_place(row["episode_index"]).items()
            ):
                raise LibraError(
                    f"{self.path} was not recorded here, or was merged, so it cannot be continued: "
                    "record into another folder, then use `libra data merge`"
                )
        self._stats = merge_statistics([_pop_statistics(row) for row in self.rows])
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        kept = {path for row in self.rows for path in self._files(row["episode_index"])}
        for folder in ("data", "videos", "meta/episodes"):
            for file in (self.path / folder).rglob("*.*"):
                if file.is_file() and file not in kept:
                    file.unlink()

    def _files(self, episode: int) -> list[Path]:
        """All files of an episode; its row comes last."""
        place = file_place(episode)
        videos = [VIDEO_PATH.format(video_key=IMAGES + c, **place) for c in self.cameras]
        names = [*videos, DATA_PATH.format(**place), EPISODE_PATH.format(**place)]
        return [self.path / name for name in names]

    @property
    def episodes(self) -> int:
        """Episodes so far."""
        return len(self.rows)

    @property
    def instructions(self) -> list[str]:
        """Instructions by task index."""
        return list(dict.fromkeys(row["tasks"][0] for row in self.rows))

    def add_episode(
        self,
        videos: Mapping[str, np.ndarray | Clip],
        states: np.ndarray,
        actions: np.ndarray,
        instruction: str,
        extra: Mapping[str, Any] | None = None,
        *,
        places: np.ndarray | None = None,
    ) -> int:
        """Appends an episode of n frames and returns its index.

        Args:
            videos: per camera the frames, uint8 [n, h, w, 3], or what `encode` made of them in
                another process; its file is moved into the dataset.
            states: float32 [n, S].
            actions: raw actions, float32 [n, D].
            instruction: what was asked for.
            extra: further columns of the episode's row, for instance its seed.
            places: where they are told, float32 [n, P, 3].

        Raises:
            LibraError: lengths or dimensions that do not fit, NaN or infinity, a full disk; the
                dataset is then as it was before.
        """
        numbers = {STATE: states, ACTION: actions}
        if places is not None:
            numbers[PLACES] = np.reshape(places, (len(places), -1))
        numbers = {key: np.asarray(values, np.float32) for key, values in numbers.items()}
        self._check(videos, numbers)
        index = self.episodes
        row = self._row(len(actions), instruction) | dict(extra or {})
        stats = {key: statistics(values) for key, values in numbers.items()}
        try:
            for camera in self.cameras:
                stats[IMAGES + camera] = self._place_video(camera, index, videos[camera])
            task = self._place_task(instruction)
            frames = self._frames(index, row["dataset_from_index"], task, numbers)
            self._write(DATA_PATH.format(**file_place(index)), frames)
            columns = {f"stats/{f}/{s}": v for f, d in stats.items() for s, v in d.items()}
            table = pa.Table.from_pylist([row | columns])
            self._write(EPISODE_PATH.format(**file_place(index)), table)
        except BaseException:
            for file in reversed(self._files(index)):
                file.unlink(missing_ok=True)
            raise
        self.rows.append(row)
        self._stats = merge_statistics([self._stats, stats] if self._stats else [stats])
        self.flush()
        return index

    def _row(self, length: int, instruction: str) -> dict[str, Any]:
        """The next episode's row of `meta/episodes`, but for its statistics."""
        start = self.rows[-1]["dataset_to_index"] if self.rows else 0
        place = file_place(self.episodes)
        row: dict[str, Any] = {
            "episode_index": self.episodes,
            "tasks": [instruction],
            "length": length,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
        }
        videos = [f"videos/{IMAGES}{camera}" for camera in self.cameras]
        for prefix in ("data", "meta/episodes", *videos):
            row |= {f"{prefix}/{k}": v for k, v in place.items()}
        for prefix in videos:
            row |= {f"{prefix}/from_timestamp": 0.0, f"{prefix}/to_timestamp": length / self.fps}
        return row

    def _place_video(self, camera: str, episode: int, video: np.ndarray | Clip) -> Statistics:
        target = self.path / VIDEO_PATH.format(video_key=IMAGES + camera, **file_place(episode))
        if isinstance(video, np.ndarray):
            video = encode(video, self.path / PARTIAL / "video.mp4", fps=self.fps)
        with clear_disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(video.path, target)
        return video.stats

    def _place_task(self, instruction: str) -> int:
        """Returns the index of an instruction; a new one is written down before it is used."""
        if instruction not in (known := self.instructions):
            write_tasks(self.path / TASKS_PATH, known := [*known, instruction])
        return known.index(instruction)

    def _check(
        self, videos: Mapping[str, np.ndarray | Clip], numbers: Mapping[str, np.ndarray]
    ) -> None:
        if (PLACES in numbers) != (PLACES in self.features):
            raise LibraError(f"'{PLACES}' is told by all episodes of a dataset or by none")
        actions = numbers[ACTION]
        for key, values in numbers.items():
            expected = self.features[key]["shape"][0]
            if values.ndim != 2 or values.shape[1] != expected or not len(values):
                raise LibraError(
                    f"'{key}' has shape {list(values.shape)}: expected [frames, {expected}]"
                )
            if not np.isfinite(values).all():
                raise LibraError(f"'{key}' holds NaN or infinity: the episode was not written")
        for camera in self.cameras:
            if camera not in videos:
                raise LibraError(f"camera '{camera}' is missing from the episode")
            video = videos[camera]
            shape = tuple(self.features[IMAGES + camera]["shape"])
            if isinstance(video, np.ndarray) and (video.dtype, video.shape) != (
                np.uint8,
                (len(actions), *shape),
            ):
                raise LibraError(
                    f"frames of '{camera}' are {video.dtype}{list(video.shape)}: expected "
                    f"uint8{[len(actions), *shape]}"
                )
        for key, values in numbers.items():
            if len(values) != len(actions):
                raise LibraError(
                    f"'{key}' has {len(values)} frames, but there are {len(actions)} actions"
                )

    def _frames(
        self, episode: int, start: int, task: int, numbers: Mapping[str, np.ndarray]
    ) -> pa.Table:
        """The episode's part of `data`."""
        rows = np.arange(len(numbers[ACTION]))
        return pa.table(
            {
                **{key: _vectors(values) for key, values in numbers.items()},
                "timestamp": pa.array((rows / self.fps).astype(np.float32)),
                "frame_index": pa.array(rows),
                "episode_index": pa.array(np.full(len(rows), episode)),
                "index": pa.array(start + rows),
                "task_index": pa.array(np.full(len(rows), task)),
            }
        )

    def _write(self, name: str, table: pa.Table) -> None:
        target, aside = self.path / name, self.path / PARTIAL / "table.parquet"
        with clear_disk_errors(target):
            with atomic_file(aside) as partial:
                pq.write_table(table, partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(target)

    def flush(self) -> None:
        """Brings statistics, `metadata` and `info.json` up to date."""
        if not self.rows:
            write_tasks(self.path / TASKS_PATH, [])
        write_json(self.path / "meta" / "stats.json", self._stats)
        extras = {"convention": self.convention.to_json(), "metadata": self.metadata}
        write_json(self.path / EXTRAS, extras)
        write_json(
            self.path / "meta" / "info.json",
            {
                "codebase_version": VERSION,
                "fps": round(self.fps) if self.fps == round(self.fps) else self.fps,
                "features": self.features,
                "total_episodes": self.episodes,
                "total_frames": sum(row["length"] for row in self.rows),
                "total_tasks": len(self.instructions),
                "chunks_size": CHUNK,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "data_path": DATA_PATH,
                "video_path": VIDEO_PATH if self.cameras else None,
                "robot_type": self.robot_type,
                "splits": {"train": f"0:{self.episodes}"},
            },
        )
        with suppress(OSError):
            (self.path / PARTIAL).rmdir()


def file_place(number: int) -> dict[str, int]:
    """Where the file with a running number lies."""
    return {"chunk_index": number // CHUNK, "file_index": number % CHUNK}


def write_tasks(path: Path, instructions: Sequence[str]) -> None:
    """Writes `meta/tasks.parquet` as a whole: instructions by task index."""
    tasks = pa.table({"task_index": range(len(instructions)), "task": instructions})
    # LeRobot looks tasks up by their pandas index.
    index = {"index_columns": ["task"], "columns": [], "pandas_version": "2.0.0"}
    schema = pa.schema(
        [("task_index", pa.int64()), ("task", pa.string())],
        metadata={"pandas": json.dumps(index | {"column_indexes": []})},
    )
    with atomic_file(path) as partial:
        pq.write_table(tasks.cast(schema), partial)


def _pop_statistics(row: dict[str, Any]) -> dict[str, Statistics]:
    """Takes the statistics out of an episode's row, by feature."""
    found: dict[str, Statistics] = {}
    for name in [name for name in row if name.startswith("stats/")]:
        _, feature, statistic = name.split("/")
        found.setdefault(feature, {})[statistic] = row.pop(name)
    return found


def _vectors(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _features(
    fps: float,
    cameras: Mapping[str, tuple[int, int]],
    state_names: Sequence[str],
    convention: ActionConvention,
    places: Sequence[str],
) -> dict[str, Any]:
    """The `features` of info.json."""
    features: dict[str, Any] = {}
    for camera, (height, width) in cameras.items():
        features[IMAGES + camera] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channel"],
            "info": {
                "video.height": height,
                "video.width": width,
                "video.codec": "h264",
                "video.pix_fmt": "yuv420p",
                "video.fps": fps,
                "video.channels": 3,
                "has_audio": False,
                "is_depth_map": False,
            },
        }
    vectors = {STATE: list(state_names), ACTION: list(convention.names)}
    if places:
        vectors[PLACES] = [f"{place}.{axis}" for place in places for axis in "xyz"]
    for key, names in vectors.items():
        features[key] = {"dtype": "float32", "shape": [len(names)], "names": names}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {k: {"dtype": "int64", "shape": [1], "names": None} for k in INDEX_COLUMNS}
