"""`libra study granularity`: is success an inverted U in N, and does balance foretell its peak?

First the pre-registration, then short preliminary runs that predict N*, then the sweep that the
predictions are held against. Each of these is written down before the next one begins.
"""

import json
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from libra_vla.config import load_preset
from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.errors import LibraError, unknown
from libra_vla.files import alone_in_out, read_json, write_json
from libra_vla.reports.granularity import write_report
from libra_vla.studies.curve import analyse, compare_placements
from libra_vla.studies.difficulty import LEAST, OBSERVABLES, RECOMMENDED, RULE, observe
from libra_vla.studies.machine import REPORT, STUDY, Cell, StudyOptions, Tools, cost, run_cells
from libra_vla.studies.registration import (
    deviations,
    register,
    registered,
)
from libra_vla.studies.statistics import balance, least, nearest
from libra_vla.versions import versions

Placement = Literal["uniform", "odd", "centred", "gripper"]
PLACEMENTS = {
    "uniform": "N uniform bins in every dimension, as in the paper: an even N has an edge at 0",
    "odd": "as uniform, with one bin more where N is even: a bin in the middle of the range",
    "centred": "as odd, on a range that is symmetric: one bin is centred on the action 0",
    "gripper": "as uniform, with 2 bins for the gripper",
}
PREDICTION = "prediction.json"
SHARE = 0.1
"""Of the sweep's optimiser steps, what the preliminary runs may take."""


@dataclass(frozen=True)
class GranularityConfig(StudyOptions):
    """Success over the granularity N, and the N* that balance predicts.

    Attributes:
        levels: N, ascending.
        placements: of the bins; a factor of its own. The preliminary runs have the first one.
        preliminary_steps: of each preliminary run; by default as many as cost a tenth of the sweep.
        reference: preset of the monolithic policy, which has no intents; by default that of
            `preset`.
        register_only: write the pre-registration and stop.
        predict_only: stop after the preliminary runs; needs no simulator. `steps` and `episodes`
            are those of the sweep that is spared.
        deviation: why this run departs from what was registered.
    """

    levels: tuple[int, ...] = (2, 4, 8, 10, 16, 32, 50, 64, 100)
    placements: tuple[Placement, ...] = ("uniform",)
    preliminary_steps: int | None = None
    reference: str | None = None
    register_only: bool = False
    predict_only: bool = False
    deviation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.levels) < 2 or list(self.levels) != sorted(set(self.levels)):
            raise LibraError(f"levels are {self.levels}: expected two or more, ascending")
        if self.levels[0] < 2:
            raise LibraError(f"levels are {self.levels}: expected at least 2 bins")
        for placement in self.placements:
            if placement not in get_args(Placement):
                raise unknown("placement", placement, get_args(Placement))
        if not self.placements or len(set(self.placements)) < len(self.placements):
            raise LibraError(f"placements are {self.placements}: expected different ones")
        if self.preliminary < 10:
            raise LibraError(
                f"a tenth of this sweep is {self.preliminary} steps per preliminary run: expected "
                "at least 10; raise --steps"
            )
        if self.share > SHARE + 1e-9:
            raise LibraError(
                f"preliminary runs of {self.preliminary} steps cost {self.share:.0%} of the sweep: "
                f"expected at most {SHARE:.0%}; lower --preliminary-steps"
            )

    @property
    def preliminary(self) -> int:
        """Steps of each preliminary run."""
        sweep = len(self.levels) * len(self.placements) * self.steps
        return self.preliminary_steps or int(SHARE * sweep / (len(self.levels) + 1) + 1e-9)

    @property
    def share(self) -> float:
        """Optimiser steps of the preliminary runs, relative to the sweep's."""
        sweep = len(self.levels) * len(self.placements) * self.steps
        return (len(self.levels) + 1) * self.preliminary / sweep

    @property
    def monolith(self) -> str:
        """Preset of the policy without intents."""
        return self.reference or f"{self.preset}-monolithic"


