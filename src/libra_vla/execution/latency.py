"""Inference that takes time, counted in control steps: measured, or injected to be repeated."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

import numpy as np

from libra_vla.errors import LibraError

Delay = Callable[[float, np.random.Generator], int]
"""(measured milliseconds, source of randomness) -> control steps."""


def no_delay(ms: float, rng: np.random.Generator) -> int:
    """The world waits."""
    return 0


def parse_delay(text: str, rate_hz: float) -> Delay:
    """Reads how long a call takes.

    Args:
        text: "measured", rounded up to whole control steps; "4", that many steps; "4~2", evenly
            drawn from 2 to 6; or the path of a trace: one latency in milliseconds per line, gone
            through in order from a place that is drawn.
        rate_hz: control rate.

    Raises:
        LibraError: none of these, or the trace cannot be read.
    """
    if text == "measured":
        return lambda ms, rng: ceil(ms * rate_hz / 1e3)
    if found := re.fullmatch(r"(\d+)(?:~(\d+))?", text):
        mean, spread = int(found[1]), int(found[2] or 0)
        if spread > mean:
            raise LibraError(f"delay is '{text}': expected a spread of at most {mean} steps")
        return lambda ms, rng: int(rng.integers(mean - spread, mean + spread + 1))
    return _Recorded(_read_trace(Path(text)), rate_hz)


@dataclass
class _Recorded:
    """Goes through a trace of latencies in a circle, from a drawn place in every episode."""

    trace_ms: tuple[float, ...]
    rate_hz: float
    _at: tuple[np.random.Generator, int] | None = None

    def __call__(self, ms: float, rng: np.random.Generator) -> int:
        if self._at is None or self._at[0] is not rng:
            self._at = rng, int(rng.integers(len(self.trace_ms)))
        place = self._at[1]
        self._at = rng, (place + 1) % len(self.trace_ms)
        return ceil(self.trace_ms[place] * self.rate_hz / 1e3)


def _read_trace(path: Path) -> tuple[float, ...]:
    try:
        found = tuple(float(line) for line in path.read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        found = ()
    if not found or min(found) < 0 or not np.isfinite(found).all():
        raise LibraError(
            f"delay is '{path}': expected measured, a number of control steps such as 4 or 4~2, or "
            "a file with one latency in milliseconds per line"
        )
    return found


@dataclass
class Latency:
    """How long each system takes, in simulated time.

    Attributes:
        plan, refine: delay of each.
        seed: of the jitter; set by `reset`.
    """

    plan: Delay = no_delay
    refine: Delay = no_delay
    _rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def reset(self, seed: int) -> None:
        """Starts an episode: `seed` fixes every delay that is drawn."""
        self._rng = np.random.default_rng(seed)

    def plan_steps(self, ms: float) -> int:
        """Control steps that a plan takes which took `ms` milliseconds here."""
        return self.plan(ms, self._rng)

    def refine_steps(self, ms: float) -> int:
        """Control steps that a refinement takes which took `ms` milliseconds here."""
        return self.refine(ms, self._rng)
