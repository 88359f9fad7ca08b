"""Small plots as inline SVG: scales, ticks and marks. Colours are CSS classes of `style.css`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from libra_vla.reports.markup import Child, Markup, number, tag


@dataclass(frozen=True)
class Scale:
    """Maps data in [low, high] to pixels in [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._warp(self.low), self._warp(self.high)
        share = (self._warp(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _warp(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value

    def ticks(self, count: int = 5) -> list[float]:
        """Returns round values inside the scale, about `count` of them."""
        return log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Returns multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten within [low, high], and 2 and 5 times them if those are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        found = [m * 10.0**d for d in decades for m in steps]
        found = [t for t in found if low * 0.999 <= t <= high * 1.001]
        if len(found) >= 3:
            break
    return found


def line(x1: object, y1: object, x2: object, y2: object, class_: str) -> Markup:
    """A straight line; coordinates in pixels, or percentages as text."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def box(x0: float, y0: float, x1: float, y1: float, class_: str, **more: object) -> Markup:
    """A rectangle between two corners, in any order."""
    x, y, width, height = min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)
    return tag("rect", x=x, y=y, width=width, height=height, class_=class_, **more)


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """A line through points; it is interrupted where a coordinate is not finite."""
    commands, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        commands.append(f"{pen}{number(x)} {number(y)}")
        pen = "L"
    return tag("path", d="".join(commands), class_=class_)


def text(x: object, y: object, content: Child, class_: str = "", anchor: str = "start") -> Markup:
    """A line of text; `anchor` is start, middle or end."""
    return tag("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor)


def svg(width: float, height: float, *children: Child, label: str, class_: str = "") -> Markup:
    """A drawing of its own; `label` is what a screen reader says."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_label=label,
        class_=class_ or None,
    )


@dataclass
class Panel:
    """One small plot: a title, two labelled axes, marks in data coordinates.

    Attributes:
        title: what is drawn, in a few words.
        x, y: (low, high) of the axes.
        x_label: name and unit of the horizontal axis.
        y_format: how values on the vertical axis are written.
        log, x_log: whether the vertical and the horizontal axis is logarithmic.
        x_ticks: what the horizontal axis names; round values by default. Those that would touch
            their neighbour are left out.
        width, height: of the whole drawing, in pixels.
        class_: of the drawing.
    """

    title: str
    x: tuple[float, float]
    y: tuple[float, float]
    x_label: str
    y_format: Callable[[float], str] = "{:g}".format
    log: bool = False
    width: float = 340
    height: float = 250
    x_log: bool = False
    x_ticks: Sequence[float] = ()
    class_: str = "panel"
    marks: list[Markup] = field(default_factory=list)

    LEFT, RIGHT, TOP, BOTTOM = 44.0, 14.0, 38.0, 42.0

    @property
    def across(self) -> Scale:
        """The horizontal scale."""
        return Scale(*self.x, self.LEFT, self.width - self.RIGHT, log=self.x_log)

    @property
    def upward(self) -> Scale:
        """The vertical scale."""
        return Scale(*self.y, self.height - self.BOTTOM, self.TOP, log=self.log)

    def line(self, points: Sequence[tuple[float, float]], class_: str) -> None:
        """Adds a line through data points."""
        self.marks.append(path([(self.across(x), self.upward(y)) for x, y in points], class_))

    def dot(self, x: float, y: float, class_: str, radius: float = 3.0) -> None:
        """Adds a dot at a data point."""
        mark = tag("circle", cx=self.across(x), cy=self.upward(y), r=radius, class_=class_)
        self.marks.append(mark)

    def whisker(self, x: float, low: float, high: float, class_: str, cap: float = 4.0) -> None:
        """Adds an error bar from `low` to `high`."""
        at, ends = self.across(x), (self.upward(low), self.upward(high))
        self.marks.append(line(at, ends[0], at, ends[1], class_))
        self.marks += [line(at - cap, end, at + cap, end, class_) for end in ends]

    def bar(self, x: float, y: float, class_: str, breadth: float = 20.0) -> None:
        """Adds a bar from the bottom of the axis to `y`."""
        at = self.across(x)
        floor, top = self.upward(self.y[0]), self.upward(y)
        self.marks.append(box(at - breadth / 2, floor, at + breadth / 2, top, class_))

    def label(
        self, x: float, y: float, content: Child, class_: str, anchor: str = "start",
        dx: float = 0.0, dy: float = 0.0,
    ) -> None:  # fmt: skip
        """Adds text at a data point, moved by (dx, dy) pixels."""
        at = self.across(x) + dx, self.upward(y) + dy
        self.marks.append(text(*at, content, class_, anchor))

    def rule(self, *, x: float | None = None, y: float | None = None, class_: str = "rule") -> None:
        """Adds a line across the whole panel at one x or one y."""
        bottom, top = self.height - self.BOTTOM, self.TOP
        if x is not None:
            self.marks.append(line(self.across(x), top, self.across(x), bottom, class_))
        if y is not None:
            ends = self.LEFT, self.width - self.RIGHT
            self.marks.append(line(ends[0], self.upward(y), ends[1], self.upward(y), class_))

    def svg(self) -> Markup:
        """Returns the drawing."""
        bottom, right = self.height - self.BOTTOM, self.width - self.RIGHT
        furniture: list[Markup] = [text(0, 15, self.title, "panel-title")]
        for value in self.upward.ticks(4):
            at = self.upward(value)
            furniture.append(line(self.LEFT, at, right, at, "grid"))
            furniture.append(text(self.LEFT - 7, at + 4, self.y_format(value), "tick", "end"))
        named = -math.inf
        for value in self.x_ticks or self.across.ticks(4):
            at = self.across(value)
            if at - named < 22:
                continue
            named = at
            furniture.append(line(at, bottom, at, bottom + 4, "axis"))
            number = f"{value:,g}"
            inside = min(at, self.width - 4 * len(number))  # the last one stays in the picture
            furniture.append(text(inside, bottom + 17, number, "tick", "middle"))
        furniture.append(line(self.LEFT, bottom, right, bottom, "axis"))
        furniture.append(text(right, bottom + 34, self.x_label, "tick", "end"))
        label = f"{self.title}, against {self.x_label}"
        return svg(self.width, self.height, furniture, self.marks, label=label, class_=self.class_)
