"""One plan, enlarged: which bin, how sure, and the motion that the refiner drew inside it."""

from itertools import pairwise

import numpy as np

from libra_vla.reports.episode_picture import opacity
from libra_vla.reports.markup import Markup, image_uri, number, percent, tag
from libra_vla.reports.svg import Scale, box, line, path, svg, text
from libra_vla.reports.trace import EpisodeTrace

WIDTH, HEIGHT = 700.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 34.0, 150.0, 34.0, 48.0


def choose(trace: EpisodeTrace) -> tuple[int, int, int]:
    """Returns (first chunk, last chunk exclusive, dimension) of the most instructive plan.

    That is where the fine action moves most while it stays inside the planner's boxes; the
    gripper does not count, for it only knows two values.
    """
    starts = [*np.flatnonzero(trace.new_plans).tolist(), len(trace.step)]
    actions = trace.executed_actions
    right = trace.space.encode(actions) == trace.executed_intents
    best, choice = -1.0, (0, starts[1] if len(starts) > 1 else 1, 0)
    offsets = np.concatenate([[0], np.cumsum(trace.executed)])
    for first, last in pairwise(starts):
        rows = slice(int(offsets[first]), int(offsets[last]))
        for dimension in range(trace.space.size):
            if dimension == trace.space.convention.gripper or rows.stop - rows.start < 3:
                continue
            spread = float(np.ptp(actions[rows, dimension]))
            levels = len(np.unique(trace.executed_intents[rows, dimension]))
            score = spread * float(right[rows, dimension].mean()) * min(levels, 3)
            if score > best:
                best, choice = score, (first, last, dimension)
    return choice


def plan_picture(trace: EpisodeTrace) -> tuple[Markup, Markup]:
    """Returns the drawing of one plan and the frame that the planner saw."""
    first, last, dimension = choose(trace)
    start, end = int(trace.step[first]), int(trace.step[last - 1] + trace.executed[last - 1])
    x = Scale(start, end, LEFT, WIDTH - RIGHT)
    y = Scale(-1.0, 1.0, HEIGHT - BOTTOM, TOP)
    drawing = svg(
        WIDTH, HEIGHT,
        ruler(trace, dimension, x, y),
        intents(trace, dimension, x, y),
        curve(trace, dimension, x, y),
        boundaries(trace, first, last, x, y),
        labels(trace, dimension, x, y),
        label=f"One plan, enlarged: {trace.space.convention.names[dimension]}",
        class_="plan",
    )  # fmt: skip
    return drawing, seen(trace, start)


def ruler(trace: EpisodeTrace, dimension: int, x: Scale, y: Scale) -> list[Markup]:
    """Draws the bins of the dimension as rows, numbered where there is room."""
    bins = trace.space.bins[dimension]
    every = max(1, round(bins / 10))
    marks = [box(x.start, y.start, x.end, y.end, "lane")]
    for index in range(bins + 1):
        at = y(2.0 * index / bins - 1.0)
        marks.append(line(x.start, at, x.end, at, "grid"))
        if index < bins and index % every == 0:
            centre = y(2.0 * (index + 0.5) / bins - 1.0)
            marks.append(text(x.start - 8, centre + 4, str(index), "tick", "end"))
    name = trace.space.convention.names[dimension]
    marks.append(text(0, 14, f"{name}, in {bins} bins", "panel-title"))
    return marks


def intents(trace: EpisodeTrace, dimension: int, x: Scale, y: Scale) -> list[Markup]:
    """Draws the boxes."""
    boxes = [b for b in trace.boxes(dimension) if x.low <= b.start < x.high]
    return [
        box(
            x(b.start), y(b.low), x(b.end), y(b.high), "intent",
            fill_opacity=opacity(b.confidence), rx=2,
        )
        for b in boxes
    ]  # fmt: skip


def labels(trace: EpisodeTrace, dimension: int, x: Scale, y: Scale) -> list[Markup]:
    """Names box and curve beside their right ends, in the colours they are drawn in."""
    end = [b for b in trace.boxes(dimension) if x.low <= b.start < x.high][-1]
    value = float(trace.executed_actions[trace.times < x.high, dimension][-1])
    middle = (y(end.low) + y(end.high)) / 2
    top = min(max(middle - 22, y.end + 12), y.start - 50)
    lines = (
        ("how", "refiner-text strong"),
        (f"action {value:+.2f}".replace("-", "−"), "tick"),
        ("where to go", "planner-text strong"),
        (f"bin {end.coarse}, {percent(end.confidence)} sure", "tick"),
    )
    offsets = (0, 15, 36, 51)
    return [
        text(x.end + 14, top + down, words, class_)
        for down, (words, class_) in zip(offsets, lines, strict=True)
    ]


def curve(trace: EpisodeTrace, dimension: int, x: Scale, y: Scale) -> list[Markup]:
    """Draws the executed actions as dots on a curve."""
    times, values = trace.times, trace.executed_actions[:, dimension]
    points = [
        (x(t + 0.5), y(float(v))) for t, v in zip(times, values, strict=True) if x.low <= t < x.high
    ]
    dots = [tag("circle", cx=a, cy=b, r=3.4, class_="fine-dot") for a, b in points]
    return [path(points, "fine-halo"), path(points, "fine"), *dots]


def boundaries(trace: EpisodeTrace, first: int, last: int, x: Scale, y: Scale) -> list[Markup]:
    """Marks where each chunk begins, and names them in control steps."""
    marks: list[Markup] = []
    for index in range(first, last):
        left = x(float(trace.step[index]))
        right = x(float(trace.step[index] + trace.executed[index]))
        if index > first:
            marks.append(line(left, y.end - 4, left, y.start + 4, "chunk-rule"))
        marks.append(box(left + 1, y.start + 9, right - 1, y.start + 15, "chunk-span", rx=2))
        label = f"chunk {index + 1}"
        if right - left > 50:
            marks.append(text((left + right) / 2, y.start + 32, label, "tick", "middle"))
    return marks


def seen(trace: EpisodeTrace, step: int) -> Markup:
    """Returns the last frame at or before a control step, or nothing without frames."""
    if not len(trace.frames):
        return Markup("")
    index = max(0, int(np.searchsorted(trace.frame_steps, step, side="right")) - 1)
    seconds = number(step / trace.space.convention.rate_hz)
    return tag(
        "figure",
        tag("img", src=image_uri(trace.frames[index], 88), alt="what the planner saw"),
        tag("figcaption", f"What the camera showed at {seconds} s, when this plan was made."),
        class_="seen",
    )
