"""HTML and SVG as nested function calls: whatever is not `Markup` already is escaped."""

import base64
import io
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

VOID = frozenset({"br", "hr", "img", "input", "meta"})
"""HTML elements that have no closing tag."""


class Markup(str):
    """Text that is HTML already and must not be escaped again."""


Child = str | float | None | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: object) -> Markup:
    """Returns one element.

    Args:
        name: of the element.
        children: `Markup` stays as it is, other text is escaped, None is skipped, iterables are
            flattened.
        attributes: `class_` becomes `class`, `stroke_width` becomes `stroke-width`; floats are
            rounded to hundredths; None and False are skipped, True has no value.
    """
    pairs = "".join(_attribute(k, v) for k, v in attributes.items())
    if name in VOID:
        return Markup(f"<{name}{pairs}>")
    return Markup(f"<{name}{pairs}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Joins children into one piece of markup, escaping what is plain text."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, str):
        return Markup(escape(children))
    if isinstance(children, Iterable):
        return Markup("".join(join(child) for child in children))
    return Markup(number(children))


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    text = number(float(value)) if isinstance(value, (float, np.floating)) else str(value)
    return f' {name}="{escape(text)}"'


def number(value: float) -> str:
    """Writes a number with at most two decimals: more would only make the file larger."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def percent(fraction: float) -> str:
    """A share as 87%; a dash for what was not measured."""
    return f"{100 * fraction:.0f}%" if math.isfinite(fraction) else "–"


def significant(value: float) -> str:
    """At least two significant digits, without an exponent: 0.021, 8.3, 107."""
    if not math.isfinite(value):
        return "–"
    digits = 0 if value == 0 else max(0, 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def image_uri(image: np.ndarray, quality: int = 82) -> str:
    """Returns uint8 RGB [h, w, 3] as a JPEG data address."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(stream, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def video_uri(path: Path) -> str:
    """Returns an mp4 file as a data address."""
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
