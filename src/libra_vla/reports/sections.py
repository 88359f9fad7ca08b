"""The sections of a report: prose around the drawings. Each returns None when it has no data."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from libra_vla.reports.charts import latency_chart, training_panels
from libra_vla.reports.episode_picture import LEFT, RIGHT, WIDTH, episode_picture
from libra_vla.reports.inputs import ArmGroup, Clip, Report
from libra_vla.reports.markup import Child, Markup, image_uri, percent, tag, video_uri
from libra_vla.reports.plan_picture import plan_picture
from libra_vla.reports.success import group_chart, interval, task_table, verdict
from libra_vla.reports.trace import EpisodeTrace

STILLS = 100
"""Frames of an episode that the slider can show."""


def section(name: str, title: str, *children: Child) -> Markup:
    """One section with its anchor and title."""
    return tag("section", tag("h2", title), *children, id=name)


def caption(*children: Child) -> Markup:
    """What to see in a figure."""
    return tag("figcaption", *children)


def drawn(report: Report) -> list[EpisodeTrace]:
    """The traces that hold at least one executed action."""
    return [trace for trace in report.traces if trace.length]


def hero(report: Report) -> Markup:
    """The headline: how often it worked, and one episode to look at."""
    arm, title = report.headline, report.title
    if arm is None or not arm.total.trials:
        sentence, lead = "No episodes were run.", "There is no success rate to report."
    else:
        total = arm.total
        sentence = f"{arm.name} succeeds in {percent(total.rate)} of its episodes"
        lead = (
            f"{total.successes} of {total.trials} episodes, {report.groups[0].name.lower()}. "
            f"Rates of {interval(total)} would fit that too (95% Wilson interval)."
        )
    told = [
        tag("p", title, class_="eyebrow"),
        tag("h1", sentence),
        tag("p", lead, class_="lead"),
    ]
    if report.clips:
        film = clip(report.clips[0])
    elif traces := [t for t in drawn(report) if len(t.frames)]:
        film = still(traces[0])
    else:
        return tag("header", told, class_="hero alone", id="headline")
    return tag("header", tag("div", told), film, class_="hero", id="headline")


def clip(film: Clip) -> Markup:
    """A film with its instruction."""
    outcome = "Success" if film.success else "Failure"
    return tag(
        "figure",
        tag(
            "video", src=video_uri(film.path), muted=True, loop=True, autoplay=True,
            playsinline=True, controls=True, aria_label=film.instruction,
        ),
        caption(tag("span", f"“{film.instruction}”", class_="quote"), f" {outcome}."),
    )  # fmt: skip


def still(trace: EpisodeTrace) -> Markup:
    """The last frame of an episode, where there is no film of it."""
    last = image_uri(trace.frames[-1], 90)
    return tag(
        "figure",
        tag("img", src=last, alt="last frame of an episode"),
        caption(tag("span", f"“{trace.instruction}”", class_="quote"), " The last chunk."),
    )


def success(report: Report) -> Markup | None:
    """Success rates of all arms under all conditions, and what they allow to say."""
    if not any(group.arms for group in report.groups):
        return None
    return section(
        "success",
        "How often it works",
        tag(
            "p",
            "Each bar ends at the share of episodes that succeeded. The whisker is the 95% Wilson "
            "interval: with many more episodes, the rate would most likely settle within it. "
            "Compare whiskers, not bars.",
        ),
        [group_part(group) for group in report.groups if group.arms],
    )


def group_part(group: ArmGroup) -> list[Markup]:
    """One condition: the arms, the verdicts, the tasks."""
    first, *others = group.arms
    table = task_table(group)
    parts = [
        tag("h3", group.name),
        tag("p", group.explanation, class_="soft"),
        group_chart(group),
    ]
    if others:
        said = [tag("li", verdict(first, other)) for other in others]
        parts.append(tag("ul", said, class_="verdicts"))
    if table is not None:
        parts += [tag("h3", f"{group.name}, task by task"), table]
    return parts


def how_it_works(report: Report) -> Markup | None:
    """The idea, drawn from real episodes."""
    traces = drawn(report)
    if not traces:
        return None
    first = traces[0]
    picture, seen = plan_picture(first)
    bins = sorted(set(first.space.bins))
    parts = [
        tag(
            "p",
            "Two systems share the work. The ", tag("b", "planner", class_="planner"),
            f" looks at the scene and says where to go: for every control step it picks one of "
            f"{' or '.join(map(str, bins))} bins in every action dimension. The ",
            tag("b", "refiner", class_="refiner"),
            " looks again, more often, and says how: the continuous action itself.",
        ),
        tag(
            "figure",
            tag("div", tag("div", picture, class_="scroll"), seen, class_="plan-figure"),
            caption(
                tag("b", "One plan, enlarged. "),
                "A box is the bin that the planner chose; the more opaque, the surer it was. The "
                "curve is what the refiner sent to the robot, one dot per control step. The boxes "
                "leave the exact motion open; the curve settles it.",
            ),
        ),
    ]  # fmt: skip
    return section("how", "How it works, drawn from a real episode", parts,
                   [episode_figure(trace) for trace in traces])  # fmt: skip


def episode_figure(trace: EpisodeTrace) -> Markup:
    """The whole episode, with a slider through it."""
    rate = trace.space.convention.rate_hz
    outcome = "succeeded" if trace.success else "failed"
    share = float(trace.inside().mean())
    # A JPEG is at most 65,535 pixels wide, and nobody looks at more stills than these.
    count = len(trace.frames)
    kept = np.unique(np.linspace(0, count - 1, min(count, STILLS)).astype(int))
    data = {
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "length": trace.length,
        "rate": rate,
        "plans": trace.step[trace.new_plans].tolist(),
        "chunks": trace.step.tolist(),
        "frames": trace.frame_steps[kept].tolist(),
        "sprite": sprite(trace, kept),
    }
    label = "Moment of the episode"
    slider = tag("input", type="range", min=0, max=trace.length - 1, value=0, aria_label=label)
    scrub = tag(
        "div",
        tag("div", class_="still"),
        tag("label", tag("output", "Drag, or point at the picture"), slider),
        class_="scrub",
        hidden=True,
    )
    return tag(
        "figure",
        tag("h3", f"“{trace.instruction}”"),
        scrub,
        tag("div", episode_picture(trace), class_="wide"),
        caption(
            tag("b", "A whole episode. "),
            f"It {outcome} after {trace.length / rate:.1f} s. One lane per action dimension, "
            "cropped to the bins that were used. ",
            tag("b", "Boxes", class_="planner"), " are the planner's bins, the ",
            tag("b", "curve", class_="refiner"),
            " is the executed action; a vertical line marks every new plan. The curve stayed "
            f"inside its box {percent(share)} of the time: the intent leads the refiner, it does "
            "not bind it.",
        ),
        data_episode=json.dumps(data),
    )  # fmt: skip


def sprite(trace: EpisodeTrace, kept: np.ndarray) -> str:
    """The frames with the indices `kept` beside each other in one small picture."""
    if not len(kept):
        return ""
    every = max(1, trace.frames.shape[1] // 128)
    return image_uri(np.concatenate(list(trace.frames[kept, ::every, ::every]), axis=1), 75)


def training(report: Report) -> Markup | None:
    """Loss curves."""
    panels = training_panels(report.curves)
    if not panels:
        return None
    switches = [c for c in report.curves if c.switched_at is not None]
    told = [
        f"In {c.name} the refiner learns from the true coarse actions up to step "
        f"{c.switched_at:,}, and from the planner's own predictions from then on. "
        for c in switches
    ]
    return section(
        "training",
        "How it learned",
        tag("p", told) if told else None,
        tag(
            "figure",
            tag("div", panels, class_="panels"),
            caption(
                "Thin: every logged batch. Thick: its running mean. Hollow dots, where there are "
                "any: episodes held out from training. The planner's loss is divided by log N, so "
                "that 1 means guessing at any granularity.",
            ),
        ),
    )


def latency(report: Report) -> Markup | None:
    """How long each system takes."""
    arm, traces = report.headline, drawn(report)
    period = 1e3 / traces[0].space.convention.rate_hz if traces else None
    chart = latency_chart(arm, period) if arm else None
    if chart is None:
        return None
    return section(
        "latency",
        "How fast it runs",
        tag(
            "figure",
            tag("div", chart, class_="scroll"),
            caption(
                "Half of all calls, 95% and 99% of them took no longer than this, without the time "
                "that the camera needs. Only some control steps plan or refine; the others take an "
                "action that is waiting already.",
            ),
        ),
    )


def making(report: Report) -> Markup:
    """Provenance: what was run, with what, and how to run it again."""
    facts = {**result_facts(report.results), **report.facts}
    entries = [
        [tag("dt", name[:1].upper() + name[1:]), tag("dd", value)] for name, value in facts.items()
    ]
    more = [clip(film) for film in report.clips[1:]]
    return section(
        "making",
        "How this was made",
        tag("dl", entries) if entries else tag("p", "Nothing was recorded about this run."),
        [tag("p", "To get the same:"), tag("pre", tag("code", "\n".join(report.commands)))]
        if report.commands
        else None,
        [tag("h3", "More episodes"), tag("div", more, class_="clips")] if more else None,
    )


NAMES = {
    "suite": "Suite",
    "mode": "Execution",
    "policy": "Policy",
    "protocol": "Protocol",
    "errors": "Errors",
    "failures": "Failures",
    "smoothness": "Smoothness",
    "seeds": "Seeds",
    "versions": "Versions",
    "wall_s": "Time taken",
}


def result_facts(results: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields of a `results.json` that say how it came about, as words."""
    facts = {title: words(results[key]) for key, title in NAMES.items() if key in results}
    if "wall_s" in results:
        facts["Time taken"] = duration(float(results["wall_s"]))
    return {name: value for name, value in facts.items() if value}


def duration(seconds: float) -> str:
    """Time as people say it: 45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def words(value: Any) -> str:
    """Writes a JSON value as a phrase: "preset tiny, parameters 983,000"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')} {words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(words(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)
