"""Both systems over time: when the planner worked, what the refiner did with it, how old it was."""

import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.files import write_text
from libra_vla.reports.markup import Markup
from libra_vla.reports.svg import Scale, box, line, path, svg, text

WIDTH, LEFT, RIGHT = 900.0, 124.0, 16.0
PLANS, CHUNKS, AGES = (34.0, 58.0), (70.0, 94.0), (112.0, 190.0)
"""Top and bottom of each row, pixels."""
HEIGHT = 236.0


def timeline(arrays: Mapping[str, Any], *, steps: int | None = None, title: str = "") -> Markup:
    """Draws an episode, or the first `steps` control steps of it.

    Args:
        arrays: of an evaluation's `traces/*.npz`: `step`, `plan_step`, `executed` and `own` of
            each chunk, `plans` [P, 3] (control step of the observation, of the arrival, coarse
            actions kept) and `halts` [K, 3] (control step, how many, whether the robot starved).
    """
    chunks = np.stack([arrays[k] for k in ("step", "executed", "plan_step", "own")], axis=1)
    halts = np.reshape(arrays["halts"], (-1, 3))
    ends = [*(chunks[:, 0] + chunks[:, 1]), *(halts[:, 0] + halts[:, 1])]
    length = min(int(max(ends)), steps or int(max(ends)))
    x = Scale(0, length, LEFT, WIDTH - RIGHT)
    marks = [
        *_rows(x, title),
        *_halts(halts, x, length),
        *_plans(np.reshape(arrays["plans"], (-1, 3)), x, length),
        *_chunks(chunks, x, length),
        *_ages(chunks, x, length),
    ]
    return svg(WIDTH, HEIGHT, marks, label=title or "Planner and refiner over time")


def write_timeline(trace: Path | str, out: Path | str, *, steps: int = 80, title: str = "") -> None:
    """Draws a recorded episode (`traces/*.npz` of an evaluation) into an SVG file of its own.

    Raises:
        LibraError: the trace is damaged, or older than this version.
    """
    try:
        with np.load(trace, allow_pickle=False) as file:
            arrays = dict(file)
        picture = timeline(arrays, steps=steps, title=title)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise LibraError(f"{trace} is not the trace of an episode ({error})") from error
    style = files("libra_vla.reports").joinpath("style.css").read_text(encoding="utf-8")
    head, _, rest = picture.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    write_text(out, f"{head}><style>{style}</style>{rest}\n")


def _rows(x: Scale, title: str) -> list[Markup]:
    names = (
        ("planner", PLANS, "planner-text"),
        ("refiner", CHUNKS, "refiner-text"),
        ("age of intents", AGES, "tick"),
    )
    marks = [text(0, 14, title, "panel-title")]
    for name, (top, bottom), class_ in names:
        marks.append(box(x.start, top, x.end, bottom, "lane"))
        marks.append(text(0, (top + bottom) / 2 + 4, name, f"{class_} strong"))
    for tick in x.ticks(10):
        marks.append(text(x(tick), AGES[1] + 18, f"{tick:g}", "tick", "middle"))
    marks.append(text(x.end, AGES[1] + 36, "control step", "tick", "end"))
    return marks


def _halts(halts: np.ndarray, x: Scale, length: int) -> list[Markup]:
    """Shades the control steps without a chunk's action."""
    marks = []
    for start, count, starved in halts:
        if start < length:
            ends = x(float(start)), x(float(min(start + count, length)))
            marks.append(box(ends[0], CHUNKS[0], ends[1], CHUNKS[1], "halt"))
            word = "no intents" if starved else "waits"
            if ends[1] - ends[0] > 52:
                middle = sum(ends) / 2
                marks.append(text(middle, CHUNKS[1] - 8, word, "tick", "middle"))
    return marks


def _plans(plans: np.ndarray, x: Scale, length: int) -> list[Markup]:
    """A bar from the observation to the arrival of each plan, and a rule where it takes over."""
    marks = []
    for seen, arrived, kept in plans:
        if seen < length:
            ends = x(float(seen)), x(float(min(arrived, length)))
            class_ = "plan-span" if kept else "plan-late"
            width = max(2.0, ends[1] - ends[0] - 1)
            marks.append(box(ends[0], PLANS[0] + 4, ends[0] + width, PLANS[1] - 4, class_, rx=2))
            if kept and arrived <= length:
                marks.append(line(ends[1], PLANS[1] - 4, ends[1], CHUNKS[1], "plan-rule"))
    return marks


def _chunks(chunks: np.ndarray, x: Scale, length: int) -> list[Markup]:
    """A bar per chunk, paler where it went on with a kept intent."""
    marks = []
    for start, executed, _, own in chunks:
        middle, end = start + min(own, executed), start + executed
        for a, b, class_ in ((start, middle, "chunk-span"), (middle, end, "chunk-kept")):
            a, b = min(a, length), min(b, length)
            if a < b:
                ends = x(float(a)) + 0.75, x(float(b)) - 0.75
                marks.append(box(ends[0], CHUNKS[0] + 4, ends[1], CHUNKS[1] - 4, class_, rx=2))
    return marks


def _ages(chunks: np.ndarray, x: Scale, length: int) -> list[Markup]:
    """The age of the observation behind each executed action, a saw's teeth."""
    oldest = int(max(1, (chunks[:, 0] + chunks[:, 1] - chunks[:, 2]).max()))
    y = Scale(0, oldest, AGES[1], AGES[0])
    marks = []
    for age in (0, oldest):
        marks.append(text(x.start - 7, y(age) + (4 if age == 0 else 10), f"{age}", "tick", "end"))
    for start, executed, seen, _ in chunks:
        steps = np.arange(start, min(start + executed, length) + 1)
        points = [(x(float(s)), y(float(min(s - seen, oldest)))) for s in steps]
        marks.append(path(points, "age"))
    return marks
