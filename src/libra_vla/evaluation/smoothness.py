"""How smoothly the end effector moved, from the positions it really took.

With positions p_0 .. p_T at a fixed rate 1/dt, by finite differences:

    velocity      v_k = (p_{k+1} - p_k) / dt                                   m/s
    acceleration  a_k = (p_{k+1} - 2 p_k + p_{k-1}) / dt^2                     m/s^2
    jerk          j_k = (p_{k+3} - 3 p_{k+2} + 3 p_{k+1} - p_k) / dt^3         m/s^3

The third difference is exact for a cubic. Jerk in norm, averaged or as root mean square, and the
jump at chunk boundaries are the figures that work on chunked policies reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STILL = 1e-4
"""Displacements per control step below this (m) have no direction worth measuring."""


@dataclass(frozen=True)
class Smoothness:
    """None where an episode was too short to tell.

    Attributes:
        mean_jerk: mean of ||j||, m/s^3.
        rms_jerk: root of the mean of ||j||^2, m/s^3.
        path_length: sum of ||p_{k+1} - p_k||, m.
        curvature: angle turned through per length of path, rad/m (1 / radius on a circle).
        boundary_acceleration: mean of ||a|| where one chunk's last action meets the next one's
            first, m/s^2.
        inside_acceleration: mean of ||a|| everywhere else, m/s^2: what the former compares with.
    """

    mean_jerk: float | None
    rms_jerk: float | None
    path_length: float
    curvature: float | None
    boundary_acceleration: float | None
    inside_acceleration: float | None


def smoothness(positions: np.ndarray, boundaries: Sequence[int], rate_hz: float) -> Smoothness:
    """Measures one episode.

    Args:
        positions: float [T + 1, 3], m; row k is the position before control step k.
        boundaries: control steps at which a chunk began; 0 is not one, nothing meets there.
        rate_hz: control rate.
    """
    positions = np.asarray(positions, dtype=np.float64)
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
        curvature=_curvature(moves),
        boundary_acceleration=_mean(acceleration[at_boundary]),
        inside_acceleration=_mean(acceleration[~at_boundary]),
    )


def _curvature(moves: np.ndarray) -> float | None:
    """Angle between successive moves [T, 3], summed, per length of those moves; rad/m."""
    moves = moves[_norms(moves) > STILL]
    if len(moves) < 2:
        return None
    lengths = _norms(moves)
    directions = moves / lengths[:, None]
    cosines = (directions[1:] * directions[:-1]).sum(axis=1)
    sines = _norms(np.cross(directions[1:], directions[:-1]))
    # Each turn lies between the midpoints of two moves: half of the outermost moves has none.
    length = lengths.sum() - (lengths[0] + lengths[-1]) / 2
    return float(np.arctan2(sines, cosines).sum() / length)


def _norms(vectors: np.ndarray) -> np.ndarray:
    return np.linalg.norm(vectors, axis=-1)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
