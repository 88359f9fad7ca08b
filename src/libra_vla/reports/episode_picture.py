"""A whole episode in one picture: what the camera saw, what was planned, what was done."""

import numpy as np

from libra_vla.reports.markup import Markup, image_uri, percent, tag
from libra_vla.reports.svg import Scale, box, line, path, svg, text
from libra_vla.reports.trace import EpisodeTrace

WIDTH, LEFT, RIGHT = 1080.0, 86.0, 66.0
LANE, GAP = 64.0, 14.0
FRAMES = 8
"""How many frames of the film strip fit beside each other."""


def time_scale(trace: EpisodeTrace) -> Scale:
    """Control steps to pixels, the same for every row of the picture."""
    return Scale(0, trace.length, LEFT, WIDTH - RIGHT)


def lane_scale(top: float) -> Scale:
    """Normalised action to pixels within the lane that begins at `top`."""
    return Scale(-1.0, 1.0, top + LANE, top)


def episode_picture(trace: EpisodeTrace) -> Markup:
    """Draws an episode: film strip, the two systems' working hours, one lane per dimension."""
    x = time_scale(trace)
    strip, top = film_strip(trace, x)
    hours = working_hours(trace, x, top)
    top += 58
    bottom = top + trace.space.size * (LANE + GAP) - GAP
    plans = [line(x(s), top - 22, x(s), bottom, "plan-rule") for s in trace.step[trace.new_plans]]
    inside = trace.inside()
    lanes = [
        lane(trace, d, x, top + d * (LANE + GAP), float(inside[d])) for d in range(trace.space.size)
    ]
    header = text(WIDTH - RIGHT + 10, top - 10, "inside its bin", "tick")
    cursor = tag(
        "g", line(0, 0, 0, bottom + 6, "cursor"), class_="scrub-cursor", visibility="hidden"
    )
    return svg(
        WIDTH,
        bottom + 34,
        strip, hours, plans, lanes, header, time_axis(trace, x, bottom + 4), cursor,
        label=f"Intents and actions of an episode: {trace.instruction}",
        class_="episode",
    )  # fmt: skip


def film_strip(trace: EpisodeTrace, x: Scale) -> tuple[list[Markup], float]:
    """Draws frames in equal places, each tied to its moment; returns them and where they end."""
    if not len(trace.frames):
        return [], 4.0
    count = min(FRAMES, len(trace.frames))
    pitch = (x.end - x.start) / count
    size = pitch - 8.0
    height = size * trace.frames.shape[1] / trace.frames.shape[2]
    marks = []
    for index in range(count):
        left = x.start + index * pitch
        wanted = trace.length * (index + 0.5) / count
        nearest = int(np.argmin(np.abs(trace.frame_steps - wanted)))
        moment, centre = x(float(trace.frame_steps[nearest])), left + size / 2
        marks += [
            tag(
                "image", href=image_uri(trace.frames[nearest]), x=left, y=0, width=size,
                height=height, preserveAspectRatio="xMidYMid slice", class_="frame",
            ),
            path([(centre, height + 3), (centre, height + 7), (moment, height + 17)], "leader"),
        ]  # fmt: skip
    return marks, height + 24


def working_hours(trace: EpisodeTrace, x: Scale, top: float) -> list[Markup]:
    """Draws when each plan and each chunk was in force: the two systems' different rates."""
    starts = [int(s) for s in trace.step[trace.new_plans]]
    marks = [
        text(LEFT - 10, top + 9, "Planner", "planner-text strong", "end"),
        text(LEFT - 10, top + 25, "Refiner", "refiner-text strong", "end"),
        text(WIDTH - RIGHT + 10, top + 9, f"{len(starts)} plans", "tick"),
        text(WIDTH - RIGHT + 10, top + 25, f"{len(trace.step)} chunks", "tick"),
    ]
    for start, end in zip(starts, [*starts[1:], trace.length], strict=True):
        marks.append(box(x(start) + 0.5, top, x(end) - 0.5, top + 11, "plan-span", rx=2))
    for start, count in zip(trace.step, trace.executed, strict=True):
        end = x(float(start + count)) - 0.5
        marks.append(box(x(float(start)) + 0.5, top + 16, end, top + 27, "chunk-span", rx=2))
    return marks


def lane(
    trace: EpisodeTrace, dimension: int, x: Scale, top: float, inside: float
) -> list[Markup]:  # fmt: skip
    """Draws one dimension: the planner's boxes and the refiner's curve through them."""
    y, bins = lane_scale(top), trace.space.bins[dimension]
    name = trace.space.convention.names[dimension]
    edges = [y(2.0 * i / bins - 1.0) for i in range(bins + 1)]
    marks = [
        box(x.start, top, x.end, top + LANE, "lane"),
        line(x.start, y(0), x.end, y(0), "grid"),
        [line(LEFT - 6, e, LEFT - 2, e, "axis") for e in edges],
        text(LEFT - 14, y(0) + 5, name, "lane-name", "end"),
        text(LEFT - 14, y(0) + 19, f"{bins} bins", "tick", "end"),
    ]
    for intent in trace.boxes(dimension):
        marks.append(
            box(
                x(intent.start), y(intent.low), x(intent.end), y(intent.high),
                "intent", fill_opacity=opacity(intent.confidence),
            )
        )  # fmt: skip
    values = trace.executed_actions[:, dimension]
    # An action holds for a whole control step: its point sits in the middle of it.
    curve = [(x(t + 0.5), y(float(v))) for t, v in zip(trace.times, values, strict=True)]
    marks += [path(curve, "fine-halo"), path(curve, "fine")]
    marks.append(text(WIDTH - RIGHT + 10, y(0) + 5, percent(inside), "inside"))
    return [tag("g", marks)]


def opacity(confidence: float) -> float:
    """How opaque a box is: even a hesitant intent stays visible."""
    return 0.12 + 0.73 * min(1.0, max(0.0, confidence))


def time_axis(trace: EpisodeTrace, x: Scale, top: float) -> list[Markup]:
    """Draws seconds since the first action."""
    rate = trace.space.convention.rate_hz
    seconds = Scale(0, trace.length / rate, x.start, x.end)
    marks = [line(x.start, top, x.end, top, "axis")]
    for value in seconds.ticks(8):
        at = seconds(value)
        label = f"{value:g} s"
        marks += [line(at, top, at, top + 4, "axis"), text(at, top + 18, label, "tick", "middle")]
    return marks
