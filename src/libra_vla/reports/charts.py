"""Training curves and latencies."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libra_vla.reports.inputs import Arm, Curves
from libra_vla.reports.markup import Markup, percent, significant, tag
from libra_vla.reports.svg import Panel, Scale, line, svg, text

SMOOTH = 0.06
"""Window of the running mean, as a share of the logged lines."""


@dataclass(frozen=True)
class Quantity:
    """One logged number and how it is shown."""

    key: str
    title: str
    y_format: Callable[[float], str]
    log: bool = False
    reference: tuple[float, str] | None = None


QUANTITIES = (
    Quantity("place_error_m", "Planner: how far off things are told, m", "{:g}".format, log=True),
    Quantity(
        "planner_loss_normalised",
        "Planner: cross-entropy ÷ log N",
        "{:g}".format,
        reference=(1.0, "guessing"),
    ),
    Quantity("bin_accuracy", "Planner: bins that are right", percent),
    Quantity("refiner_loss", "Refiner: mean squared error", "{:g}".format, log=True),
)


def training_panels(curves: Sequence[Curves]) -> list[Markup]:
    """One panel per logged quantity that any of the runs has."""
    panels = [panel(quantity, curves) for quantity in QUANTITIES]
    return [p.svg() for p in panels if p is not None]


def series(metrics: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Returns (step, value) of the lines that hold a finite `key`."""
    pairs = [(float(m["step"]), float(m[key])) for m in metrics if m.get(key) is not None]
    return [(x, y) for x, y in pairs if math.isfinite(y)]


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Centred running mean. At the beginning, where curves are steep, the window shrinks so that
    nothing is shifted; at the end it takes what is left, so that no single value is the last word.
    """
    half = max(0, round(len(points) * SMOOTH / 2))
    smooth = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i)
        window = [y for _, y in points[i - reach : i + reach + 1]]
        smooth.append((x, sum(window) / len(window)))
    return smooth


def panel(quantity: Quantity, curves: Sequence[Curves]) -> Panel | None:
    """Draws one quantity of all runs, each labelled at its end."""
    runs = [(run, series(run.metrics, quantity.key)) for run in curves]
    runs = [(run, points) for run, points in runs if points]
    values = [y for _, points in runs for _, y in points if y > 0 or not quantity.log]
    if not values:
        return None
    top = max([*values, quantity.reference[0] if quantity.reference else -math.inf])
    bottom = min(values) if quantity.log else 0.0
    limit = max(points[-1][0] for _, points in runs)
    chart = Panel(
        quantity.title, (0, limit), (bottom * (0.6 if quantity.log else 1.0), top * 1.06),
        "training step", quantity.y_format, quantity.log,
    )  # fmt: skip
    if quantity.reference:
        level, name = quantity.reference
        chart.rule(y=level, class_="reference")
        chart.label(limit, level, name, "tick", "end", dy=15)
    for run, points in runs:
        if run.switched_at is not None:
            chart.rule(x=run.switched_at, class_=f"switch {run.role}")
            chart.label(run.switched_at, chart.y[1], "switch", "tick", "middle", dy=-5)
        chart.line(points, f"raw {run.role}")
        chart.line(running_mean(points), f"smooth {run.role}")
        validation = [
            {**held_out, "step": entry["step"]}
            for entry in run.metrics
            if isinstance(held_out := entry.get("validation"), Mapping)
        ]
        for x, y in series(validation, quantity.key):
            chart.dot(x, min(max(y, chart.y[0]), chart.y[1]), f"validation {run.role}")
    name_runs(chart, runs)
    return chart


def name_runs(chart: Panel, runs: Sequence[tuple[Curves, list[tuple[float, float]]]]) -> None:
    """Writes each run's name above or below the end of its own line, away from the others."""
    ends = sorted(
        ((chart.upward(running_mean(points)[-1][1]), run) for run, points in runs),
        key=lambda pair: pair[0],
    )
    at = -math.inf
    for index, (end, run) in enumerate(ends):
        below = index > 0
        at = max(at + 15, end + 20 if below else end - 10)
        at = min(at, chart.height - chart.BOTTOM - 5) if index == len(ends) - 1 else at
        x = chart.width - chart.RIGHT - 2
        chart.marks.append(text(x, at, run.name, f"run {run.role} halo", "end"))


LATENCIES = (
    ("plan", "Plan", "once per plan", "planner"),
    ("refine", "Refine", "once per chunk", "refiner"),
    ("control", "Control step", "every action", "plain"),
)
PERCENTILES = (("p50", 5.5), ("p95", 4.5), ("p99", 3.5))


def latency_chart(arm: Arm, period_ms: float | None) -> Markup | None:
    """Dots for p50, p95 and p99 on a logarithmic axis; None when nothing was measured."""
    rows = []
    for key, name, often, role in LATENCIES:
        found = arm.latency_ms.get(key) or {}
        values = {p: float(v) for p, _ in PERCENTILES if (v := found.get(p)) is not None}
        rows.append((name, often, role, {p: v for p, v in values.items() if 0 < v < math.inf}))
    everything = [v for *_, values in rows for v in values.values()]
    if not everything:
        return None
    left, right, pitch, top = 104.0, 540.0, 46.0, 52.0
    reach = [*everything, *([period_ms] if period_ms else [])]
    x = Scale(min(reach) / 1.6, max(reach) * 1.6, left, right, log=True)
    bottom = top + pitch * len(rows)
    marks: list[Markup] = []
    for value in x.ticks():
        marks.append(line(x(value), top, x(value), bottom, "grid"))
        marks.append(text(x(value), bottom + 18, f"{value:,g}", "tick", "middle"))
    marks.append(text(right, bottom + 36, "milliseconds, logarithmic", "tick", "end"))
    if period_ms:
        marks.append(line(x(period_ms), top - 8, x(period_ms), bottom, "reference"))
        label = f"one control step: {significant(period_ms)} ms"
        anchor = "end" if x(period_ms) > (left + right) / 2 else "start"
        marks.append(text(x(period_ms), top - 15, label, "tick", anchor))
    for column, (key, radius) in zip(COLUMNS, PERCENTILES, strict=True):
        marks.append(tag("circle", cx=column - 37, cy=top - 19, r=radius, class_=f"dot {key}"))
        marks.append(text(column, top - 15, f"{key[1:]}%", "tick", "end"))
    for index, (name, often, role, values) in enumerate(rows):
        marks += latency_row(name, often, role, values, x, top + (index + 0.5) * pitch)
    return svg(720, bottom + 42, marks, label=f"Latency of {arm.name}", class_="latency")


COLUMNS = (600.0, 658.0, 716.0)
"""Where the numbers of p50, p95 and p99 end."""


def latency_row(
    name: str, often: str, role: str, values: Mapping[str, float], x: Scale, y: float
) -> list[Markup]:
    """One row of the latency chart: three dots on a line, and their numbers in columns."""
    marks = [
        text(0, y - 2, name, f"strong {role}-text"),
        text(0, y + 14, often, "tick"),
    ]
    if not values:
        return [*marks, text(COLUMNS[-1], y + 5, "not measured", "tick", "end")]
    ends = [x(v) for v in values.values()]
    marks.append(line(min(ends), y, max(ends), y, f"span {role}"))
    for column, (key, radius) in zip(COLUMNS, PERCENTILES, strict=True):
        value = values.get(key, math.nan)
        if math.isfinite(value):
            dot = tag("circle", cx=x(value), cy=y, r=radius, class_=f"dot {role} {key}")
            marks.append(dot)
        marks.append(text(column, y + 5, significant(value), "figures", "end"))
    return marks
