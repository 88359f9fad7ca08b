"""What the pages of the studies share: a header, tables, cost, and the success of one setting."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from libra_vla.reports.markup import Child, Markup, tag


def header(eyebrow: str, title: str, lead: str) -> Markup:
    """The top of a page without a film."""
    return tag(
        "header",
        tag("p", eyebrow, class_="eyebrow"),
        tag("h1", title),
        tag("p", lead, class_="lead"),
        class_="hero alone",
    )


def table(head: Sequence[Child], rows: Iterable[Sequence[Child]]) -> Markup:
    """A table that scrolls on a narrow screen."""
    body = [tag("tr", [tag("td", cell) for cell in row]) for row in rows]
    grid = tag(
        "table",
        tag("thead", tag("tr", [tag("th", name) for name in head])),
        tag("tbody", body),
        class_="grid-table",
    )
    return tag("div", grid, class_="wide")


def share(fraction: float | None) -> str:
    """A rate with one decimal: 87.5%."""
    return "–" if fraction is None else f"{100 * fraction:.1f}%"


def interval(ends: Sequence[float]) -> str:
    """A rate's interval: 74–93."""
    return f"{100 * ends[0]:.0f}–{100 * ends[1]:.0f}"


def points(difference: float | None, ends: Sequence[float]) -> str:
    """A difference of rates in points, with its interval."""
    if difference is None:
        return "–"
    return f"{100 * difference:+.1f} [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]"


def spent(cost: Mapping[str, Any]) -> str:
    """What stands behind a result."""
    hours = cost["core_seconds"] / 3600
    taken = f" ({n} of them from other studies)" if (n := cost.get("taken_over", 0)) else ""
    return (
        f"{cost['runs']} training runs{taken}, {cost['steps']:,} optimiser steps, "
        f"{cost['rollouts']:,} rollouts, {hours:.2f} core-hours"
    )
