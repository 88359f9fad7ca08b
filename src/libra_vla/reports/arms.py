"""The page of a table: arms trained and evaluated alike, beside the paper's figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libra_vla.files import write_text
from libra_vla.reports.markup import Markup, percent, tag
from libra_vla.reports.report import page
from libra_vla.reports.sections import section
from libra_vla.reports.svg import Scale, line, svg, text
from libra_vla.reports.tables import header, interval, points, share, spent, table

Study = Mapping[str, Any]


def write_report(out: Path, study: Study) -> None:
    """Writes the page, atomically."""
    write_text(out, render(study))


def render(study: Study) -> str:
    """Returns the page of a study, also of one that is not complete."""
    seeds = max((len(arm["seeds"]) for arm in study["arms"]), default=0)
    settings = study["settings"]
    lead = (
        f"{study['suite']}, preset {settings['preset']}, {seeds} seeds of training, the same "
        "demonstrations, initial states and noise for every arm."
    )
    eyebrow = "complete" if study["complete"] else "not complete"
    return page(
        study["question"],
        header(f"{spent(study['cost'])}; {eyebrow}", study["question"], lead),
        section("success", "Success", tag("figure", chart(study["arms"]), legend(study))),
        section("table", "The table", rows(study)),
    )


LEFT, RIGHT, PITCH, TOP = 190.0, 640.0, 46.0, 30.0


def chart(arms: Sequence[Mapping[str, Any]]) -> Markup:
    """A row per arm: its rate with the interval, its seeds, and the paper's rate."""
    x = Scale(0.0, 1.0, LEFT, RIGHT)
    bottom = TOP + PITCH * len(arms)
    marks: list[Markup] = []
    for value in x.ticks(5):
        marks.append(line(x(value), TOP - 10, x(value), bottom, "grid"))
        marks.append(text(x(value), bottom + 18, percent(value), "tick", "middle"))
    marks.append(text(RIGHT, bottom + 38, "success rate: share of the trials", "tick", "end"))
    for index, arm in enumerate(arms):
        y = TOP + (index + 0.5) * PITCH
        marks.append(text(0, y - 2, arm["name"], "strong"))
        marks.append(text(0, y + 14, arm["what"], "tick"))
        if arm["paper"] is not None:
            at = x(arm["paper"])
            marks.append(line(at, y - 11, at, y + 11, "whisker baseline"))
        if arm["success_rate"] is None:
            continue
        low, high = (x(end) for end in arm["ci95"])
        marks.append(line(low, y, high, y, "whisker libra"))
        for rate in arm["seeds"]:
            if rate is not None:
                marks.append(tag("circle", cx=x(rate), cy=y, r=2.4, class_="validation"))
        at = x(arm["success_rate"])
        marks.append(tag("circle", cx=at, cy=y, r=5, class_="validation libra"))
        marks.append(text(720, y + 5, percent(arm["success_rate"]), "figures", "end"))
    return svg(720, bottom + 44, marks, label="Success of every arm", class_="latency")


def legend(study: Study) -> Markup:
    """What the marks are."""
    paper = " Upright strokes: the paper's averages over four LIBERO suites, of a larger model."
    known = any(arm["paper"] is not None for arm in study["arms"])
    return tag(
        "figcaption",
        "All seeds' trials with Wilson's 95% interval (large dots), and each seed alone (small).",
        paper if known else None,
    )


def rows(study: Study) -> Markup:
    """Every arm in numbers."""
    head = (
        "arm", "success", "95%", "successes", "each seed", f"points against {study['reference']}",
        "steps", "parameters", "paper",
    )  # fmt: skip
    body = [
        (
            arm["name"],
            share(arm["success_rate"]),
            interval(arm["ci95"]),
            f"{arm['successes']}/{arm['trials']}",
            ", ".join(share(rate) for rate in arm["seeds"]),
            "–"
            if arm["name"] == study["reference"]
            else points(arm["paired"]["difference"], arm["paired"]["ci95"]),
            f"{arm['steps']:,}",
            f"{arm['parameters']['total']:,}" if arm["parameters"] else "–",
            share(arm["paper"]),
        )
        for arm in study["arms"]
    ]
    note = (
        "Points: paired by the seed of training, the task and the trial; the interval takes trials "
        "as independent, and is too narrow by what the runs of one seed share."
    )
    return tag("div", table(head, body), tag("p", note, class_="soft"))
