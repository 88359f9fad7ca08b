"""`libra data merge`: several LeRobot v3.0 datasets as one, without decoding a frame."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from libra_vla.data.lerobot import EXTRAS, LeRobotDataset, episode_files, read_table
from libra_vla.data.statistics import merge_statistics
from libra_vla.data.writer import (
    CHUNK,
    DATA_PATH,
    EPISODE_PATH,
    TASKS_PATH,
    VIDEO_PATH,
    file_place,
    write_tasks,
)
from libra_vla.errors import LibraError
from libra_vla.files import atomic_folder, read_json, require_absent, write_json


def merge(paths: Sequence[Path], out: Path) -> dict[str, Any]:
    """Writes a dataset with the episodes of several, in the order given, and returns a summary.

    Files are copied and renumbered; the result is there as a whole or not at all. Where each
    episode comes from is kept in the metadata's `parts`.

    Raises:
        LibraError: a part is no whole dataset, is given twice or does not fit the first one (the
            differences are named), the output exists, or the disk is full.
    """
    require_absent(out, what="the dataset", remedy="choose another --out")
    if len(paths) < 2:
        raise LibraError("libra data merge needs at least two datasets")
    parts = [LeRobotDataset.open(path) for path in paths]
    for part in parts[1:]:
        if differing := _differences(parts[0], part):
            raise LibraError(f"{part.path} does not fit {parts[0].path}: {'; '.join(differing)}")
    known: dict[str, Path] = {}
    for part in parts:
        if (twin := known.setdefault(part.fingerprint, part.path)) is not part.path:
            raise LibraError(f"{part.path} and {twin} are the same dataset: give each one once")
    with atomic_folder(out) as aside:
        whole = _Whole(aside)
        for part in tqdm(parts, desc="merge", unit="dataset"):
            whole.add(part)
        whole.finish(parts)
    return {
        "out": str(out),
        "datasets": len(parts),
        "episodes": whole.episodes,
        "frames": whole.frames,
        "instructions": len(whole.instructions),
    }


def _differences(one: LeRobotDataset, other: LeRobotDataset) -> list[str]:
    """One phrase for each thing in which `other` cannot be merged with `one`."""

    def described(dataset: LeRobotDataset) -> Iterator[tuple[str, Any]]:
        yield "fps", dataset.fps
        yield "robot_type", dataset.info.get("robot_type")
        yield "cameras", list(dataset.cameras)
        for name, feature in dataset.features.items():
            for key in ("dtype", "shape", "names"):
                yield f"{key} of {name}", feature.get(key)

    mine, theirs = dict(described(one)), dict(described(other))
    if mine["cameras"] != theirs["cameras"]:  # what else differs follows from that
        mine, theirs = ({"cameras": d["cameras"]} for d in (mine, theirs))
    found = [
        f"{what} is {theirs.get(what)!r} instead of {mine.get(what)!r}"
        for what in dict.fromkeys([*mine, *theirs])
        if mine.get(what) != theirs.get(what)
    ]
    if one.convention and other.convention:
        return found + [f"its {d}" for d in one.convention.differences(other.convention)]
    if one.convention or other.convention:
        silent = other if one.convention else one
        found.append(f"{silent.path}/{EXTRAS} does not say what its actions mean")
    return found


@dataclass
class _Whole:
    """The dataset that is being put together.

    Attributes:
        path: folder.
        instructions: by task index.
        tables: rows of `meta/episodes`, one table per part.
        files: how many were written, by prefix ("data", "videos/<key>").
        origins: what the metadata says of each part.
    """

    path: Path
    instructions: list[str] = field(default_factory=list)
    tables: list[pa.Table] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    origins: list[dict[str, Any]] = field(default_factory=list)
    episodes: int = 0
    frames: int = 0

    def add(self, part: LeRobotDataset) -> None:
        """Copies a part's files, and renumbers what refers to them."""
        rows = pa.concat_tables(
            [read_table(file) for file in episode_files(part.path)], promote_options="permissive"
        ).sort_by("episode_index")
        rows = rows.slice(0, len(part.episodes))  # a part may be growing meanwhile
        tasks = self._tasks(part)
        rows, copies = self._move(rows, "data", part, "data_path")
        for source, target in copies:
            self._copy_data(source, target, tasks, len(part.states))
        for key in (k for k, f in part.features.items() if f["dtype"] == "video"):
            rows, copies = self._move(rows, f"videos/{key}", part, "video_path", video_key=key)
            for source, target in copies:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        rows = _shifted(rows, "episode_index", self.episodes)
        for name in ("dataset_from_index", "dataset_to_index"):
            rows = _shifted(rows, name, self.frames)
        for name in ("chunk_index", "file_index"):
            rows = _replaced(rows, f"meta/episodes/{name}", np.zeros(len(rows), np.int64))
        self.tables.append(rows)
        self.origins += _origins(part, self.episodes)
        self.episodes += len(part.episodes)
        self.frames += len(part.states)

    def finish(self, parts: Sequence[LeRobotDataset]) -> None:
        """Writes everything under `meta`."""
        meta = self.path / "meta"
        file = self.path / EPISODE_PATH.format(**file_place(0))
        file.parent.mkdir(parents=True)
        pq.write_table(pa.concat_tables(self.tables, promote_options="permissive"), file)
        write_tasks(self.path / TASKS_PATH, self.instructions)
        paths = [part.path / "meta" / "stats.json" for part in parts]
        if all(path.exists() for path in paths):
            write_json(meta / "stats.json", merge_statistics([read_json(path) for path in paths]))
        extras: dict[str, Any] = {"metadata": {"parts": self.origins}}
        if (convention := parts[0].convention) is not None:
            extras["convention"] = convention.to_json()
        write_json(self.path / EXTRAS, extras)
        totals = {
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": len(self.instructions),
            "chunks_size": CHUNK,
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if parts[0].info.get("video_path") else None,
            "splits": {"train": f"0:{self.episodes}"},
        }
        write_json(meta / "info.json", parts[0].info | totals)

    def _tasks(self, part: LeRobotDataset) -> np.ndarray:
        """The new task index for each one of a part."""
        table = read_table(part.path / TASKS_PATH)
        (words,) = (name for name in table.column_names if name != "task_index")
        renumbered = np.zeros(max(table["task_index"].to_pylist(), default=-1) + 1, np.int64)
        for index, text in zip(
            table["task_index"].to_pylist(), table[words].to_pylist(), strict=True
        ):
            if text not in self.instructions:
                self.instructions.append(text)
            renumbered[index] = self.instructions.index(text)
        return renumbered

    def _move(
        self, rows: pa.Table, prefix: str, part: LeRobotDataset, template: str, **names: str
    ) -> tuple[pa.Table, list[tuple[Path, Path]]]:
        """Gives a part's files new places: the rows that say so, and which file goes where."""
        ours = {"data_path": DATA_PATH, "video_path": VIDEO_PATH}[template]
        columns = [f"{prefix}/{name}" for name in ("chunk_index", "file_index")]
        places = list(zip(*(rows[column].to_pylist() for column in columns), strict=True))
        moved, copies = {}, []
        for chunk, file in dict.fromkeys(places):
            moved[chunk, file] = place = file_place(self.files.get(prefix, 0) + len(moved))
            source = part.info[template].format(chunk_index=chunk, file_index=file, **names)
            copies.append((part.path / source, self.path / ours.format(**place, **names)))
        self.files[prefix] = self.files.get(prefix, 0) + len(moved)
        for name, column in zip(("chunk_index", "file_index"), columns, strict=True):
            rows = _replaced(rows, column, np.array([moved[place][name] for place in places]))
        return rows, copies

    def _copy_data(self, source: Path, target: Path, tasks: np.ndarray, frames: int) -> None:
        """Copies a file of `data`, row group by row group: readers skip those of other episodes."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetFile(source) as file, pq.ParquetWriter(target, file.schema_arrow) as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                # Rows beyond the last episode are what a killed writer left.
                table = table.filter(pc.field("index") < frames)
                task = tasks[table["task_index"].to_numpy()]
                table = _shifted(table, "index", self.frames)
                table = _shifted(table, "episode_index", self.episodes)
                writer.write_table(_replaced(table, "task_index", task))


def _origins(part: LeRobotDataset, start: int) -> list[dict[str, Any]]:
    """What to remember of a part whose first episode becomes number `start`.

    A part that was merged itself is remembered by its own parts.
    """
    if "parts" in part.metadata:
        return [
            origin | {"episodes": [start + index for index in origin["episodes"]]}
            for origin in part.metadata["parts"]
        ]
    return [
        {
            "name": part.path.name,
            "fingerprint": part.fingerprint,
            "episodes": [start, start + len(part.episodes)],
            "metadata": part.metadata,
        }
    ]


def _replaced(table: pa.Table, name: str, values: np.ndarray) -> pa.Table:
    index = table.schema.get_field_index(name)
    kept = table.schema.field(index)
    return table.set_column(index, kept, pa.array(values, type=kept.type))


def _shifted(table: pa.Table, name: str, by: int) -> pa.Table:
    return _replaced(table, name, table[name].to_numpy() + by)
