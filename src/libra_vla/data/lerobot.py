"""Reads LeRobot v3.0 datasets: json, parquet and mp4, without LeRobot.

On disk (LeRobot 0.6): `meta/info.json`, `meta/tasks.parquet`, `meta/episodes/**.parquet`,
`data/**.parquet`, and per camera either `videos/<key>/**.mp4` (dtype "video"; several episodes may
share a file, found by `from_timestamp`) or PNG bytes inside the data (dtype "image").
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from libra_vla.action_space import ActionConvention
from libra_vla.data.video import read_video, require_whole
from libra_vla.errors import LibraError
from libra_vla.files import json_from_text, read_json
from libra_vla.views import View

VERSION = "v3.0"
IMAGES = "observation.images."
STATE, ACTION = "observation.state", "action"
PLACES = "observation.environment_state"
"""Where things are, P x 3 m in the frame of the state's first three numbers, the end effector's
position; LeRobot's name for what a robot does not know. Stills have it, and demonstrations if
they are to."""
ABSENT = (0.0, 0.0, 0.0)
"""Place of what a scene does not have, for a feature is as long in all of them."""
ASKED = "asked"
"""Column of `meta/episodes`: names of the K places that the instruction is about, in order."""
VIEWS = "views"
"""Column of `meta/episodes`: how each camera saw, by name, as JSON (`View`); told with places."""
EXTRAS = "meta/libra_vla.json"
"""What LeRobot has no place for: the action convention, and how the data were made."""
DRAWN_EVERY = "drawn_every"
"""Column of `meta/episodes`: frames from one new picture to the next; those between repeat it."""
SHOVED = "shoved"
"""Column of `meta/episodes`: frames at which something else than the action was carried out, as
"12:16 40:43", each without its last; nothing is to be learned there, nor across."""


@dataclass(frozen=True)
class Episode:
    """One demonstration.

    Attributes:
        index: within the dataset.
        start: global row of its first frame.
        length: frames.
        instruction: what was asked for.
        place: the row of `meta/episodes` that says where its data and videos lie.
    """

    index: int
    start: int
    length: int
    instruction: str
    place: dict[str, Any]

    @property
    def asked(self) -> tuple[str, ...]:
        """Where places are told, names of those that the instruction is about."""
        return tuple((self.place.get(ASKED) or "").split())

    @property
    def views(self) -> dict[str, View]:
        """How its cameras saw, by name; of those of which it is told."""
        told = json_from_text(
            self.place.get(VIEWS) or "{}", where=f"column '{VIEWS}' of episode {self.index}"
        )
        return {camera: View.from_json(view) for camera, view in told.items()}

    @property
    def drawn_every(self) -> int:
        """Frames from one new picture to the next; those between repeat the last one."""
        return int(self.place.get(DRAWN_EVERY) or 1)

    @property
    def stretches(self) -> list[tuple[int, int]]:
        """Frames to learn from, as (first, last + 1) of each stretch between two shoves; all, where
        nothing was shoved. Pictures are drawn anew from the beginning of each."""
        shoved = [part.split(":") for part in (self.place.get(SHOVED) or "").split()]
        starts = [0, *(int(stop) for _, stop in shoved)]
        stops = [*(int(start) for start, _ in shoved), self.length]
        return [(a, b) for a, b in zip(starts, stops, strict=True) if a < b]

    @property
    def spans(self) -> list[slice]:
        """The same stretches as rows of the dataset's tables."""
        return [slice(self.start + a, self.start + b) for a, b in self.stretches]

    @property
    def drawn(self) -> np.ndarray:
        """Frames whose picture is their own, int64 [K]."""
        return np.concatenate([np.arange(a, b, self.drawn_every) for a, b in self.stretches])


