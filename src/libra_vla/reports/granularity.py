"""The page of `libra study granularity`: announcement, curve, and what balance foretold."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libra_vla.files import write_text
from libra_vla.reports.markup import Child, Markup, percent, significant, tag
from libra_vla.reports.report import page
from libra_vla.reports.sections import section
from libra_vla.reports.svg import Panel, box
from libra_vla.reports.tables import header, interval, points, share, spent, table

Study = Mapping[str, Any]
PAPER = {2: 0.790, 10: 0.972, 50: 0.949, 100: 0.939}
"""The paper's success, average of four LIBERO suites (arXiv 2604.24921, granularity table)."""

X_LABEL = "granularity N: bins per action dimension (logarithmic)"
TITLES = {
    "losses": "(a) Ratio of losses",
    "normalised": "(b) Normalised",
    "gradients": "(c) Gradient norms",
    "convergence": "(d) Steps to converge",
    "planner": "(e) Planner alone",
}


def write_report(out: Path, study: Study) -> None:
    """Writes the page, atomically."""
    write_text(out, render(study))


def render(study: Study) -> str:
    """Returns the page of a study, also of one that is not complete."""
    curves = [curve(name, study) for name in study["placements"]]
    return page(
        "Granularity",
        top(study),
        curves,
        placements(study),
        foretold(study),
        registration(study),
    )


def top(study: Study) -> Markup:
    """The outcome in a sentence."""
    prediction = study["prediction"]
    by = prediction["recommended_by"]
    best = prediction["observables"][by]
    low, high = (significant(n) for n in best["interval"])
    foresees = (
        f"{TITLES[by]} foretells N = {significant(best['n'])} [{low}, {high}], where {why(best)}; "
        f"the nearest level is {prediction['recommended']}."
    )
    if not study["placements"]:
        title = f"N = {prediction['recommended']} is recommended"
        return header("Preliminary runs only", title, foresees)
    name, first = next(iter(study["placements"].items()))
    peak, lines = first["peak"], first["two_lines"]
    ends = " to ".join(f"{n:g}" for n in peak["interval"])
    title = (
        f"Success is an inverted U in N, with its peak at {peak['level']}"
        if lines["inverted_u"]
        else "No inverted U was shown"
    )
    lead = (
        f"{study['suite']}, {name} bins: the highest mean is at N = {peak['level']}, the "
        f"bootstrap's 95% interval of the peak reaches from {ends}. {foresees}"
    )
    eyebrow = "complete" if study["complete"] else "not complete"
    return header(f"{spent(study['cost']['sweep'])}; {eyebrow}", title, lead)


def axis(levels: Sequence[int], title: str, y: tuple[float, float], **options: Any) -> Panel:
    """A panel over N."""
    reach = (levels[0] / 1.18, levels[-1] * 1.18)
    options = {"y_format": percent} | options
    return Panel(title, reach, y, X_LABEL, x_log=True, x_ticks=levels, **options)


def curve(name: str, study: Study) -> Markup:
    """Success over N, beside the paper's."""
    found = study["placements"][name]
    rows = found["levels"]
    levels = [row["N"] for row in rows]
    title = "Success rate: share of the trials that succeed"
    chart = axis(levels, title, (0.0, 1.0), width=560, height=330, class_="panel large")
    low, high = (chart.across(n) for n in found["peak"]["interval"])
    span = low - 6, chart.TOP, high + 6, chart.height - chart.BOTTOM
    chart.marks.append(box(*span, "bar libra"))
    foreseen: dict[float, str] = {}
    for key, predicted in study["prediction"]["observables"].items():
        near = (n for n in foreseen if abs(chart.across(n) - chart.across(predicted["n"])) < 16)
        at = next(near, predicted["n"])
        foreseen[at] = " ".join([*foreseen.get(at, "").split(), TITLES[key][1]])
        chart.rule(x=predicted["n"], class_="switch")
    for n, letters in foreseen.items():
        chart.label(n, 1.0, letters, "tick", "middle", dy=-5)
    chart.line([(r["N"], r["success_rate"]) for r in rows], "smooth libra")
    for row in rows:
        below, above = row["ci95"]
        chart.whisker(row["N"], below, above, "whisker libra")
        for rate in row["seeds"]:
            if rate is not None:
                chart.dot(row["N"], rate, "validation", 2.2)
        chart.dot(row["N"], row["success_rate"], "validation libra", 4)
    paper = axis([2, 10, 50, 100], "The paper: LIBERO, four suites", (0.0, 1.0), height=330)
    paper.line(list(PAPER.items()), "smooth baseline")
    for n, rate in PAPER.items():
        paper.dot(n, rate, "validation baseline", 4)
    caption = (
        "Left: all seeds' trials with Wilson's 95% interval (large dots), each seed alone (small "
        "dots), the peak's bootstrap interval (shaded), and the N* that each observable foretold "
        "(dashed). Right: the paper's averages, of another model, other tasks and another budget."
    )
    return section(
        f"curve-{name}",
        f"Success over granularity, {name} bins",
        tag("figure", chart.svg(), paper.svg(), tag("figcaption", caption), class_="pair"),
        verdict(found),
        table(
            ("N", "bins", "success", "95%", "successes", "each seed", "wins the bootstrap"),
            [
                (
                    str(r["N"]), str(r["bins"]), share(r["success_rate"]), interval(r["ci95"]),
                    f"{r['successes']}/{r['trials']}", ", ".join(share(s) for s in r["seeds"]),
                    percent(found["peak"]["shares"][str(r["N"])]),
                )
                for r in rows
            ],
        ),
    )  # fmt: skip


