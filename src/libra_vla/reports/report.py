"""`report.html`: one file, no network, readable on a phone, complete without its script."""

from importlib.resources import files
from pathlib import Path

from libra_vla.files import write_text
from libra_vla.reports.failures import failures, reading
from libra_vla.reports.inputs import Report
from libra_vla.reports.markup import Child, Markup, tag
from libra_vla.reports.sections import hero, how_it_works, latency, making, success, training

POLICY = "; ".join(
    (
        "default-src 'none'",
        "img-src data:",
        "media-src data:",
        "style-src 'unsafe-inline'",
        "script-src 'unsafe-inline'",
    )
)
"""Content security policy: the browser itself makes sure that nothing comes from the network."""


def write_report(out: Path | str, report: Report) -> None:
    """Writes `out` (conventionally report.html), atomically.

    Raises:
        LibraError: the disk is full or the folder cannot be written.
        OSError: a clip cannot be read.
    """
    write_text(out, render(report))


def render(report: Report) -> str:
    """Returns the page of a report."""
    return page(
        report.title,
        hero(report),
        success(report),
        reading(report),
        failures(report),
        how_it_works(report),
        training(report),
        latency(report),
        making(report),
    )


def page(title: str, *sections: Child) -> str:
    """Returns a page in the project's style: other reports put their own sections on it."""
    here = files("libra_vla.reports")
    style = Markup(here.joinpath("style.css").read_text(encoding="utf-8"))
    script = Markup(here.joinpath("scrub.js").read_text(encoding="utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", style),
    )
    body = tag("body", tag("main", sections), tag("script", script))
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"