@dataclass(frozen=True)
class LeRobotDataset:
    """An opened dataset: numbers in memory, frames on demand.

    Attributes:
        path: folder.
        info: `meta/info.json`.
        episodes: in order.
        states: proprioception, float32 [T, S].
        actions: raw actions, float32 [T, D].
        convention: what actions mean; None if the dataset does not say.
        metadata: how it was made, if our own `libra collect` made it.
        places: of a dataset that tells them, float32 [T, P, 3], m; see `PLACES`.
    """

    path: Path
    info: dict[str, Any]
    episodes: tuple[Episode, ...]
    states: np.ndarray
    actions: np.ndarray
    convention: ActionConvention | None
    metadata: dict[str, Any]
    places: np.ndarray | None = None

    @classmethod
    def open(cls, path: Path | str) -> "LeRobotDataset":
        """Opens a dataset and checks that it is whole.

        Raises:
            LibraError: no dataset, another version, empty, truncated, NaN or infinity.
        """
        path = Path(path)
        info = _read_info(path)
        episodes = _read_episodes(path)
        if not episodes:
            raise LibraError(f"{path} is empty: it holds no episodes; collect some first")
        if len(episodes) < info.get("total_episodes", 0):
            raise LibraError(
                f"{path} lists {len(episodes)} of its {info['total_episodes']} episodes: "
                "meta/episodes is not whole; make or copy the dataset again"
            )
        keys = [STATE, ACTION, *(key for key in (PLACES,) if key in info["features"])]
        numbers = _read_numbers(path, info, episodes, keys)
        extras = read_json(path / EXTRAS) if (path / EXTRAS).exists() else {}
        convention = extras.get("convention")
        dataset = cls(
            path=path,
            info=info,
            episodes=tuple(episodes),
            states=numbers[STATE],
            actions=numbers[ACTION],
            convention=ActionConvention.from_json(convention) if convention else None,
            metadata=extras.get("metadata", {}),
            places=numbers[PLACES].reshape(len(numbers[ACTION]), -1, 3)
            if PLACES in numbers
            else None,
        )
        for video in dataset._videos():
            require_whole(video)
        return dataset

    @property
    def fps(self) -> float:
        """Frames per second by the metadata; index by frames, since public sets get it wrong."""
        return float(self.info["fps"])

    @property
    def features(self) -> dict[str, Any]:
        return self.info["features"]

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera names, without the "observation.images." of their feature."""
        return tuple(k.removeprefix(IMAGES) for k in self.features if k.startswith(IMAGES))

    @property
    def place_names(self) -> tuple[str, ...]:
        """Names of the P places that each frame tells; none in most datasets."""
        numbers = self.features.get(PLACES, {}).get("names") or []
        return tuple(name.removesuffix(".x") for name in numbers[::3])

    @property
    def camera_shapes(self) -> dict[str, tuple[int, int]]:
        """Camera name -> (height, width) of its frames as they are stored."""
        shapes = {}
        for camera in self.cameras:
            feature = self.features[IMAGES + camera]
            # Public datasets hold both orders; only the names tell which.
            first = (feature.get("names") or [""])[0]
            height, width = feature["shape"][1:] if first.startswith("c") else feature["shape"][:2]
            shapes[camera] = (height, width)
        return shapes

    @property
    def tasks(self) -> tuple[str, ...]:
        """The different instructions, sorted."""
        return tuple(sorted({episode.instruction for episode in self.episodes}))

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of what the dataset says of itself; another one means other data."""
        digest = hashlib.sha256()
        for file in sorted(self.path.glob("meta/**/*")):
            if file.is_file():
                digest.update(file.read_bytes())
        return digest.hexdigest()[:16]

    def require_cameras(self, cameras: Sequence[str]) -> None:
        """Raises LibraError naming a camera that the dataset lacks."""
        for camera in cameras:
            if camera not in self.cameras:
                raise LibraError(
                    f"camera '{camera}' is missing from {self.path}: it has "
                    f"{', '.join(self.cameras) or 'none'}"
                )

    def frames(
        self, episode: int, camera: str, indices: Sequence[int] | np.ndarray | slice | None = None
    ) -> np.ndarray:
        """Returns frames of an episode, uint8 [n, h, w, 3]: all, or those at `indices`.

        Raises:
            LibraError: unknown camera, or a missing or truncated file.
        """
        self.require_cameras([camera])
        key, entry = IMAGES + camera, self.episodes[episode]
        wanted = np.arange(entry.length)[slice(None) if indices is None else indices]
        if not len(wanted):
            return np.empty((0, *self.camera_shapes[camera], 3), dtype=np.uint8)
        if self._is_video(camera):
            first, last = int(wanted.min()), int(wanted.max())
            start = round(entry.place[f"videos/{key}/from_timestamp"] * self.fps)
            clip = read_video(
                self._video(camera, entry),
                fps=self.fps,
                start=start + first,
                count=last - first + 1,
            )
            return clip if indices is None else clip[wanted - first]
        path = self._file("data_path", entry, "data")
        # The filter lets parquet skip the other episodes' row groups.
        mine = pc.field("episode_index") == entry.index
        rows = read_table(path, [key], rows=mine)[key]
        if len(rows) != entry.length:
            raise LibraError(
                f"{path} holds {len(rows)} images of episode {entry.index}, expected "
                f"{entry.length}: make or copy the dataset again"
            )
        return np.stack([_png(rows[int(i)].as_py(), path) for i in wanted])

    def _is_video(self, camera: str) -> bool:
        return self.features[IMAGES + camera]["dtype"] == "video"

    def _video(self, camera: str, episode: Episode) -> Path:
        key = IMAGES + camera
        return self._file("video_path", episode, f"videos/{key}", video_key=key)

    def _videos(self) -> list[Path]:
        """Every video file, once."""
        cameras = [camera for camera in self.cameras if self._is_video(camera)]
        return list(dict.fromkeys(self._video(c, e) for c in cameras for e in self.episodes))

    def _file(self, template: str, episode: Episode, prefix: str, **names: str) -> Path:
        place = episode.place
        return self.path / self.info[template].format(
            chunk_index=place[f"{prefix}/chunk_index"],
            file_index=place[f"{prefix}/file_index"],
            **names,
        )


def _png(value: dict[str, Any], path: Path) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(value["bytes"])) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, TypeError) as error:
        raise LibraError(f"{path} holds an image that cannot be decoded ({error})") from error