def verdict(found: Mapping[str, Any]) -> Markup:
    """The two-lines test in words."""
    lines = found["two_lines"]
    if lines["breakpoint"] is None:
        return tag("p", "Too few levels for the two-lines test.")
    sides = [
        f"{side} of it the slope is {100 * lines[key]['slope']:+.1f} points per e-fold of N "
        f"({_p(lines[key]['p'])})"
        for side, key in (("left", "left"), ("right", "right"))
    ]
    outcome = "an inverted U" if lines["inverted_u"] else "no inverted U"
    return tag(
        "p",
        f"Two-lines test: {outcome}. The lines part at N = {significant(lines['breakpoint'])}; "
        f"{'; '.join(sides)}. The unit is a training run.",
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def placements(study: Study) -> Markup | None:
    """What the placement of the bins does, apart from their number."""
    effects = study["placement_effect"]
    if not effects:
        return None
    levels = [str(n) for n in study["levels"]]
    rows = [
        (
            name, points(e["difference"], e["ci95"]),
            *(f"{100 * e['by_level'][n]:+.0f}" for n in levels),
        )
        for name, e in effects.items()
    ]  # fmt: skip
    against = next(iter(effects.values()))["against"]
    return section(
        "placements",
        "Placement of the bins",
        tag("p", f"Success in points against {against} bins, over all levels and at each."),
        table(("placement", "all levels", *(f"N = {n}" for n in levels)), rows),
    )


def foretold(study: Study) -> Markup:
    """The observables over N, and what each predicted."""
    prediction = study["prediction"]
    panels = [
        observed_panel(TITLES[name], prediction["levels"], found)
        for name, found in prediction["observables"].items()
    ]
    formulas = study["registration"]["protocol"]["observables"]
    cost = study["cost"]["preliminary"]
    note = (
        f"From {spent(cost)}: {percent(prediction['share_of_steps'])} of the sweep's steps. "
        "(a) to (d) are ratios, planner over refiner: 1 is balance, above it the planner's task is "
        "the harder one. (e) is a share: 1 is guessing."
    )
    return section(
        "observables",
        "How hard each system finds its task",
        tag("p", note),
        tag("div", panels, class_="panels"),
        tag("dl", [[tag("dt", TITLES[k]), tag("dd", text)] for k, text in formulas.items()]),
        outcome_table(study),
    )


def why(found: Mapping[str, Any]) -> str:
    """What is special about an observable's N*, as an ending of "where ..."."""
    if found["rule"] == "least":
        return "it is smallest" + ("" if found["bracketed"] else ", at an end of the levels")
    return "it crosses 1" if found["bracketed"] else "it comes nearest to 1"


def observed_panel(title: str, levels: Sequence[int], found: Mapping[str, Any]) -> Markup:
    """One observable: every preliminary run, their mean, and its N*."""
    every = [r for row in found["observed"] for r in row]
    y = min(0.8, *every) / 1.15, max(1.25, *every) * 1.15
    chart = axis(levels, title, y, y_format="{:g}".format, log=True)
    chart.rule(y=1.0, class_="reference")
    chart.rule(x=found["n"], class_="switch libra")
    means = [(n, sum(row) / len(row)) for n, row in zip(levels, found["observed"], strict=True)]
    chart.line(means, "smooth libra")
    for n, row in zip(levels, found["observed"], strict=True):
        for value in row:
            chart.dot(n, value, "validation libra", 2.5)
    return chart.svg()


def outcome_table(study: Study) -> Markup:
    """Each observable's N*, and what following it would have cost."""
    head = ["observable", "N*", "95%", "where", "nearest level"]
    rows: list[list[Child]] = []
    curves = study["placements"]
    for name in curves:
        head += [f"regret, {name}: points", "found the peak"]
    for key, found in study["prediction"]["observables"].items():
        low, high = (significant(n) for n in found["interval"])
        row: list[Child] = [
            TITLES[key], significant(found["n"]), f"{low}–{high}",
            why(found), str(found["level"]),
        ]  # fmt: skip
        for curve in curves.values():
            cost = curve["predictions"][key]
            no_peak = "no peak shown" if not curve["two_lines"]["inverted_u"] else "no"
            row += [
                points(cost["regret"], cost["regret_ci95"]),
                "yes" if cost["found"] else no_peak,
            ]
        rows.append(row)
    return table(head, rows)


def registration(study: Study) -> Markup:
    """What was announced, when, and what was done otherwise."""
    record = study["registration"]
    departures = [
        tag(
            "li",
            entry["reason"],
            "".join(
                f"; {key}: {was!r} became {now!r}" for key, (was, now) in entry["changed"].items()
            ),
        )
        for entry in study["deviations"]
    ]
    return section(
        "registration",
        "What was announced before",
        tag(
            "dl",
            tag("dt", "registered"), tag("dd", record["registered"]),
            tag("dt", "commit"), tag("dd", record["commit"] or "unknown"),
            tag("dt", "SHA-256"), tag("dd", record["sha256"]),
            tag("dt", "this analysis"), tag("dd", f"commit {study['versions']['commit']}"),
        ),
        tag("h3", "Deviations"),
        tag("ul", departures, class_="verdicts") if departures else tag("p", "None."),
        tag("h3", "The protocol"),
        tag("pre", json.dumps(record["protocol"], indent=1), class_="wrap"),
    )  # fmt: skip
