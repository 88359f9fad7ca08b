"""Several policies, trained and evaluated alike: what the tables of the paper have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from libra_vla.config import preset_names
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError, unknown
from libra_vla.files import write_json
from libra_vla.reports.arms import write_report
from libra_vla.studies.curve import compared, pooled
from libra_vla.studies.machine import (
    REPORT,
    SETTINGS,
    STUDY,
    Cell,
    StudyOptions,
    Tools,
    claim,
    cost,
    run_cells,
)
from libra_vla.versions import versions


@dataclass(frozen=True)
class ArmsOptions(StudyOptions):
    """What every study of arms is asked.

    Attributes:
        reuse: folders of other such studies. A run of theirs with the same data, training and
            trials is taken over instead of being made again.
    """

    reuse: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for folder in self.reuse:
            if not (folder / SETTINGS).exists():
                raise LibraError(f"reuse names {folder}: expected the folder of a study")


@dataclass(frozen=True)
class Arm:
    """One row of a table.

    Attributes:
        name: as the table has it.
        what: what sets it apart, in a few words.
        options: of training, in place of the study's.
        paper: the paper's success, average of four LIBERO suites; None where it has none.
    """

    name: str
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    paper: float | None = None


def study_arms(
    name: str,
    question: str,
    config: ArmsOptions,
    arms: Sequence[Arm],
    *,
    tools: Tools | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Runs what is missing and returns what it wrote to `study.json`.

    Args:
        question: title of the page.
        arms: the last one is what the others are compared with.

    Raises:
        LibraError: the configuration does not fit, or the folder holds another study.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    for arm in arms:
        if (preset := arm.options.get("preset", config.preset)) not in preset_names():
            raise unknown("preset", preset, preset_names())
    if len({arm.name for arm in arms}) < len(arms):
        raise LibraError(f"arms are {', '.join(a.name for a in arms)}: expected different ones")
    fingerprint = LeRobotDataset.open(config.data).fingerprint
    free = ("data", "out", "device", "workers", "reuse")
    settings = {k: v for k, v in asdict(config).items() if k not in free}
    claim(config.out, settings | {"study": name, "dataset": fingerprint})
    cells = [
        cell(config, arm, seed, tools or Tools())
        for seed, arm in product(range(config.seeds), arms)
    ]

    def write() -> dict[str, Any]:
        return _write(name, question, config, arms, cells)

    run_cells(cells, workers=config.workers, quiet=quiet, after=write)
    return write()


def cell(config: ArmsOptions, arm: Arm, seed: int, tools: Tools) -> Cell:
    """One run of an arm."""
    folder = f"{arm.name}-seed{seed}".replace(" ", "_")
    options = dict(arm.options)
    train = config.training(folder, seed, options.pop("steps", config.steps), **options)
    factors = {"arm": arm.name, "seed": seed}
    return Cell(folder, factors, train, config.evaluation(folder), tools, config.reuse)


def _write(
    name: str, question: str, config: ArmsOptions, arms: Sequence[Arm], cells: Sequence[Cell]
) -> dict[str, Any]:
    done = [r for c in cells if (r := c.record) is not None]
    groups = {a.name: [r for r in done if r["factors"]["arm"] == a.name] for a in arms}
    against = arms[-1].name
    study = {
        "schema_version": 1,
        "study": name,
        "question": question,
        "complete": len(done) == len(cells),
        "suite": config.suite,
        "settings": {k: str(v) for k, v in asdict(config).items()},
        "reference": against,
        "arms": [
            {
                "name": arm.name,
                "what": arm.what,
                "paper": arm.paper,
                "parameters": groups[arm.name][0]["parameters"] if groups[arm.name] else None,
                "steps": arm.options.get("steps", config.steps),
                **pooled(groups[arm.name]),
                "paired": paired(groups[arm.name], groups[against]),
            }
            for arm in arms
        ],
        "cost": cost(done),
        "versions": versions(),
    }
    write_json(config.out / STUDY, study)
    write_report(config.out / REPORT, study)
    return study


def paired(
    mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Compares two arms over the trials that both have with the same seed of training."""
    a, b = (
        {
            (r["factors"]["seed"], task, trial): success
            for r in records
            for task, trial, success in r["evaluation"]["trials"]
            if success is not None
        }
        for records in (mine, theirs)
    )
    return compared(a, b)
