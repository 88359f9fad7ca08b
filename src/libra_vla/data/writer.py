"""Writes LeRobot v3.0 datasets that are valid after every episode, whenever the writer dies."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from libra_vla.action_space import ActionConvention
from libra_vla.data.lerobot import ACTION, EXTRAS, IMAGES, STATE, VERSION
from libra_vla.data.video import write_video
from libra_vla.errors import LibraError
from libra_vla.files import atomic_file, clear_disk_errors, read_json, write_json

CHUNK = 1000
"""Files per folder, LeRobot's default."""
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODE_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
INDEX_COLUMNS = ("frame_index", "episode_index", "index", "task_index")


class DatasetWriter:
    """Appends episodes, each in files of its own.

    An episode's row in `meta/episodes` is written last: what has no row does not exist, so a kill
    loses the episodes in flight and nothing else.

    Args:
        path: folder of the dataset.
        fps: control rate, Hz.
        cameras: name -> (height, width).
        state_names: one per number of the state.
        convention: what actions mean.
        metadata: how the data are made; stored as given.
        robot_type: LeRobot's name of the robot.
        resume: go on with what is there.

    Raises:
        LibraError: the folder holds something else than what is to be resumed.
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
        resume: bool = False,
    ) -> None:
        self.path, self.fps, self.cameras = Path(path), fps, tuple(cameras)
        self.robot_type, self.convention = robot_type, convention
        self.metadata = dict(metadata or {})
        self.features = _features(fps, cameras, state_names, convention)
        self.rows: list[dict[str, Any]] = []
        if resume and (self.path / "meta" / "info.json").exists():
            self._recover()
        self.flush()

    def _recover(self) -> None:
        """Takes over the episodes that are whole."""
        info = read_json(self.path / "meta" / "info.json")
        if info["features"] != json.loads(json.dumps(self.features)):
            raise LibraError(
                f"{self.path} holds other cameras, sizes or dimensions than asked for: choose "
                "another output folder, or the settings it was made with"
            )
        for file in sorted((self.path / "meta" / "episodes").glob("*/*.parquet")):
            self.rows.extend(pq.read_table(file).to_pylist())
        self.rows.sort(key=lambda row: row["episode_index"])

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
        videos: Mapping[str, Path | np.ndarray],
        states: np.ndarray,
        actions: np.ndarray,
        instruction: str,
        image_stats: Mapping[str, Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> int:
        """Appends an episode of n frames and returns its index.

        Args:
            videos: per camera the frames, uint8 [n, h, w, 3], or an mp4 that a worker has
                encoded already; it is moved into the dataset.
            states: float32 [n, S].
            actions: raw actions, float32 [n, D].
            instruction: what was asked for.
            image_stats: of `image_statistics` per camera, needed for encoded videos.
            extra: further columns of the episode's row, for instance its seed.

        Raises:
            LibraError: lengths or dimensions that do not fit, NaN or infinity, a full disk.
        """
        states, actions = np.asarray(states, np.float32), np.asarray(actions, np.float32)
        self._check(videos, states, actions)
        index, length = self.episodes, len(actions)
        start = self.rows[-1]["dataset_to_index"] if self.rows else 0
        instructions = self.instructions
        task = instructions.index(instruction) if instruction in instructions else len(instructions)
        place = {"chunk_index": index // CHUNK, "file_index": index % CHUNK}
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [instruction],
            "length": length,
            "dataset_from_index": start,
            "dataset_to_index": start + length,
            **{f"data/{k}": v for k, v in place.items()},
            **{f"meta/episodes/{k}": v for k, v in place.items()},
            **(extra or {}),
        }
        stats = {STATE: statistics(states), ACTION: statistics(actions)}
        for camera in self.cameras:
            key, video = IMAGES + camera, videos[camera]
            target = self.path / VIDEO_PATH.format(video_key=key, **place)
            if isinstance(video, np.ndarray):
                write_video(target, video, fps=self.fps)
                stats[key] = image_statistics(video)
            else:
                with clear_disk_errors(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(video, target)
                stats[key] = (image_stats or {})[camera]
            row |= {f"videos/{key}/{k}": v for k, v in place.items()}
            row |= {
                f"videos/{key}/from_timestamp": 0.0,
                f"videos/{key}/to_timestamp": length / self.fps,
            }
        row |= {f"stats/{f}/{s}": v for f, values in stats.items() for s, v in values.items()}
        self._write(DATA_PATH.format(**place), self._frames(index, start, task, states, actions))
        self._write(EPISODE_PATH.format(**place), pa.Table.from_pylist([row]))
        self.rows.append(row)
        self.flush()
        return index

    def _check(
        self, videos: Mapping[str, Path | np.ndarray], states: np.ndarray, actions: np.ndarray
    ) -> None:
        for key, values in ((STATE, states), (ACTION, actions)):
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
        if len(states) != len(actions):
            raise LibraError(f"{len(states)} states, but {len(actions)} actions in the episode")

    def _frames(
        self, episode: int, start: int, task: int, states: np.ndarray, actions: np.ndarray
    ) -> pa.Table:
        """The episode's part of `data`."""
        rows = np.arange(len(actions))
        return pa.table(
            {
                STATE: _vectors(states),
                ACTION: _vectors(actions),
                "timestamp": pa.array((rows / self.fps).astype(np.float32)),
                "frame_index": pa.array(rows),
                "episode_index": pa.array(np.full(len(rows), episode)),
                "index": pa.array(start + rows),
                "task_index": pa.array(np.full(len(rows), task)),
            }
        )

    def _write(self, name: str, table: pa.Table) -> None:
        with atomic_file(self.path / name) as partial:
            pq.write_table(table, partial)

    def flush(self) -> None:
        """Brings tasks, statistics and `info.json` up to date."""
        instructions = self.instructions
        tasks = pa.table({"task_index": range(len(instructions)), "task": instructions})
        # LeRobot looks tasks up by their pandas index.
        index = {"index_columns": ["task"], "columns": [], "pandas_version": "2.0.0"}
        schema = pa.schema(
            [("task_index", pa.int64()), ("task", pa.string())],
            metadata={"pandas": json.dumps(index | {"column_indexes": []})},
        )
        self._write("meta/tasks.parquet", tasks.cast(schema))
        write_json(self.path / "meta" / "stats.json", _merged_statistics(self.rows, self.features))
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
                "total_tasks": len(instructions),
                "chunks_size": CHUNK,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "data_path": DATA_PATH,
                "video_path": VIDEO_PATH if self.cameras else None,
                "robot_type": self.robot_type,
                "splits": {"train": f"0:{self.episodes}"},
            },
        )


