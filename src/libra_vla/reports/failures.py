"""How a policy fails and whether it listens: classes, task by task, with stills of each class."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.data.video import read_video
from libra_vla.evaluation.failures import CLASSES
from libra_vla.evaluation.video import episode_files
from libra_vla.reports.inputs import Rate, Report, Strip
from libra_vla.reports.markup import Markup, image_uri, percent, significant, tag
from libra_vla.reports.sections import caption, section
from libra_vla.reports.success import arm_row, axis_row, interval

STILLS = 8
"""Frames in a strip."""
SIDE = 160
"""Pixels that a still is wide, about."""

MEANINGS = {
    "semantic": "the wrong object, or the right one taken to a wrong place",
    "actuation": "the right ones, but the grasp, the motion or the placement failed",
    "asynchrony-induced": "the same state and seed succeed in synchronous mode without delay",
    "other": "the hand stayed away from everything that matters, or nothing can be told",
}

Row = Mapping[str, Any]
COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("success", lambda r: f"{(rate := _rate(r)).successes}/{rate.trials}"),
    ("95%", lambda r: interval(_rate(r))),
    *((name, lambda r, name=name: _count(r["failures"].get(name))) for name in CLASSES),
    ("phases", lambda r: ", ".join(f"{name} {n}" for name, n in r["failure_phases"].items())),
    ("jerk", lambda r: _short(r["smoothness"]["mean_jerk"])),
    ("curvature", lambda r: _short(r["smoothness"]["curvature"])),
    ("jump", lambda r: _jump(r["smoothness"])),
    ("SPARC", lambda r: _signed(r["smoothness"]["sparc"])),
)

LEGEND = (
    "Episodes of each class, and how far actuation failures came. Of the motion that was executed: "
    "mean jerk in m/s³; curvature in rad/m; jump, the acceleration where chunks meet, relative to "
    "that elsewhere; spectral arc length, about −1.4 for one smooth reach and lower the more stops "
    "there are."
)


def failures(report: Report) -> Markup | None:
    """Classes of failure and smoothness, task by task, and what each class looks like."""
    results = report.results
    if "failure_phases" not in results:
        return None
    counts: Mapping[str, int] = results["failures"]
    meant = [
        [tag("dt", f"{name}: {count}"), tag("dd", MEANINGS[name])] for name, count in counts.items()
    ]
    rows = [(task["instruction"], task) for task in results["tasks"]]
    if len(rows) > 1:
        rows.append(("all tasks", results))
    shown = [c for c in COLUMNS if c[0] != "asynchrony-induced" or c[0] in counts]
    head = tag("tr", tag("th", "task"), [tag("th", name) for name, _ in shown])
    body = [
        tag("tr", tag("td", name, class_="quote"), [tag("td", cell(row)) for _, cell in shown])
        for name, row in rows
    ]
    unseen = [
        name for name, n in counts.items() if n and name not in {s.kind for s in report.strips}
    ]
    return section(
        "failures",
        "How it fails, and how it moves",
        tag("dl", meant),
        tag(
            "figure",
            tag("div", tag("table", tag("thead", head), tag("tbody", body), class_="grid-table"),
                class_="wide"),
            caption(LEGEND),
        ),
        [strip_figure(strip) for strip in report.strips],
        tag("p", f"No film of {', '.join(unseen)}: libra eval --videos failures records them.",
            class_="soft") if unseen else None,
    )  # fmt: skip


def strip_figure(strip: Strip) -> Markup:
    """One failed episode, still by still."""
    every = max(1, strip.frames.shape[2] // SIDE)
    film = image_uri(np.concatenate(list(strip.frames[:, ::every, ::every]), axis=1), 80)
    phase = f", {strip.phase}" if strip.phase else ""
    tries = {None: "", 0: " The fingers were never told to close.", 1: " The fingers closed once."}
    closings = tries.get(strip.closings, f" The fingers closed {strip.closings} times.")
    return tag(
        "figure",
        tag("div", tag("img", src=film, alt=f"stills of a failure: {strip.kind}", class_="strip"),
            class_="wide"),
        caption(
            tag("b", f"{strip.kind.capitalize()}{phase}. "),
            tag("span", f"“{strip.instruction}”", class_="quote"),
            f" Trial {strip.trial}: {len(strip.frames)} moments from control step "
            f"{strip.steps[0]} to {strip.steps[-1]}, evenly along the hand's way.{closings}",
        ),
    )  # fmt: skip


def load_strips(folder: Path, results: Mapping[str, Any]) -> tuple[Strip, ...]:
    """Returns stills of the first recorded failure of each class.

    Args:
        folder: of an evaluation, with `videos/` and `traces/`.
        results: its `results.json`.
    """
    instructions = {task["index"]: task["instruction"] for task in results["tasks"]}
    found: dict[str, Strip] = {}
    for trial in results["trials"]:
        kind, (film, trace) = trial["failure"], episode_files(folder, trial["task"], trial["trial"])
        if kind is None or kind in found or not (film.exists() and trace.exists()):
            continue
        frames, steps = _stills(film, trace)
        found[kind] = Strip(
            kind,
            trial["phase"],
            trial.get("closings"),
            instructions[trial["task"]],
            trial["trial"],
            frames,
            steps,
        )
    return tuple(found[kind] for kind in CLASSES if kind in found)


def _stills(film: Path, trace: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frames [K, h, w, 3] that are evenly spaced along the hand's way, and their control steps."""
    frames = read_video(film, fps=1.0)
    with np.load(trace, allow_pickle=False) as arrays:
        way = np.linalg.norm(np.diff(arrays["positions"], axis=0), axis=1)
        moments = np.append(arrays["step"], len(way))[: len(frames)]
    along = np.concatenate([[0.0], np.cumsum(way)])[moments]
    wanted = np.linspace(0.0, along[-1], STILLS)
    kept = np.unique(abs(along[:, None] - wanted).argmin(axis=0))
    return frames[kept], moments[kept]


