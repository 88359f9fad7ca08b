"""The page of `libra study suites`: every arm on every suite, beside the paper, then each task."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from libra_vla.files import write_text
from libra_vla.reports.arms import chart
from libra_vla.reports.charts import training_panels
from libra_vla.reports.inputs import Curves
from libra_vla.reports.markup import Child, Markup, percent, tag
from libra_vla.reports.report import page
from libra_vla.reports.sections import section
from libra_vla.reports.tables import header, interval, share, table

Study = Mapping[str, Any]


def write_report(
    out: Path, study: Study, curves: Sequence[Curves], pages: Mapping[str, str]
) -> None:
    """Writes the page, atomically; see `render`."""
    write_text(out, render(study, curves, pages))


def render(study: Study, curves: Sequence[Curves], pages: Mapping[str, str]) -> str:
    """Returns the page of a finished study.

    Args:
        curves: of the trainings.
        pages: name -> address of an evaluation's own page, which shows its failures.
    """
    arms = study["arms"]
    total = sum(study["seconds"].values())
    title = "One policy, all suites"
    trained = study["training_core_seconds"]
    origin = ", trained from scratch on scripted demonstrations" if trained else ""
    size = arms[0]["policy"]["parameters"] / 1e6
    lead = (
        f"{size:.1f} M parameters{origin}; official initial states and step budgets. The paper's "
        "policy has 3 B, begins with a pretrained VLM and learns from human demonstrations."
    )
    eyebrow = f"{total / 3600:.1f} hours on {study['workers']} cores"
    return page(
        title,
        header(eyebrow, title, lead),
        section("suites", "Suite by suite", _rows(study)),
        *(
            section(name, name, tag("figure", chart(_of_suite(study, name))))
            for name in arms[0]["suites"]
        ),
        section("tasks", "Task by task", _tasks(arms)),
        section("failures", "What failed, and how", _failures(arms, pages)),
        section("training", "How they learned", _curves(curves)) if curves else None,
        section("time", "Time", _time(study)),
    )


def _of_suite(study: Study, name: str) -> list[dict[str, Any]]:
    """A suite's arms, as the chart has them."""
    paper = {study["arms"][0]["name"]: study["paper"][name]}
    return [
        arm["suites"][name]
        | {"name": arm["name"], "what": arm["mode"], "paper": paper.get(arm["name"])}
        for arm in study["arms"]
    ]


def _rows(study: Study) -> Markup:
    """Arms, then the paper, over suites and their average."""
    suites = list(study["arms"][0]["suites"])
    rows: list[Sequence[Child]] = []
    for arm in study["arms"]:
        cells = [
            f"{share(s['success_rate'])} [{interval(s['ci95'])}]" for s in arm["suites"].values()
        ]
        rows.append(
            (arm["name"], arm["mode"], *cells, share(arm["average"]), f"{arm['episodes']:,}")
        )
    known = [study["paper"][suite] for suite in suites]
    average = sum(known) / len(known) if None not in known else None
    rows.append(("Libra-VLA, the paper's", "sequential", *map(share, known), share(average), "–"))
    note = (
        "Successes over trials, all seeds of the noise together, with Wilson's 95% interval: large "
        "dots below. Small dots: each seed alone. Upright strokes: the paper's figures."
    )
    head = ("policy", "mode", *suites, "average", "trials")
    return tag("div", table(head, rows), tag("p", note, class_="soft"))


def _tasks(arms: Sequence[Mapping[str, Any]]) -> Markup:
    rows = []
    for suite, found in arms[0]["suites"].items():
        for row, task in enumerate(found["tasks"]):
            beside = [arm["suites"][suite]["tasks"][row] for arm in arms]
            rows.append(
                (
                    f"{suite} {task['index']}",
                    task["instruction"],
                    *(f"{t['successes']}/{t['episodes'] - t['errors']}" for t in beside),
                )
            )
    return table(("task", "instruction", *(arm["name"] for arm in arms)), rows)


def _curves(curves: Sequence[Curves]) -> Markup:
    return tag("div", training_panels(curves), class_="panels")


def _failures(arms: Sequence[Mapping[str, Any]], pages: Mapping[str, str]) -> Markup:
    """Classes of failure, and where they can be seen."""
    kinds = sorted({kind for arm in arms for kind in arm["failures"]})
    rows = [(arm["name"], *(str(arm["failures"].get(kind, 0)) for kind in kinds)) for arm in arms]
    links = [[tag("a", name, href=address), " "] for name, address in pages.items()]
    seen = tag("p", "Stills of each class: ", links) if links else None
    note = (
        "Asynchrony-induced: it succeeds in synchronous mode, from the same state and seed. Noise "
        "falls on other chunks there, so that some would succeed by chance. Known of Libra alone, "
        "for the seeds that both modes have."
    )
    return tag("div", table(("policy", *kinds), rows), tag("p", note, class_="soft"), seen)


def _time(study: Study) -> Markup:
    seconds: Mapping[str, float] = study["seconds"]
    total = sum(seconds.values())
    rows = [
        (name, f"{s / 60:.0f}", percent(s / total if total else 0.0)) for name, s in seconds.items()
    ]
    spent: Mapping[str, float] = study["training_core_seconds"]
    trained = [(name, f"{s / 60:.0f}") for name, s in spent.items()]
    head = "policy", "core-minutes of training, earlier drivers included"
    return tag(
        "div",
        table(("stage", "minutes", "share"), rows),
        table(head, trained) if trained else None,
    )