def read_table(
    path: Path,
    columns: Sequence[str] | None = None,
    *,
    rows: pc.Expression | None = None,
    without: str | None = None,
) -> pa.Table:
    """Reads a parquet file: all of it, some columns, some rows, or no columns `without...`.

    Raises:
        LibraError: the file is missing, truncated, or lacks a column.
    """
    try:
        if rows is not None:
            return pq.read_table(path, columns=columns, filters=rows)
        # Three times faster than `pq.read_table` on the small files that our writer makes.
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if missing := set(columns or ()) - set(names):
                raise pa.ArrowInvalid(f"no column {', '.join(sorted(missing))}")
            kept = [n for n in columns or names if without is None or not n.startswith(without)]
            return file.read(kept)
    except FileNotFoundError:
        raise LibraError(f"{path} is missing: make or copy the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LibraError(
            f"{path} is damaged ({reason}): it may be truncated; make or copy the dataset again"
        ) from error


def episode_files(path: Path) -> list[Path]:
    """The files of `meta/episodes`, in order; hidden ones are what a killed writer left."""
    files = (path / "meta" / "episodes").glob("*/*.parquet")
    return sorted(file for file in files if not file.name.startswith("."))


def _read_info(path: Path) -> dict[str, Any]:
    """Reads and checks `meta/info.json`."""
    if not (path / "meta" / "info.json").exists():
        raise LibraError(
            f"{path} is no LeRobot dataset (meta/info.json is missing): give the folder that "
            "`libra collect --out` wrote"
        )
    info = read_json(path / "meta" / "info.json")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != VERSION:
        raise LibraError(
            f"{path} has LeRobot format {version}, expected {VERSION}: convert it with LeRobot's "
            "converter"
        )
    if missing := {"fps", "features", "data_path"} - info.keys():
        raise LibraError(f"{path}/meta/info.json lacks {', '.join(sorted(missing))}")
    for key in (STATE, ACTION):
        if key not in info["features"]:
            raise LibraError(f"{path} has no '{key}': it holds {', '.join(info['features'])}")
    return info


def _read_episodes(path: Path) -> list[Episode]:
    """Reads `meta/episodes`, and checks that the episodes follow one another."""
    rows: list[dict[str, Any]] = []
    for file in episode_files(path):
        # Statistics per episode make up most of these files and are of no use here.
        rows.extend(read_table(file, without="stats/").to_pylist())
    episodes: list[Episode] = []
    start = 0
    try:
        for index, row in enumerate(sorted(rows, key=lambda row: row["episode_index"])):
            if (row["episode_index"], row["dataset_from_index"]) != (index, start):
                raise LibraError(
                    f"{path}: meta/episodes is not whole: expected episode {index} at frame "
                    f"{start}, found episode {row['episode_index']} at frame "
                    f"{row['dataset_from_index']}; make or copy the dataset again"
                )
            episodes.append(Episode(index, start, row["length"], row["tasks"][0], row))
            start += row["length"]
    except (KeyError, IndexError, TypeError) as error:
        raise LibraError(f"{path}: meta/episodes lacks {error}: it is damaged") from error
    return episodes


def _read_numbers(
    path: Path, info: dict[str, Any], episodes: list[Episode], keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """All vectors of each key, float32 [T, n], checked against the episodes' lengths."""
    places = dict.fromkeys(
        (e.place["data/chunk_index"], e.place["data/file_index"]) for e in episodes
    )
    files = [path / info["data_path"].format(chunk_index=c, file_index=f) for c, f in places]
    tables = [read_table(file, [*keys, "index"]) for file in files]
    # Rows beyond the last episode are what a killed writer left.
    frames = sum(e.length for e in episodes)
    table = pa.concat_tables(tables).filter(pc.field("index") < frames).sort_by("index")
    if not np.array_equal(table["index"].to_numpy(), np.arange(frames)):
        raise LibraError(
            f"{path} holds {table.num_rows} frames of data, but its episodes have {frames}: it is "
            "truncated; make or copy the dataset again"
        )
    return {key: _numbers(path, info, table, key, episodes) for key in keys}


def _numbers(
    path: Path, info: dict[str, Any], table: pa.Table, key: str, episodes: list[Episode]
) -> np.ndarray:
    """One column of vectors, float32 [T, n]."""
    size = info["features"][key]["shape"][0]
    lengths = pc.call_function("list_value_length", [table[key]]).to_numpy()
    if not (lengths == size).all():
        row = int(np.argmin(lengths == size))
        raise LibraError(
            f"{path}: '{key}' holds {lengths[row]} numbers at frame {row}, but meta/info.json "
            f"says {size}: the dataset is damaged"
        )
    flat = table[key].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    values = flat.reshape(-1, size).astype(np.float32)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        episode = next(e for e in episodes if row < e.start + e.length)
        raise LibraError(
            f"{path}: '{key}' holds {values[row, column]} in dimension {column} at frame "
            f"{row - episode.start} of episode {episode.index}: remove that episode"
        )
    return values
