"""The record of a collection, kept beside the dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libra_vla.collection.config import CollectConfig
from libra_vla.config import defaults_of
from libra_vla.data.writer import DatasetWriter
from libra_vla.errors import LibraError
from libra_vla.files import read_json, write_json
from libra_vla.simulation.benchmark import Task


@dataclass
class Progress:
    """Which attempts were made, and which of them succeeded; kept beside the dataset.

    Attributes:
        path: file.
        tasks: those asked for; `attempts` may hold others, of an earlier run.
        settings: what must not change when a collection is resumed.
        attempts: task index -> attempt -> success.
    """

    path: Path
    tasks: list[Task]
    settings: dict[str, Any]
    attempts: dict[int, dict[int, bool]]

    @classmethod
    def load(cls, config: CollectConfig, settings: dict[str, Any], tasks: list[Task]) -> "Progress":
        """Reads the record of a dataset that is resumed.

        Raises:
            LibraError: it was collected with other settings, which are named.
        """
        path = config.out / "attempts.json"
        attempts: dict[int, dict[int, bool]] = {task.index: {} for task in tasks}
        if config.resume and path.exists():
            record = read_json(path)
            before = defaults_of(CollectConfig) | record["settings"]
            if differing := [k for k in settings if before.get(k) != settings[k]]:
                was = ", ".join(f"{k} was {before.get(k)!r}" for k in differing)
                raise LibraError(f"cannot resume {config.out}: {was}; use the same settings")
            for task, tried in record["attempts"].items():
                attempts.setdefault(int(task), {}).update({int(n): s for n, s in tried.items()})
        return cls(path, tasks, settings, attempts)

    def count(self, writer: DatasetWriter) -> None:
        """Makes the record agree with the dataset, whatever was written last before a kill.

        Raises:
            LibraError: the dataset was not made by `libra collect`.
        """
        if writer.rows and not self.path.exists():
            raise LibraError(f"{writer.path} was not made by `libra collect`: choose another --out")
        for row in writer.rows:
            self.attempts.setdefault(row["task"], {})[row["attempt"]] = True

    def add(self, task: Task, number: int, success: bool) -> None:
        self.attempts[task.index][number] = success
        self.save()

    def save(self) -> None:
        write_json(self.path, {"settings": self.settings, "attempts": self.attempts})

    def successes(self, task: Task) -> int:
        return sum(self.attempts[task.index].values())

    def failures(self, task: Task) -> int:
        return len(self.attempts[task.index]) - self.successes(task)

    def summary(self) -> dict[str, dict[str, int]]:
        """Attempts and failures by task index, for the dataset's metadata."""
        return {
            str(task): {"made": len(tried), "failed": len(tried) - sum(tried.values())}
            for task, tried in sorted(self.attempts.items())
        }