@alone_in_out
def study_granularity(
    config: GranularityConfig, *, tools: Tools | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Registers, predicts and sweeps, as far as it was not done, and returns `study.json`.

    Raises:
        LibraError: the configuration does not fit, there is no pre-registration for runs that
            exist, it was changed, or it announces something else.
        KeyboardInterrupt: stopped; the same command goes on.
    """
    tools = tools or Tools()
    plan = protocol(config)
    if not config.out.exists() or not any(config.out.iterdir()):
        register(config.out, plan)
    record = registered(config.out, plan, deviation=config.deviation)
    if config.register_only:
        return {"registration": record, "prediction": None, "placements": None}
    preliminary = preliminary_cells(config, tools)
    broken = run_cells(preliminary, workers=config.workers, quiet=quiet)
    if broken:
        raise LibraError(f"{len(broken)} preliminary runs broke ({broken[0]}): no N* without them")
    prediction = predict(config, preliminary, record["sha256"])
    if config.predict_only:
        return _write(config, record, prediction, preliminary, [])
    # Read again: what the sweep is held against must not have changed while the hours passed.
    record = registered(config.out, plan)
    sweep = main_cells(config, tools)

    def write() -> dict[str, Any]:
        return _write(config, record, prediction, preliminary, sweep)

    run_cells(sweep, workers=config.workers, quiet=quiet, after=write)
    return write()


def protocol(config: GranularityConfig) -> dict[str, Any]:
    """Returns what is registered: everything that could be chosen to please."""
    free = ("data", "out", "device", "workers", "register_only", "predict_only", "deviation")
    dataset = LeRobotDataset.open(config.data)
    settings = {k: v for k, v in asdict(config).items() if k not in free}
    settings |= {"preliminary_steps": config.preliminary, "reference": config.monolith}
    plan = {
        "study": "granularity",
        "settings": settings,
        "architecture": {p: asdict(load_preset(p)) for p in (config.preset, config.monolith)},
        "dataset": {"fingerprint": dataset.fingerprint, "episodes": len(dataset.episodes)},
        "split": f"{config.validation:.0%} of the episodes, drawn with seed {config.split}, the "
        "same for every run",
        "placements": {p: PLACEMENTS[p] for p in config.placements},
        "preliminary": f"{config.preliminary} steps per level and seed, {config.placements[0]} "
        "bins, refiner on true intents; the monolithic policy once per seed",
        "observables": OBSERVABLES,
        "rule": RULE,
        "recommended": RECOMMENDED,
        "metric": "share of the trials in which the benchmark's own success check holds within "
        "its step budget; every run has the same initial states and noise seeds",
        "analysis": "Per level: Wilson 95% interval over all seeds' trials, and the rate of each "
        "seed. Peak: level with the highest mean, 95% bootstrap over seeds and trials, paired. "
        "Inverted U: two-lines test (Simonsohn 2018) of each run's rate against log N, both lines "
        "at p < 0.05. Regret of each predicted N*: success of the best level minus that of the "
        "level nearest to N* in log N, paired bootstrap. An observable has found the peak if the "
        "two-lines test shows one and its N* lies within the peak's interval.",
    }
    return json.loads(json.dumps(plan))


def placed(placement: Placement, n: int) -> dict[str, Any]:
    """Returns the options of training that place N bins."""
    if placement == "uniform":
        return {"granularity": n, "gripper_bins": n}
    if placement == "gripper":
        return {"granularity": n, "gripper_bins": 2}
    odd = {"granularity": n | 1, "gripper_bins": n | 1}
    return odd if placement == "odd" else odd | {"normalisation": "symmetric"}


def preliminary_cells(config: GranularityConfig, tools: Tools) -> list[Cell]:
    """The runs that predict: each level, and the policy without intents, with each seed."""
    cells = []
    for seed in range(config.seeds):
        for n in (None, *config.levels):
            name = f"preliminary-{'monolith' if n is None else f'N{n}'}-seed{seed}"
            options: dict[str, Any] = (
                {"preset": config.monolith} if n is None else placed(config.placements[0], n)
            )
            train = config.training(
                name, seed, config.preliminary, curriculum="teacher_forcing", **options
            )
            cells.append(Cell(name, {"N": n, "seed": seed}, train, None, tools))
    return cells


def main_cells(config: GranularityConfig, tools: Tools) -> list[Cell]:
    """The sweep; the first seed of everything first, so that a picture appears early."""
    cells = []
    for seed, placement, n in product(range(config.seeds), config.placements, config.levels):
        name = f"{placement}-N{n}-seed{seed}"
        options = placed(placement, n)
        factors = {"placement": placement, "N": n, "bins": options["granularity"], "seed": seed}
        train = config.training(name, seed, config.steps, **options)
        cells.append(Cell(name, factors, train, config.evaluation(name), tools))
    return cells


def predict(config: GranularityConfig, cells: list[Cell], registration: str) -> dict[str, Any]:
    """Returns each observable's N* from the preliminary runs; written once, before the sweep.

    Raises:
        LibraError: the predictions on disk belong to other runs than these.
    """
    metrics = {(c.factors["N"], c.factors["seed"]): _metrics(c.train.out) for c in cells}
    seeds = range(config.seeds)
    observed = {n: [observe(metrics[n, s], metrics[None, s]) for s in seeds] for n in config.levels}
    found: dict[str, Any] = {}
    for name in OBSERVABLES:
        values = np.array([[o[name] for o in observed[n]] for n in config.levels])
        rule = least if name in LEAST else balance
        found[name] = asdict(rule(config.levels, values)) | {
            "rule": rule.__name__,
            "observed": values.tolist(),
        }
        found[name]["level"] = nearest(config.levels, found[name]["n"])
    prediction = {
        "registration": registration,
        "levels": list(config.levels),
        "observables": found,
        "recommended": found[RECOMMENDED]["level"],
        "recommended_by": RECOMMENDED,
        "cost": cost(r for c in cells if (r := c.record)),
        "share_of_steps": config.share,
    }
    prediction = json.loads(json.dumps(prediction))
    path = config.out / PREDICTION
    if not path.exists():
        write_json(path, prediction)
    elif read_json(path) != prediction and not deviations(config.out):
        raise LibraError(
            f"{path} is not what the preliminary runs say: it was changed, or they were"
        )
    return prediction


def _metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _write(
    config: GranularityConfig,
    registration: dict[str, Any],
    prediction: dict[str, Any],
    preliminary: list[Cell],
    sweep: list[Cell],
) -> dict[str, Any]:
    before, done = ([r for c in cells if (r := c.record)] for cells in (preliminary, sweep))
    full = {p: groups for p in config.placements if (groups := _whole_seeds(config, p, done))}
    study = {
        "schema_version": 1,
        "study": "granularity",
        "complete": bool(sweep) and len(done) == len(sweep),
        "registration": registration,
        "deviations": deviations(config.out) + _unasked(registration, before, done, sweep),
        "suite": config.suite,
        "levels": list(config.levels),
        "prediction": prediction,
        "placements": {
            p: analyse(config.levels, groups, prediction["observables"])
            for p, groups in full.items()
        },
        "placement_effect": compare_placements(config.levels, full),
        "cost": {
            "preliminary": cost(before),
            "sweep": cost(done),
        },
        "runs": [{k: v for k, v in r.items() if k != "evaluation"} for r in done],
        "versions": versions(),
    }
    write_json(config.out / STUDY, study)
    write_report(config.out / REPORT, study)
    return study


def _whole_seeds(
    config: GranularityConfig, placement: Placement, done: list[dict[str, Any]]
) -> list[list[dict[str, Any]]] | None:
    """The records of each level, of the seeds that have every level; None before the first one."""
    records = {
        (r["factors"]["N"], r["factors"]["seed"]): r
        for r in done
        if r["factors"]["placement"] == placement
        and r["evaluation"]["episodes"] > r["evaluation"]["errors"]
    }
    seeds = [s for s in range(config.seeds) if all((n, s) in records for n in config.levels)]
    return [[records[n, s] for s in seeds] for n in config.levels] if seeds else None


def _unasked(
    registration: dict[str, Any],
    before: list[dict[str, Any]],
    done: list[dict[str, Any]],
    sweep: list[Cell],
) -> list[dict[str, Any]]:
    """Departures that nobody asked for."""
    found = []
    if (now := versions()["commit"]) != registration["commit"]:
        found.append(f"the code is {now}; it was registered at {registration['commit']}")
    elif now is not None and now.endswith("+"):
        found.append(f"the code has changes that commit {now} does not hold")
    if len(done) < len(sweep):
        found.append(f"{len(sweep) - len(done)} of {len(sweep)} runs of the sweep are missing")
    paid, sweep_paid = (sum(r["core_seconds"] for r in rs) for rs in (before, done))
    if len(done) == len(sweep) and done and paid > SHARE * sweep_paid:
        found.append(
            f"the preliminary runs took {paid / sweep_paid:.0%} of the sweep's core-seconds, with "
            f"{SHARE:.0%} of its steps or fewer: they are short, and start and validation count"
        )
    if errors := sum(r["evaluation"]["errors"] for r in done):
        found.append(f"{errors} trials ended in an error of the program and are in no rate")
    return [{"reason": reason, "changed": {}} for reason in found]
