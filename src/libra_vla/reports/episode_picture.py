"""A whole episode in one picture: what the camera saw, what was planned, what was done."""

from dataclasses import dataclass

import numpy as np

from libra_vla.reports.markup import Markup, image_uri, percent, tag
from libra_vla.reports.svg import Scale, box, line, path, svg, text
from libra_vla.reports.trace import EpisodeTrace

WIDTH, LEFT, RIGHT = 1080.0, 86.0, 96.0
UNIT = 62.0
"""Pixels per unit of normalised action: a lane over all of [-1, 1] would be twice as high."""
NARROWEST, GAP, GRIPPER = 28.0, 16.0, 40.0
FRAMES = 8
"""How many frames of the film strip fit beside each other."""


def time_scale(trace: EpisodeTrace) -> Scale:
    """Control steps to pixels, the same for every row of the picture."""
    return Scale(0, trace.length, LEFT, WIDTH - RIGHT)


@dataclass(frozen=True)
class Lane:
    """The strip of one action dimension, cropped to the bins that the episode used.

    Attributes:
        dimension: index of the action dimension.
        first, last: lowest and highest bin inside of the lane.
        y: normalised action to pixels; all lanes but the gripper's have the same scale.
    """

    dimension: int
    first: int
    last: int
    y: Scale

    @property
    def bottom(self) -> float:
        return self.y.start

    @property
    def top(self) -> float:
        return self.y.end


def lay_out(trace: EpisodeTrace, top: float) -> list[Lane]:
    """Stacks one lane per dimension, the first one at `top`."""
    lanes = []
    done = trace.space.encode(trace.executed_actions)
    asked = trace.executed_intents
    for d, bins in enumerate(trace.space.bins):
        first = int(min(done[:, d].min(), asked[:, d].min()))
        last = int(max(done[:, d].max(), asked[:, d].max()))
        if d == trace.space.convention.gripper:
            first, last = 0, bins - 1
        low, high = 2.0 * first / bins - 1.0, 2.0 * (last + 1) / bins - 1.0
        # A gripper says open or closed: it needs no room for what lies between.
        height = GRIPPER if d == trace.space.convention.gripper else (high - low) * UNIT
        lanes.append(Lane(d, first, last, Scale(low, high, top + height, top)))
        top += max(height, NARROWEST) + GAP
    return lanes


def episode_picture(trace: EpisodeTrace) -> Markup:
    """Draws an episode: film strip, the two systems' working hours, one lane per dimension."""
    x = time_scale(trace)
    strip, top = film_strip(trace, x)
    hours = working_hours(trace, x, top)
    lanes = lay_out(trace, top + 62)
    bottom = lanes[-1].bottom
    inside = trace.inside()
    cursor = tag(
        "g", line(0, top, 0, bottom + 6, "cursor"), class_="scrub-cursor", visibility="hidden"
    )
    return svg(
        WIDTH,
        bottom + 34,
        strip,
        hours,
        [box(x.start, lane.top, x.end, lane.bottom, "lane") for lane in lanes],
        [line(x(s), top + 32, x(s), bottom, "plan-rule") for s in trace.step[trace.new_plans]],
        [lane_marks(trace, lane, x, float(inside[lane.dimension])) for lane in lanes],
        text(WIDTH - RIGHT + 10, top + 50, "inside its box", "tick"),
        time_axis(trace, x, bottom + 5),
        cursor,
        label=f"Intents and actions of an episode: {trace.instruction}",
        class_="episode",
    )


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


def lane_marks(trace: EpisodeTrace, lane: Lane, x: Scale, inside: float) -> list[Markup]:
    """Draws one dimension: the planner's boxes and the refiner's curve through them."""
    y, d = lane.y, lane.dimension
    marks = lane_labels(trace, lane, inside)
    for intent in trace.boxes(d):
        marks.append(
            box(
                x(intent.start), y(intent.low), x(intent.end), y(intent.high),
                "intent", fill_opacity=opacity(intent.confidence),
            )
        )  # fmt: skip
    values = trace.executed_actions[:, d]
    # An action holds for a whole control step: its point sits in the middle of it.
    curve = [(x(t + 0.5), y(float(v))) for t, v in zip(trace.times, values, strict=True)]
    return [*marks, path(curve, "fine-halo"), path(curve, "fine")]


def lane_labels(trace: EpisodeTrace, lane: Lane, inside: float) -> list[Markup]:
    """Names a lane, rules its bins and says how often the curve stayed inside its box."""
    bins = trace.space.bins[lane.dimension]
    convention = trace.space.convention
    middle = (lane.top + lane.bottom) / 2
    used = f"bin {lane.first}" if lane.first == lane.last else f"bins {lane.first}–{lane.last}"
    if lane.dimension == convention.gripper:
        upward = convention.gripper_closed > convention.gripper_open
        used = "↑ closed" if upward else "↑ open"
    edges = [lane.y(2.0 * i / bins - 1.0) for i in range(lane.first, lane.last + 2)]
    return [
        *[line(LEFT - 6, e, LEFT - 2, e, "axis") for e in edges],
        text(LEFT - 14, middle - 1, convention.names[lane.dimension], "lane-name", "end"),
        text(LEFT - 14, middle + 13, used, "tick", "end"),
        text(WIDTH - RIGHT + 10, middle + 5, percent(inside), "inside"),
    ]


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
