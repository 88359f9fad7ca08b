"""Success rates with their intervals, and what these allow to say."""

import math

from libra_vla.reports.inputs import Arm, ArmGroup, Rate
from libra_vla.reports.markup import Child, Markup, join, percent, tag
from libra_vla.reports.svg import line, text


def interval(rate: Rate) -> str:
    """The interval, short: 70–95%."""
    low, high = rate.ci95
    return f"{100 * low:.0f}–{100 * high:.0f}%"


def difference(arm: Arm, other: Arm) -> tuple[float, float, float]:
    """Returns the difference of two success rates and its 95% interval.

    Newcombe's hybrid score interval, which needs nothing but the two Wilson intervals. Episodes
    that share an initial state are treated as independent, which errs on the careful side.
    """
    p, q = arm.total.rate, other.total.rate
    (a, b), (c, d) = arm.total.ci95, other.total.ci95
    return p - q, p - q - math.hypot(p - a, d - q), p - q + math.hypot(b - p, q - c)


def verdict(arm: Arm, other: Arm) -> Markup:
    """Says what the difference of two arms allows to conclude: the conclusion, then the numbers."""
    if not (arm.total.trials and other.total.trials):
        missing = other if arm.total.trials else arm
        return join(
            f"{arm.name} and {other.name} cannot be compared: {missing.name} has no trials."
        )
    gap, low, high = (100 * v for v in difference(arm, other))
    better, worse = (arm, other) if gap > 0 else (other, arm)
    lacking = other.lacks or "what this control lacks"
    if low <= 0 <= high:
        said = f"No difference between {arm.name} and {other.name} is shown, nor that there is none"
        if other.role == "control":
            said = f"Nothing here shows that {arm.name} needs {lacking}"
    elif other.role == "control" and gap > 0:
        said = f"{arm.name} needs {lacking}"
    else:
        said = f"{better.name} does better than {worse.name} here"
    where = "contains" if low <= 0 <= high else "does not contain"
    numbers = (
        f" {arm.name} minus {other.name}: {signed(gap)} points, 95% interval {signed(low)} to "
        f"{signed(high)}, which {where} zero."
    )
    return join([tag("b", said, "."), numbers])


def signed(value: float) -> str:
    """A whole number with its sign: +7, −3."""
    whole = round(value)
    return f"{'+' if whole > 0 else '−' if whole < 0 else '±'}{abs(whole)}"


def rate_marks(rate: Rate, role: str, middle: float, thickness: float) -> Child:
    """A bar with its error whisker; x in percent of the track, so that it fits any screen."""
    if not rate.trials:
        return []
    low, high = (f"{100 * v:.2f}%" for v in rate.ci95)
    top = middle - thickness / 2
    cap = max(2.5, thickness / 4)
    width = f"{100 * rate.rate:.2f}%"
    return [
        tag("rect", x=0, y=top, width=width, height=thickness, class_=f"bar {role}"),
        line(low, middle, high, middle, f"whisker {role}"),
        [line(v, middle - cap, v, middle + cap, f"whisker {role}") for v in (low, high)],
        tag("circle", cx=width, cy=middle, r=thickness / 5 + 1, class_=f"value {role}"),
    ]


def track(rates: list[tuple[Rate, str]], label: str, pitch: float = 26) -> Markup:
    """A strip from 0 to 100% that holds one bar per rate."""
    height = pitch * len(rates)
    grid = [line(f"{v}%", 0, f"{v}%", height, "grid") for v in (0, 25, 50, 75, 100)]
    bars = [
        rate_marks(rate, role, (i + 0.5) * pitch, pitch * 0.55)
        for i, (rate, role) in enumerate(rates)
    ]
    return tag(
        "svg", grid, bars, width="100%", height=height, role="img", aria_label=label, class_="track"
    )


def group_chart(group: ArmGroup) -> Markup:
    """All arms of one condition, one under the other, with the axis below."""
    rows = []
    for arm in group.arms:
        rows.append(arm_row(arm.name, arm.explanation, arm.total, arm.role, arm.errors))
        if arm.obeyed is not None:
            name = "… did what it was told"
            why = "the same episodes, judged by the instruction given instead"
            rows.append(arm_row(name, why, arm.obeyed, "obeyed", 0))
    return tag("div", rows, axis_row(), class_="arms")


def arm_row(name: str, why: str, rate: Rate, role: str, errors: int) -> Markup:
    """One arm: its name and meaning, its bar, its numbers."""
    spoken = f"{name}: {rate.successes} of {rate.trials}, interval {interval(rate)}"
    counts = f"{rate.successes} of {rate.trials}" if rate.trials else "no episodes"
    noted = (
        tag("span", "1 error" if errors == 1 else f"{errors} errors", class_="warn")
        if errors
        else None
    )
    return tag(
        "div",
        tag("div", tag("b", name), tag("span", why), class_="who"),
        track([(rate, role)], spoken, 30),
        tag(
            "div",
            tag("b", percent(rate.rate)),
            tag("span", interval(rate)) if rate.trials else None,
            tag("span", counts),
            tag("span", noted, class_="warn") if errors else None,
            class_="numbers",
        ),
        class_=f"arm {role}",
    )


def axis_row() -> Markup:
    """The axis under the tracks; a phone leaves its quarters out."""
    marks = [
        text(
            f"{v}%",
            12,
            f"{v}%",
            "tick quarter" if v % 50 else "tick",
            {0: "start", 100: "end"}.get(v, "middle"),
        )
        for v in (0, 25, 50, 75, 100)
    ]
    axis = tag("svg", marks, width="100%", height=16, class_="track", aria_hidden="true")
    return tag("div", tag("div", class_="who"), axis, tag("div"), class_="arm axis-row")


def task_table(group: ArmGroup) -> Markup | None:
    """Every task on a row of its own, with one thin bar per arm; None without tasks."""
    arms = [arm for arm in group.arms if arm.per_task]
    if not arms:
        return None
    tasks = list(dict.fromkeys(t.instruction for arm in arms for t in arm.per_task))
    rows = [task_row(task, arms) for task in tasks]
    return tag("div", rows, axis_row(), class_="arms tasks")


def task_row(task: str, arms: list[Arm]) -> Markup:
    """One task: its instruction, a bar per arm, the counts."""
    empty = Rate(0, 0)
    rates = [
        (next((t for t in arm.per_task if t.instruction == task), empty), arm.role) for arm in arms
    ]
    spoken = "; ".join(
        f"{arm.name} {r.successes} of {r.trials}" for arm, (r, _) in zip(arms, rates, strict=True)
    )
    counts = [
        tag("span", f"{r.successes}/{r.trials}" if r.trials else "–", " ", arm.name, class_=role)
        for arm, (r, role) in zip(arms, rates, strict=True)
    ]
    return tag(
        "div",
        tag("div", f"“{task}”", class_="who"),
        track(rates, f"{task}: {spoken}", 15),
        tag("div", counts, class_="counts"),
        class_="arm",
    )
