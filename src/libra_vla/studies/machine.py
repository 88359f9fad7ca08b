"""What the studies share: cells that are trained and evaluated once, side by side, and resumed."""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig, States
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.evaluation.policies import LoadPolicy, load_policy
from libra_vla.execution.config import Mode
from libra_vla.files import read_json, require_absent, write_json
from libra_vla.simulation.benchmark import Benchmark
from libra_vla.training import TrainConfig, train
from libra_vla.training.config import OptimiserKind, Precision
from libra_vla.versions import versions
from libra_vla.workers import fan_out

SETTINGS, STUDY, REPORT = "settings.json", "study.json", "report.html"


@dataclass(frozen=True)
class StudyOptions:
    """What every study that trains is asked.

    Attributes:
        data: LeRobot v3.0 dataset.
        suite: name of the suite.
        out: folder for `study.json`, `report.html` and one folder per run.
        tasks: indices or names of the tasks to evaluate, such as "0,3"; all by default.
        preset: of the policies.
        seeds: training runs per setting.
        steps: optimiser steps of each run; comparisons are at equal steps, never at equal seconds.
        batch_size: samples per step.
        optimiser: see `libra train`.
        shift: random-shift augmentation; see `libra train`. It hides small objects whose place on
            the picture says where they are.
        precision: of all trainings; see `libra train`.
        episodes: trials per task and run; the same initial states and noise for all of them.
        states: initial states of the trials; sampled by default, since the official ones are for
            final results.
        spread, seed, mode, meshes, image_size, max_steps, device: of the trials; see `libra eval`.
        validation: share of the demonstrations held out, the same ones in every run.
        split: seed of that split.
        workers: processes; each trains and evaluates one run on one core.
    """

    data: Path
    suite: str
    out: Path
    tasks: str | None = None
    preset: str = "tiny"
    seeds: int = 3
    steps: int = 2000
    batch_size: int = 32
    optimiser: OptimiserKind = TrainConfig.optimiser
    shift: float = TrainConfig.shift
    precision: Precision = TrainConfig.precision
    episodes: int = 50
    states: States = "sampled"
    spread: float = 0.0
    seed: int = 1000
    mode: Mode = "sequential"
    meshes: str = "stock"
    image_size: int | None = None
    max_steps: int | None = None
    device: str = "cpu"
    validation: float = 0.1
    split: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "episodes", "batch_size"):
            if getattr(self, name) < 1:
                raise LibraError(f"{name} is {getattr(self, name)}: expected at least 1")
        if not 0.0 < self.validation < 1.0:
            raise LibraError(f"validation is {self.validation}: expected a share, 0 to 1")

    def training(self, name: str, seed: int, steps: int, **options: Any) -> TrainConfig:
        """Returns how a run is trained, in its folder."""
        log_every = max(1, steps // 20)
        settings = {
            "data": self.data,
            "out": self.out / "runs" / name / "policy",
            "preset": self.preset,
            "resume": True,
            "steps": steps,
            "batch_size": self.batch_size,
            "optimiser": self.optimiser,
            "shift": self.shift,
            "precision": self.precision,
            "warmup": min(100, max(1, steps // 5)),
            "validation": self.validation,
            "split": self.split,
            "seed": seed,
            "threads": 1,
            "log_every": log_every,
            "save_every": 2 * log_every,
        }
        return TrainConfig(**settings | options)

    def evaluation(self, name: str) -> EvalConfig:
        """Returns how a run is evaluated, in its folder."""
        folder = self.out / "runs" / name
        return EvalConfig(
            policy=folder / "policy",
            suite=self.suite,
            out=folder / "evaluation",
            tasks=self.tasks,
            episodes=self.episodes,
            mode=self.mode,
            workers=0,
            seed=self.seed,
            states=self.states,
            spread=self.spread,
            resume=True,
            meshes=self.meshes,
            image_size=self.image_size,
            max_steps=self.max_steps,
            device=self.device,
        )


@dataclass(frozen=True)
class Tools:
    """What a run is made with; tests put in others. Functions of modules: workers find them."""

    benchmark: Benchmark | None = None
    load_policy: LoadPolicy = load_policy
    train: Callable[..., dict[str, Any]] = train


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluation, if it has one.

    Attributes:
        name: of its folder under `runs/`.
        factors: what sets it apart, as JSON values.
        train, evaluation: how.
        tools: with what.
        reuse: folders of studies that may have made the same run.
    """

    name: str
    factors: Mapping[str, Any]
    train: TrainConfig
    evaluation: EvalConfig | None
    tools: Tools = Tools()
    reuse: tuple[Path, ...] = ()

    @property
    def folder(self) -> Path:
        return self.train.out.parent

    @property
    def record(self) -> dict[str, Any] | None:
        """What the cell wrote when it was done."""
        path = self.folder / "cell.json"
        return read_json(path) if path.exists() else None

    @property
    def identity(self) -> str:
        """Hash of the data and of all settings that decide what comes out; not of the code."""
        decisive = {
            "dataset": LeRobotDataset.open(self.train.data).fingerprint,
            "train": self.train.decisive,
            "evaluation": self.evaluation and self.evaluation.decisive,
        }
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def twin(self) -> dict[str, Any] | None:
        """The record of the same run in another study."""
        for study in self.reuse:
            for path in sorted(study.glob("runs/*/cell.json")):
                if (record := read_json(path)).get("identity") == self.identity:
                    return record | {"taken_from": record.get("taken_from", str(path.parent))}
        return None


def run_cell(cell: Cell) -> None:
    """Trains, evaluates and writes `cell.json`; what was begun is continued."""
    if (twin := cell.twin) is not None:
        factors = {"name": cell.name, "factors": dict(cell.factors)}
        write_json(cell.folder / "cell.json", twin | factors)
        return
    with counted(cell.folder / "spent.json"):
        summary = cell.tools.train(cell.train, quiet=True)
        results = None
        if cell.evaluation is not None:
            results = evaluate(
                cell.evaluation,
                benchmark=cell.tools.benchmark,
                load_policy=cell.tools.load_policy,
                on_progress=lambda *_: None,
            )
    record = {
        "name": cell.name,
        "factors": dict(cell.factors),
        "steps": summary["steps"],
        "parameters": summary["parameters"],
        "curriculum_switched_at": summary["curriculum_switched_at"],
        "core_seconds": read_json(cell.folder / "spent.json")["core_seconds"],
        "evaluation": None if results is None else _essence(results),
        "identity": cell.identity,
        "commit": versions()["commit"],
    }
    write_json(cell.folder / "cell.json", record)


def _essence(results: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("episodes", "errors", "successes", "success_rate", "ci95", "protocol", "mode")
    trials = [
        [t["task"], t["trial"], None if t["error"] is not None else bool(t["success"])]
        for t in results["trials"]
    ]
    return {k: results[k] for k in kept} | {"trials": trials}


@contextmanager
def counted(path: Path) -> Iterator[None]:
    """Adds the processor time that the block took to a file, also when it is stopped."""
    began = time.process_time()
    try:
        yield
    finally:
        before = read_json(path)["core_seconds"] if path.exists() else 0.0
        write_json(path, {"core_seconds": round(before + time.process_time() - began, 3)})


def run_cells(
    cells: Sequence[Cell],
    *,
    workers: int,
    quiet: bool = False,
    after: Callable[[], object] = lambda: None,
) -> list[str]:
    """Runs what is missing and returns a line per cell that broke.

    Args:
        workers: processes; 0 runs everything in this one.
        after: called whenever a cell has ended.

    Raises:
        LibraError: a cell cannot run as asked.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    todo = [cell for cell in cells if cell.record is None]
    return work_through(
        run_cell,
        todo,
        [cell.name for cell in todo],
        done=len(cells) - len(todo),
        workers=workers,
        quiet=quiet,
        after=after,
    )


def work_through(
    function: Callable[[Any], Any],
    jobs: Sequence[Any],
    names: Sequence[str],
    *,
    done: int,
    workers: int,
    quiet: bool,
    after: Callable[[], object],
) -> list[str]:
    """Fans jobs out under a progress bar; `done` of them were before. As `run_cells`."""
    outcomes = fan_out(function, jobs, workers=workers)
    total = done + len(jobs)
    bar = tqdm(total=total, initial=done, unit="cell", disable=quiet)
    broken: list[str] = []
    try:
        for outcome in outcomes:
            if outcome.error is not None:
                broken.append(f"{names[outcome.index]}: {outcome.error}")
                print(f"broken: {broken[-1]}", file=sys.stderr)
            done += 1
            bar.update()
            after()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {done} of {total} cells: run the same command to go on"
        ) from None
    finally:
        outcomes.close()
        bar.close()
    return broken


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Makes sure that a folder is new, or holds this very study.

    Raises:
        LibraError: it holds another one, or something else.
    """
    now, path = {k: str(v) for k, v in settings.items()}, out / SETTINGS
    if not path.exists():
        require_absent(out, what="the output folder", remedy="choose another --out")
        write_json(path, now)
    elif (before := read_json(path)) != now:
        changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
        raise LibraError(
            f"{out} holds a study with another {', '.join(changed)}: choose another --out"
        )


def outcomes_of(groups: Sequence[Sequence[Mapping[str, Any]]]) -> np.ndarray:
    """Returns successes as 0 and 1, [settings, seeds, trials]; NaN for a trial that broke.

    Args:
        groups: per setting, the records of its seeds; all have the same trials.
    """
    keys = sorted({(t, i) for g in groups for r in g for t, i, _ in r["evaluation"]["trials"]})
    found = np.full((len(groups), max(map(len, groups)), len(keys)), np.nan)
    for row, records in enumerate(groups):
        for seed, record in enumerate(records):
            for task, trial, success in record["evaluation"]["trials"]:
                if success is not None:
                    found[row, seed, keys.index((task, trial))] = success
    return found


def cost(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns how many runs, optimiser steps, rollouts and core-seconds stand behind a result."""
    records = list(records)
    return {
        "runs": len(records),
        "taken_over": sum("taken_from" in r for r in records),
        "steps": sum(r["steps"] for r in records),
        "rollouts": sum(r["evaluation"]["episodes"] for r in records if r["evaluation"]),
        "core_seconds": round(sum(r["core_seconds"] for r in records), 1),
    }
