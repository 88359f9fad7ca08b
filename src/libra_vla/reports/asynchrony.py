"""The page of `libra study asynchrony`: a few plots over the delay, and the whole table."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from libra_vla.files import write_text
from libra_vla.reports.markup import Child, Markup, percent, significant, tag
from libra_vla.reports.report import page
from libra_vla.reports.sections import section
from libra_vla.reports.svg import Panel, text
from libra_vla.reports.timeline import timeline

Row = Mapping[str, Any]
Traces = Mapping[str, Mapping[str, Any]]
ROLES = {"synchronous": "control", "sequential": "baseline", "concurrent": "libra"}

METRICS: tuple[tuple[str, Callable[[Row], float | None], Callable[[float], str]], ...] = (
    ("Success", lambda r: r["success_rate"], percent),
    ("Age of intents, control steps", lambda r: r["age"]["mean"], "{:g}".format),
    (
        "Control steps without motion, per episode",
        lambda r: r["starved_steps"] + r["waited_steps"],
        "{:g}".format,
    ),
    ("Mean jerk, m/s³", lambda r: r["mean_jerk"], "{:g}".format),
    ("Control steps per episode", lambda r: r["steps"], "{:g}".format),
)

COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("mode", lambda r: r["mode"]),
    ("M", lambda r: "–" if r["M"] is None else str(r["M"])),
    ("delay", lambda r: str(r["delay"])),
    ("variant", lambda r: r["variant"]),
    ("success", lambda r: f"{r['successes']}/{r['episodes'] - r['errors']}"),
    ("95%", lambda r: f"{100 * r['ci95'][0]:.0f}–{100 * r['ci95'][1]:.0f}"),
    ("paired", lambda r: _paired(r["paired"])),
    ("induced", lambda r: _induced(r)),
    ("steps", lambda r: _short(r["steps"])),
    ("jerk", lambda r: _short(r["mean_jerk"])),
    ("jump", lambda r: _short(r["boundary_jump"])),
    ("age", lambda r: _short(r["age"]["mean"])),
    ("oldest", lambda r: _short(r["age"]["max"])),
    ("starved", lambda r: _short(r["starved"])),
    ("still", lambda r: _short(r["starved_steps"] + r["waited_steps"])),
    ("kept", lambda r: _short(r["held_steps"])),
    ("re-planned", lambda r: _short(sum(r["replans"].values()))),
)

LETTER = 8.2
"""Width of a bold letter, about."""

LEGEND = (
    "Per episode: control steps; mean jerk in m/s³; jump, the acceleration where chunks meet, "
    "relative to that elsewhere; age of the observation behind an action, mean and largest, in "
    "control steps; how often the robot starved; control steps in which it stood still; those on "
    "an intent that was kept; plans that were made again. Paired: success in points against the "
    "synchronous mode without delay, from the same states, with its 95% interval. Induced: of all "
    "failures, those of trials that succeed there."
)


def write_report(out: Path, study: Mapping[str, Any], traces: Traces) -> None:
    """Writes the page, atomically; `traces` are drawn as timelines, under their names."""
    write_text(out, render(study, traces))


def render(study: Mapping[str, Any], traces: Traces) -> str:
    """Returns the page of a study."""
    rows: Sequence[Row] = study["cells"]
    return page("Asynchrony", hero(study), plots(rows), timelines(traces), table(rows))


def timelines(traces: Traces) -> Markup | None:
    """The beginning of one episode per mode."""
    if not traces:
        return None
    drawn = [timeline(arrays, steps=60, title=name) for name, arrays in traces.items()]
    return section(
        "timelines",
        "The two systems over time",
        tag(
            "p",
            "When the planner was at work, from its observation to the arrival of its plan; what "
            "the refiner made of it, chunk by chunk; and how old the observation behind each "
            "action was. From the first recorded episode of each mode.",
        ),
        [tag("div", picture, class_="wide") for picture in drawn],
    )


def hero(study: Mapping[str, Any]) -> Markup:
    """What was asked, and how many cells have an answer."""
    policy = study["policy"]
    lead = (
        f"{study['suite']}, preset {policy['preset']}, H = {policy['H']}, trained with "
        f"M = {policy['M']}. The world goes on while the planner works: in line, the robot stands "
        "still for it; beside the control loop, it acts on older intents."
    )
    return tag(
        "header",
        tag("p", f"{len(study['cells'])} evaluations, paired", class_="eyebrow"),
        tag("h1", "What a late planner costs"),
        tag("p", lead, class_="lead"),
        class_="hero alone",
    )


def plots(rows: Sequence[Row]) -> Markup | None:
    """One panel per metric over the delay: a line per mode, at the largest M that was plain."""
    plain = [r for r in rows if r["variant"] == "plain"]
    factors = [r["M"] for r in plain if r["M"] is not None]
    if not plain:
        return None
    chosen = max(factors, default=None)
    lines = {
        mode: sorted(
            (r for r in plain if r["mode"] == mode and r["M"] in (None, chosen)),
            key=lambda r: r["delay"],
        )
        for mode in ROLES
    }
    panels = [metric_panel(title, value, shown, lines) for title, value, shown in METRICS]
    return section(
        "plots",
        "Over the planner's delay in control steps" + (f", M = {chosen}" if chosen else ""),
        tag("div", [p for p in panels if p is not None], class_="panels"),
    )


def metric_panel(
    title: str,
    value: Callable[[Row], float | None],
    shown: Callable[[float], str],
    lines: Mapping[str, Sequence[Row]],
) -> Markup | None:
    """One metric; the success rate comes with its intervals."""
    points = {
        mode: [(float(r["delay"]), v) for r in rows if (v := value(r)) is not None]
        for mode, rows in lines.items()
    }
    every = [p for line in points.values() for p in line]
    if not every:
        return None
    rate = shown is percent
    top = 1.0 if rate else max(y for _, y in every) * 1.15 or 1.0
    furthest = max(x for x, _ in every) or 1.0
    chart = Panel(title, (-0.06 * furthest, 1.06 * furthest), (0.0, top), "delay", shown)
    named = 0.0
    for index, (mode, line) in enumerate(points.items()):
        aside = (index - 1) * 0.012 * furthest
        chart.line([(x + aside, y) for x, y in line], f"smooth {ROLES[mode]}")
        for row in lines[mode] if rate else ():
            low, high = row["ci95"]
            chart.whisker(row["delay"] + aside, low, high, f"whisker {ROLES[mode]}")
        for x, y in line:
            chart.dot(x + aside, y, f"validation {ROLES[mode]}")
        below = chart.height - chart.BOTTOM + 34
        chart.marks.append(text(named, below, mode, f"run {ROLES[mode]}"))
        named += LETTER * (len(mode) + 1)
    return chart.svg()


def table(rows: Sequence[Row]) -> Markup:
    """Every cell."""
    head = tag("tr", [tag("th", name) for name, _ in COLUMNS])
    body = [tag("tr", [tag("td", cell(r)) for _, cell in COLUMNS]) for r in rows]
    grid: Child = tag("table", tag("thead", head), tag("tbody", body), class_="grid-table")
    return section("table", "Every cell", tag("p", LEGEND), tag("div", grid, class_="wide"))


def _paired(found: Mapping[str, Any] | None) -> str:
    if found is None or found["difference"] is None:
        return "–"
    low, high = found["ci95"]
    return f"{100 * found['difference']:+.0f} [{100 * low:+.0f}, {100 * high:+.0f}]"


def _induced(row: Row) -> str:
    failed = row["episodes"] - row["errors"] - row["successes"]
    return "–" if row["paired"] is None else f"{row['paired']['worse']}/{failed}"


def _short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return "0" if value == 0 else significant(value)