READING = (
    ("told", "Did what it was told", "the goal of the instruction that it was given", "libra"),
    ("own", "Did its scene's own task", "as if it had not listened", "control"),
    ("neither", "Did neither", "within the step budget", "control"),
)


def reading(report: Report) -> Markup | None:
    """What the policy did that was given another task's instruction."""
    found = report.results.get("reading")
    if found is None or not found["evaluated"]:
        return None
    rates = [(name, why, Rate(found[key]["count"], found["evaluated"]), role)
             for key, name, why, role in READING]  # fmt: skip
    return section(
        "reading",
        "Whether it listens",
        tag(
            "p",
            "Each scene stayed as it is, and the policy was given the instruction of another task "
            "that can be done there. A policy that goes by the scene alone does the scene's own "
            f"task; this one did what it was told in {percent(rates[0][2].rate)} of "
            f"{found['evaluated']} episodes.",
        ),
        tag("div", [arm_row(*rate, 0) for rate in rates], axis_row(), class_="arms"),
    )


def _rate(row: Row) -> Rate:
    """Success of one task, or of all of them, at what the policy was told."""
    if "swapped" in row:
        goal = row["swapped"]["other_goal"]
        return Rate(goal["reached"], goal["evaluated"])
    if "reading" in row:
        return Rate(row["reading"]["told"]["count"], row["reading"]["evaluated"])
    return Rate.from_results(row)


def _count(value: int | None) -> str:
    return str(value) if value else "–"


def _short(value: float | None) -> str:
    return "–" if value is None else significant(value)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"−{significant(-value)}"


def _jump(smooth: Mapping[str, float | None]) -> str:
    boundary, inside = smooth["boundary_acceleration"], smooth["inside_acceleration"]
    return _short(boundary / inside if boundary is not None and inside else None)
