"""The folder of an evaluation: what it is, and every trial that has ended, one line each."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from libra_vla.errors import LibraError
from libra_vla.evaluation.trial import Trial
from libra_vla.files import (
    clear_disk_errors,
    json_from_text,
    read_json,
    require_absent,
    write_json,
    write_text,
)

IDENTITY, EPISODES = "evaluation.json", "episodes.jsonl"


class Journal:
    """Appends finished trials to `episodes.jsonl`, so that a killed evaluation loses none.

    Trials that ended in an error are kept in the file, but resuming runs them again, and their
    last line counts.

    Args:
        folder: output folder of the evaluation.
        identity: configuration and policy, as flat JSON values; resuming demands the same.
        resume: go on with what is in `folder`, if there is anything.

    Attributes:
        trials: finished trials by (task, trial).

    Raises:
        LibraError: the folder exists and `resume` is not set, holds something else, or was
            written with another configuration or checkpoint.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], *, resume: bool) -> None:
        self._folder, self._file = folder, folder / EPISODES
        self._identity = json.loads(json.dumps(identity))  # as it will be read back
        self.trials: dict[tuple[int, int], Trial] = {}
        if resume and (folder / IDENTITY).exists():
            _require_same(read_json(folder / IDENTITY), self._identity, folder)
            self._read()
        else:
            require_absent(
                folder, what="output folder", remedy="choose another, or resume what is there"
            )

    def append(self, trial: Trial) -> None:
        """Adds a finished trial; once this returns it is on the disk."""
        self.trials[trial.key] = trial
        if not (self._folder / IDENTITY).exists():  # a start that fails at once leaves no folder
            write_json(self._folder / IDENTITY, self._identity)
        with clear_disk_errors(self._file), self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(trial), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        if not self._file.exists():
            return
        text = self._file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            where = f"{self._file}, line {number},"
            try:
                trial = Trial(**json_from_text(line, where=where))
            except TypeError as error:
                raise LibraError(f"{where} is not a trial of this version ({error})") from error
            self.trials[trial.key] = trial
        if whole != text:  # killed while it wrote the last line
            write_text(self._file, whole)


def _require_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    different = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if different:
        raise LibraError(
            f"cannot resume {folder}, {'; '.join(different)}: give the same, or another folder"
        )