def _vectors(values: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def _features(
    fps: float,
    cameras: Mapping[str, tuple[int, int]],
    state_names: Sequence[str],
    convention: ActionConvention,
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
    for key, names in ((STATE, state_names), (ACTION, convention.names)):
        features[key] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return features | {k: {"dtype": "int64", "shape": [1], "names": None} for k in INDEX_COLUMNS}


def statistics(values: np.ndarray) -> dict[str, Any]:
    """LeRobot's statistics over the first axis of [n, ...]."""
    result = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0, dtype=np.float64),
        "std": values.std(axis=0, dtype=np.float64),
        "count": np.array([len(values)]),
    }
    quantiles = np.quantile(values, list(QUANTILES.values()), axis=0)
    return {
        k: v.tolist() for k, v in (result | dict(zip(QUANTILES, quantiles, strict=True))).items()
    }


def image_statistics(frames: np.ndarray) -> dict[str, Any]:
    """Per channel, in [0, 1], from every tenth frame and every fourth pixel, as [[[v]], ...]."""
    pixels = frames[::10, ::4, ::4].reshape(-1, 3) / np.float32(255.0)
    result = statistics(pixels)
    shaped = {k: [[[v]] for v in values] for k, values in result.items() if k != "count"}
    return shaped | {"count": [len(frames[::10])]}


def _merged_statistics(
    rows: Sequence[Mapping[str, Any]], features: Mapping[str, Any]
) -> dict[str, Any]:
    """Statistics of the whole from those of its episodes; quantiles are averaged, as LeRobot's."""
    merged: dict[str, Any] = {}
    for feature in features:
        if not rows or f"stats/{feature}/mean" not in rows[0]:
            continue

        def column(name: str, feature: str = feature) -> np.ndarray:
            return np.array([row[f"stats/{feature}/{name}"] for row in rows], dtype=np.float64)

        count, mean = column("count")[:, 0], column("mean")
        weight = (count / count.sum()).reshape(-1, *[1] * (mean.ndim - 1))
        total = (weight * mean).sum(axis=0)
        variance = (weight * (column("std") ** 2 + (mean - total) ** 2)).sum(axis=0)
        merged[feature] = {
            "min": column("min").min(axis=0).tolist(),
            "max": column("max").max(axis=0).tolist(),
            "mean": total.tolist(),
            "std": np.sqrt(variance).tolist(),
            "count": [int(count.sum())],
            **{q: (weight * column(q)).sum(axis=0).tolist() for q in QUANTILES},
        }
    return merged
