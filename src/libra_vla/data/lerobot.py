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
import pyarrow.parquet as pq
from PIL import Image

from libra_vla.action_space import ActionConvention
from libra_vla.data.video import read_video
from libra_vla.errors import LibraError
from libra_vla.files import read_json

VERSION = "v3.0"
IMAGES = "observation.images."
STATE, ACTION = "observation.state", "action"
EXTRAS = "meta/libra_vla.json"
"""What LeRobot has no place for: the action convention, and how the data were made."""


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
    """

    path: Path
    info: dict[str, Any]
    episodes: tuple[Episode, ...]
    states: np.ndarray
    actions: np.ndarray
    convention: ActionConvention | None
    metadata: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "LeRobotDataset":
        """Opens a dataset and checks that it is whole.

        Raises:
            LibraError: no dataset, another version, empty, truncated, NaN or infinity.
        """
        path = Path(path)
        if not (path / "meta" / "info.json").exists():
            raise LibraError(
                f"{path} is no LeRobot dataset (meta/info.json is missing): give the folder that "
                "`libra collect --out` wrote"
            )
        info = read_json(path / "meta" / "info.json")
        if (version := info.get("codebase_version")) != VERSION:
            raise LibraError(
                f"{path} has LeRobot format {version}, expected {VERSION}: convert it with "
                "LeRobot's converter"
            )
        for key in (STATE, ACTION):
            if key not in info.get("features", {}):
                raise LibraError(
                    f"{path} has no '{key}': it holds {', '.join(info.get('features', {}))}"
                )
        episodes = _read_episodes(path)
        if not episodes:
            raise LibraError(f"{path} is empty: it holds no episodes; collect some first")
        states, actions = _read_numbers(path, info, episodes)
        extras = read_json(path / EXTRAS) if (path / EXTRAS).exists() else {}
        convention = extras.get("convention")
        return cls(
            path=path,
            info=info,
            episodes=tuple(episodes),
            states=states,
            actions=actions,
            convention=ActionConvention.from_json(convention) if convention else None,
            metadata=extras.get("metadata", {}),
        )

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

    def frames(self, episode: int, camera: str) -> np.ndarray:
        """Returns all frames of an episode, uint8 [length, h, w, 3].

        Raises:
            LibraError: unknown camera, or a missing or truncated file.
        """
        self.require_cameras([camera])
        key, entry = IMAGES + camera, self.episodes[episode]
        if self.features[key]["dtype"] == "video":
            frames = read_video(
                self._file("video_path", entry, f"videos/{key}", video_key=key),
                fps=self.fps,
                start=round(entry.place[f"videos/{key}/from_timestamp"] * self.fps),
                count=entry.length,
            )
        else:
            table = _read_table(self._file("data_path", entry, "data"), [key, "episode_index"])
            mine = table.filter(pa.compute.field("episode_index") == entry.index)
            frames = np.stack([_png(value) for value in mine[key].to_pylist()])
        return frames

    def _file(self, template: str, episode: Episode, prefix: str, **names: str) -> Path:
        place = episode.place
        return self.path / self.info[template].format(
            chunk_index=place[f"{prefix}/chunk_index"],
            file_index=place[f"{prefix}/file_index"],
            **names,
        )


def _png(value: dict[str, Any]) -> np.ndarray:
    with Image.open(io.BytesIO(value["bytes"])) as image:
        return np.asarray(image.convert("RGB"))


def _read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except FileNotFoundError:
        raise LibraError(f"{path} is missing: make or copy the dataset again") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise LibraError(
            f"{path} is damaged ({reason}): it may be truncated; make or copy the dataset again"
        ) from error


def _read_episodes(path: Path) -> list[Episode]:
    rows: list[dict[str, Any]] = []
    for file in sorted((path / "meta" / "episodes").glob("*/*.parquet")):
        table = _read_table(file)
        # Statistics per episode make up most of these files and are of no use here.
        kept = [name for name in table.column_names if not name.startswith("stats/")]
        rows.extend(table.select(kept).to_pylist())
    return [
        Episode(
            index=row["episode_index"],
            start=row["dataset_from_index"],
            length=row["length"],
            instruction=row["tasks"][0],
            place=row,
        )
        for row in sorted(rows, key=lambda row: row["episode_index"])
    ]


def _read_numbers(
    path: Path, info: dict[str, Any], episodes: list[Episode]
) -> tuple[np.ndarray, np.ndarray]:
    """All states [T, S] and actions [T, D], checked against the episodes' lengths."""
    places = dict.fromkeys(
        (e.place["data/chunk_index"], e.place["data/file_index"]) for e in episodes
    )
    files = [path / info["data_path"].format(chunk_index=c, file_index=f) for c, f in places]
    tables = [_read_table(file, [STATE, ACTION, "index"]) for file in files]
    table = pa.concat_tables(tables).sort_by("index")
    frames = sum(e.length for e in episodes)
    # Rows beyond the last episode are what a killed writer left; LeRobot ignores them too.
    wanted = np.concatenate([np.arange(e.start, e.start + e.length) for e in episodes])
    if not np.isin(wanted, table["index"].to_numpy()).all():
        raise LibraError(
            f"{path} holds {table.num_rows} frames of data, but its episodes have {frames}: it is "
            "truncated; make or copy the dataset again"
        )
    table = table.filter(pa.array(np.isin(table["index"].to_numpy(), wanted)))
    numbers = []
    for key in (STATE, ACTION):
        flat = table[key].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(frames, -1).astype(np.float32)
        if not np.isfinite(values).all():
            row, column = np.argwhere(~np.isfinite(values))[0]
            episode = next(e for e in episodes if e.start <= row < e.start + e.length)
            raise LibraError(
                f"{path}: '{key}' holds {values[row, column]} in dimension {column} at frame "
                f"{row - episode.start} of episode {episode.index}: remove that episode"
            )
        numbers.append(values)
    return numbers[0], numbers[1]
