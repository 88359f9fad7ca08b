"""How smoothly the end effector moved, from the positions it really took.

With positions p_0 .. p_T at a fixed rate 1/dt, by finite differences:

    velocity      v_k = (p_{k+1} - p_k) / dt                                   m/s
    acceleration  a_k = (p_{k+1} - 2 p_k + p_{k-1}) / dt^2                     m/s^2
    jerk          j_k = (p_{k+3} - 3 p_{k+2} + 3 p_{k+1} - p_k) / dt^3         m/s^3

The third difference is exact for a cubic. Jerk in norm, averaged or as root mean square, and the
jump at chunk boundaries are the figures that work on chunked policies reports. Spectral arc length
(Balasubramanian et al. 2015) is the one that does not depend on how fast or how far a motion goes:
with the magnitude spectrum V(f) of the speed ||v||, divided by V(0), up to the last frequency
f_c <= 10 Hz at which it still reaches 0.05,

    SPARC = -integral from 0 to f_c of sqrt((1 / f_c)^2 + (dV / df)^2) df      <= -1, no unit

About -1.4 for one smooth reach, and lower the more stops and starts there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STILL = 0.002
"""Speed (m/s) below which a motion has no direction worth measuring."""
HIGHEST_HZ, FAINTEST, PADDING = 10.0, 0.05, 4
"""Of the spectral arc length, as published: where its spectrum ends, and powers of 2 of zeros."""


@dataclass(frozen=True)
class Smoothness:
    """None where an episode was too short, or its hand too still, to tell.

    Attributes:
        mean_jerk: mean of ||j||, m/s^3.
        rms_jerk: root of the mean of ||j||^2, m/s^3.
        path_length: sum of ||p_{k+1} - p_k||, m.
        curvature: angle turned through per length of path, rad/m (1 / radius on a circle).
        boundary_acceleration: mean of ||a|| where one chunk's last action meets the next one's
            first, m/s^2.
        inside_acceleration: mean of ||a|| everywhere else, m/s^2: what the former compares with.
        sparc: spectral arc length of the speed, at most -1, without a unit.
    """

    mean_jerk: float | None
    rms_jerk: float | None
    path_length: float
    curvature: float | None
    boundary_acceleration: float | None
    inside_acceleration: float | None
    sparc: float | None


def smoothness(positions: np.ndarray, boundaries: Sequence[int], rate_hz: float) -> Smoothness:
    """Measures one episode.

    Args:
        positions: float [T + 1, 3], m; row k is the position before control step k. A simulation
            that diverged is measured up to its first NaN or infinity.
        boundaries: control steps at which a chunk began; 0 is not one, nothing meets there.
        rate_hz: control rate.
    """
    positions = np.asarray(positions, dtype=np.float64)
    positions = positions[np.logical_and.accumulate(np.isfinite(positions).all(axis=1))]
    moves = np.diff(positions, axis=0)
    jerk = _norms(np.diff(positions, n=3, axis=0)) * rate_hz**3
    acceleration = _norms(np.diff(positions, n=2, axis=0)) * rate_hz**2
    # acceleration[k - 1] is the change of velocity at position k, where control step k begins.
    at_boundary = np.zeros(len(acceleration), dtype=bool)
    at_boundary[[k - 1 for k in boundaries if 1 <= k <= len(acceleration)]] = True
    return Smoothness(
        mean_jerk=_mean(jerk),
        rms_jerk=None if len(jerk) == 0 else float(np.sqrt(np.mean(jerk**2))),
        path_length=float(_norms(moves).sum()),
        curvature=_curvature(moves[_norms(moves) * rate_hz > STILL]),
        boundary_acceleration=_mean(acceleration[at_boundary]),
        inside_acceleration=_mean(acceleration[~at_boundary]),
        sparc=_spectral_arc_length(_norms(moves) * rate_hz, rate_hz),
    )


def _curvature(moves: np.ndarray) -> float | None:
    """Angle between successive moves [T, 3], summed, per length of those moves; rad/m."""
    if len(moves) < 2:
        return None
    lengths = _norms(moves)
    directions = moves / lengths[:, None]
    cosines = (directions[1:] * directions[:-1]).sum(axis=1)
    sines = _norms(np.cross(directions[1:], directions[:-1]))
    # Each turn lies between the midpoints of two moves: half of the outermost moves has none.
    length = lengths.sum() - (lengths[0] + lengths[-1]) / 2
    return float(np.arctan2(sines, cosines).sum() / length)


def _spectral_arc_length(speed: np.ndarray, rate_hz: float) -> float | None:
    """SPARC of a speed profile [T], m/s; see the top of this file."""
    if len(speed) < 2 or speed.max() < STILL:
        return None
    size = 2 ** (int(np.ceil(np.log2(len(speed)))) + PADDING)
    frequencies = np.fft.rfftfreq(size, 1.0 / rate_hz)
    spectrum = np.abs(np.fft.rfft(speed, size))
    spectrum /= spectrum[0]
    heard = np.flatnonzero((spectrum >= FAINTEST) & (frequencies <= HIGHEST_HZ))
    if heard[-1] == 0:
        return None
    arc = spectrum[: heard[-1] + 1]
    return -float(np.hypot(1.0 / heard[-1], np.diff(arc)).sum())


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
