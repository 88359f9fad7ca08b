"""Keeps the outcome of official trials, and prints the tables of docs/results/libero.md from it.

python scripts/official.py record docs/results/official.csv runs/official/evaluations/*
python scripts/official.py tables docs/results/official.csv

`record` takes folders that `libra eval` wrote or is writing, such as those of `libra study suites`,
and adds their trials to what the file has. For another policy begin another file.
"""

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from libra_vla.evaluation.journal import EPISODES, IDENTITY
from libra_vla.evaluation.statistics import paired_difference, rate
from libra_vla.files import json_from_text, read_json, write_text
from libra_vla.simulation.registry import benchmark_of
from libra_vla.studies.suites_stages import PAPER

NAMES = dict(zip(PAPER, ("Spatial", "Object", "Goal", "LIBERO-10"), strict=True))
OFFICIAL = {
    "states": "official", "meshes": "stock", "image_size": 256, "instruction": "own",
    "instruction_from": None, "max_steps": None, "real_time": False, "move_object": None,
    "paraphrase": None,
}  # fmt: skip
"""What an evaluation must have been asked for, to be official but for its number of trials."""


class Outcome(NamedTuple):
    """One line of the record: one trial, whose initial state is the official one of its number.

    `kind` is the policy's ("libra", "monolithic"), `weights` begin its checkpoint's SHA-256, and
    from `seed`, that of the evaluation, the noise of each of its trials follows.
    """

    kind: str
    weights: str
    mode: str
    seed: int
    suite: str
    task: int
    trial: int
    success: bool
    steps: int
    failure: str
    phase: str

    @property
    def run(self) -> tuple[str, str, str, int]:
        """Which policy, and how it was carried out."""
        return self.kind, self.weights, self.mode, self.seed

    @property
    def state(self) -> tuple[str, int, int]:
        """Where it began."""
        return self.suite, self.task, self.trial

    @property
    def error(self) -> str:
        """How it failed."""
        return self.phase or self.failure


def record(file: Path, folders: Iterable[Path]) -> None:
    """Adds the trials in `folders` to `file`, each in place of the same one of before.

    Raises:
        SystemExit: one of them departs from the official protocol, or has errors.
    """
    outcomes = {(o.run, o.state): o for o in (read(file) if file.exists() else ())}
    for folder in folders:
        identity = read_json(folder / IDENTITY)
        for setting, official in OFFICIAL.items():
            if identity[setting] != official:
                raise SystemExit(f"{folder}: {setting} is {identity[setting]!r}, not {official!r}")
        kind, weights = identity["policy kind"], identity["policy checkpoint_hash"][:12]
        mode, seed, suite = (identity[k] for k in ("mode", "seed", "suite"))
        for line in (folder / EPISODES).read_text(encoding="utf-8").splitlines():
            trial = json_from_text(line, where=str(folder))
            outcome = Outcome(
                kind, weights, mode, seed, suite, trial["task"], trial["trial"], trial["success"],
                trial["steps"], trial["failure"] or "", trial["phase"] or "",
            )  # fmt: skip
            outcomes[outcome.run, outcome.state] = outcome
            if trial["error"]:
                raise SystemExit(f"{folder}: {outcome.state} ended in an error: resume it first")
    rows = [Outcome._fields, *(outcomes[key] for key in sorted(outcomes))]
    write_text(file, "".join(",".join(map(str, row)) + "\n" for row in rows))


def read(file: Path) -> list[Outcome]:
    """What `record` wrote."""
    with file.open(newline="", encoding="utf-8") as lines:
        return [
            Outcome(
                row["kind"], row["weights"], row["mode"], int(row["seed"]), row["suite"],
                int(row["task"]), int(row["trial"]), row["success"] == "True", int(row["steps"]),
                row["failure"], row["phase"],
            )
            for row in csv.DictReader(lines)
        ]  # fmt: skip


Run = list[Outcome]


def tables(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Markdown by name: suites beside the paper, tasks, failures, and pairs if there are others.

    The first run (Libra, sequential, with the first seed) is the one of tasks, failures and pairs.
    """
    runs: dict[str, Run] = defaultdict(list)
    for outcome in outcomes:
        kind, _, mode, seed = outcome.run
        runs[f"{kind}, {mode}, seed {seed}"].append(outcome)
    first, *others = runs
    run, beside = runs[first], {name: runs[name] for name in others}
    found = {"suites": suites(runs), "tasks": tasks(run), "failures": failures(run)}
    return found | ({"pairs": pairs(first, run, beside)} if beside else {})


def suites(runs: Mapping[str, Run]) -> str:
    """A row for each run, and the paper's."""
    rows = []
    for name, run in runs.items():
        own = [[o for o in run if o.suite == suite] for suite in PAPER]
        trials = Counter((o.suite, o.task) for o in run).values()
        each = f"{min(trials)} to {max(trials)}" if min(trials) < max(trials) else min(trials)
        shares = [sum(o.success for o in part) / len(part) for part in own if part]
        average = percent(sum(shares) / len(PAPER)) if len(shares) == len(PAPER) else ""
        rows.append((name, each, *map(counted, own), counted(run), average))
    paper = [percent(share) for share in PAPER.values()]
    rows.append(("the paper's", 50, *paper, "", percent(sum(PAPER.values()) / len(PAPER))))
    return table(("", "trials of each task", *NAMES.values(), "all", "average"), rows)


def pairs(first: str, run: Run, others: Mapping[str, Run]) -> str:
    """Each other run beside the first one, on the states that both began from."""
    rows = []
    before = {o.state: o.success for o in run}
    for name, other in others.items():
        both = [(o.success, before[o.state]) for o in other if o.state in before]
        better, worse = both.count((True, False)), both.count((False, True))
        difference, (low, high) = paired_difference(better, worse, len(both))
        points = f"{100 * (difference or 0):+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        rows.append((name, len(both), better, worse, points))
    return table((f"beside {first}", "pairs", "better", "worse", "points"), rows)


def tasks(run: Run) -> str:
    """A row for each task, with how its failures are classed."""
    rows = []
    for suite, name in NAMES.items():
        for task in benchmark_of(suite).tasks(suite):
            own = [o for o in run if (o.suite, o.task) == (suite, task.index)]
            errors = Counter(o.error for o in own if not o.success).most_common()
            how = ", ".join(f"{count} {error}" for error, count in errors)
            rows.append((f"{name} {task.index}", task.instruction, counted(own), how))
    return table(("task", "instruction", "successes", "failures"), rows)


def failures(run: Run) -> str:
    """Suites by class of failure."""
    failed = [o for o in run if not o.success]
    columns = [error for error, _ in Counter(o.error for o in failed).most_common()]
    rows = [
        (name, *(sum(o.error == error for o in failed if o.suite == suite) for error in columns))
        for suite, name in NAMES.items()
    ]
    return table(("failures", *columns), rows)


def counted(run: Run) -> str:
    successes = sum(o.success for o in run)
    share, (low, high) = rate(successes, len(run))
    if share is None:
        return "not run"
    return f"{successes} of {len(run)}: {percent(share)} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def main(command: str, file: str, *folders: str) -> None:
    if command == "record":
        record(Path(file), map(Path, folders))
    else:
        print("\n".join(tables(read(Path(file))).values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
