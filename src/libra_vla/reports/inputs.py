"""What a report is made of: plain records that other rooms fill in."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.evaluation.statistics import wilson
from libra_vla.reports.trace import EpisodeTrace

Role = Literal["libra", "baseline", "control"]


@dataclass(frozen=True)
class Rate:
    """How often something succeeded.

    Attributes:
        successes: how many of `trials`.
        trials: episodes that count; those that ended in an error of the program do not.
        instruction: of the task, where the rate is that of one task.
    """

    successes: int
    trials: int
    instruction: str = ""

    @property
    def rate(self) -> float:
        """Successes per trial; NaN without trials."""
        return self.successes / self.trials if self.trials else math.nan

    @property
    def ci95(self) -> tuple[float, float]:
        """95% Wilson interval, within [0, 1]."""
        return wilson(self.successes, self.trials)

    @classmethod
    def from_results(cls, value: Mapping[str, Any]) -> "Rate":
        """Reads the counts of a `results.json`, or of one entry of its `tasks`.

        A task whose instruction was swapped keeps its own, so that it stays comparable.
        """
        own = value.get("swapped", {}).get("task_instruction", value.get("instruction", ""))
        return cls(value["successes"], value["episodes"] - value["errors"], str(own))


@dataclass(frozen=True)
class Arm:
    """One policy under one condition.

    Attributes:
        name: as it is shown, for instance "Libra".
        explanation: what this arm is, in one phrase.
        total: over all tasks.
        per_task: one rate per task, with its instruction.
        errors: episodes that ended in an error of the program; they are in no rate.
        latency_ms: `plan`, `refine` and `control`, each with p50, p95 and p99.
        role: decides the colour, and what a comparison with Libra means.
        lacks: what a control has to do without, for instance "images".
        obeyed: for a control with a swapped instruction: how often it did what it was told.
    """

    name: str
    explanation: str
    total: Rate
    per_task: tuple[Rate, ...] = ()
    errors: int = 0
    latency_ms: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    role: Role = "libra"
    lacks: str = ""
    obeyed: Rate | None = None

    @classmethod
    def from_results(
        cls, results: Mapping[str, Any], *, name: str, explanation: str, role: Role = "libra",
        lacks: str = "",
    ) -> "Arm":  # fmt: skip
        """Reads a `results.json`.

        Raises:
            LibraError: a field of the contract is missing.
        """
        try:
            swapped = [task["swapped"]["other_goal"] for task in results["tasks"]
                       if "swapped" in task]  # fmt: skip
            reached = sum(goal["reached"] for goal in swapped)
            evaluated = sum(goal["evaluated"] for goal in swapped)
            return cls(
                name=name,
                explanation=explanation,
                total=Rate.from_results(results),
                per_task=tuple(Rate.from_results(task) for task in results["tasks"]),
                errors=results["errors"],
                latency_ms=results["latency_ms"],
                role=role,
                lacks=lacks,
                obeyed=Rate(reached, evaluated) if evaluated else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LibraError(f"the results of '{name}' are damaged ({error!r})") from error


@dataclass(frozen=True)
class ArmGroup:
    """Arms that met the same conditions: the first is the one that the others are compared with.

    Attributes:
        name: for instance "Official initial states".
        explanation: the conditions, in one sentence.
    """

    name: str
    explanation: str
    arms: tuple[Arm, ...]


@dataclass(frozen=True)
class Curves:
    """Training of one policy.

    Attributes:
        name: as it is shown; equal to the name of its arm.
        metrics: lines of its `metrics.jsonl`.
        switched_at: step from which the refiner saw the planner's own predictions, or None.
    """

    name: str
    metrics: Sequence[Mapping[str, Any]]
    switched_at: int | None = None
    role: Role = "libra"

    @classmethod
    def load(
        cls, path: Path, *, name: str, switched_at: int | None = None, role: Role = "libra"
    ) -> "Curves":
        """Reads a `metrics.jsonl`, leaving out a last line that is only half written.

        Raises:
            LibraError: the file cannot be read.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise LibraError(f"cannot read {path} ({error.strerror}): check the path") from error
        metrics: list[Mapping[str, Any]] = []
        for entry in lines:
            try:
                metrics.append(json.loads(entry))
            except json.JSONDecodeError:
                break
        return cls(name, metrics, switched_at, role)


@dataclass(frozen=True)
class Clip:
    """A film of one episode, as an mp4 file."""

    path: Path
    instruction: str
    success: bool


@dataclass(frozen=True)
class Strip:
    """Stills of one failed episode.

    Attributes:
        kind, phase: class of the failure, and how far an actuation failure came.
        closings: how often the robot was told to close its fingers; None where that is not known.
        instruction, trial: of the episode.
        frames: uint8 [K, h, w, 3], upright.
        steps: int [K], the control step of each.
    """

    kind: str
    phase: str | None
    closings: int | None
    instruction: str
    trial: int
    frames: np.ndarray
    steps: np.ndarray


@dataclass(frozen=True)
class Report:
    """Everything on the page; what is left empty is left out of it.

    Attributes:
        title: of the page.
        groups: the first arm of the first group makes the headline.
        curves: training of the policies.
        traces: episodes to be drawn, the most instructive one first.
        clips: films; the first is shown beside the headline.
        strips: stills of failures, one per class.
        results: `results.json` of the headline's arm.
        facts: further lines of "How this was made", for instance demonstrations and seeds.
        commands: what to type to get the same.
    """

    title: str
    groups: tuple[ArmGroup, ...] = ()
    curves: tuple[Curves, ...] = ()
    traces: tuple[EpisodeTrace, ...] = ()
    clips: tuple[Clip, ...] = ()
    strips: tuple[Strip, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()

    @property
    def headline(self) -> Arm | None:
        """The arm that the page is about."""
        return next((arm for group in self.groups for arm in group.arms), None)
