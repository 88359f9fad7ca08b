"""Smoothness of motions whose jerk, curvature and length are known in closed form."""

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.evaluation.smoothness import smoothness

RATE = 20.0
FINE = 1000.0


def minimum_jerk(distance: float, seconds: float, rate: float = FINE) -> np.ndarray:
    """Straight minimum-jerk reach (Flash and Hogan 1985), [T + 1, 3]."""
    s = np.linspace(0.0, 1.0, round(seconds * rate) + 1)[:, None]
    return distance * (10 * s**3 - 15 * s**4 + 6 * s**5) * np.array([[0.6, 0.0, 0.8]])


def wander(seed: int, length: int = 80) -> np.ndarray:
    """A smooth random motion of some decimetres, [length, 3]."""
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.normal(0.0, 0.001, (length, 3)), axis=0)
    return np.cumsum(steps, axis=0)


def test_a_cubic_has_its_exact_jerk():
    t = np.arange(30)[:, None] / RATE
    coefficients = np.array([[0.3, -0.1, 0.2]])
    measured = smoothness(coefficients * t**3 + 0.05 * t**2 + t, [], RATE)
    expected = 6.0 * np.linalg.norm(coefficients)
    assert measured.mean_jerk == pytest.approx(expected, rel=1e-6)
    assert measured.rms_jerk == pytest.approx(expected, rel=1e-6)


@given(st.floats(0.05, 0.5), st.floats(0.5, 3.0))
def test_a_minimum_jerk_reach_is_as_jerky_as_it_must_be(distance: float, seconds: float):
    measured = smoothness(minimum_jerk(distance, seconds), [], FINE)
    unit = distance / seconds**3
    # j(s) = unit (60 - 360 s + 360 s^2): its mean norm is 40 / sqrt 3, its mean square 720.
    assert measured.mean_jerk == pytest.approx(40 / np.sqrt(3) * unit, rel=0.02)
    assert measured.rms_jerk == pytest.approx(np.sqrt(720) * unit, rel=0.02)
    assert measured.path_length == pytest.approx(distance)
    assert measured.curvature == pytest.approx(0.0, abs=1e-3)


@given(st.floats(0.02, 0.2), st.floats(0.3, 2.0))
def test_a_sinusoid(amplitude: float, hertz: float):
    omega = 2 * np.pi * hertz
    t = np.arange(round(4 * FINE / hertz) + 1) / FINE  # four whole periods
    positions = amplitude * np.sin(omega * t)[:, None] * np.array([[0.0, 1.0, 0.0]])
    measured = smoothness(positions, [], FINE)
    assert measured.mean_jerk == pytest.approx(amplitude * omega**3 * 2 / np.pi, rel=0.01)
    assert measured.rms_jerk == pytest.approx(amplitude * omega**3 / np.sqrt(2), rel=0.01)
    assert measured.path_length == pytest.approx(16 * amplitude, rel=0.01)


@given(st.floats(0.05, 0.5), st.floats(0.0, 0.5))
def test_a_circle_and_a_helix_have_their_curvature(radius: float, rise: float):
    """A helix climbs by `rise` per radian; a circle does not."""
    angle = np.linspace(0, np.pi, 400)
    helix = np.stack([radius * np.cos(angle), radius * np.sin(angle), rise * angle], axis=1)
    measured = smoothness(helix, [], RATE)
    assert measured.path_length == pytest.approx(np.pi * np.hypot(radius, rise), rel=1e-4)
    assert measured.curvature == pytest.approx(radius / (radius**2 + rise**2), rel=1e-3)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("rate", [RATE * 2, FINE])
def test_one_smooth_reach_has_one_spectral_arc_length(seconds: float, rate: float):
    """That is the point of it: fast or slow, far or near, it is the same motion."""
    measured = [smoothness(minimum_jerk(d, seconds, rate), [], rate).sparc for d in (0.1, 0.4)]
    assert measured[0] == pytest.approx(measured[1])
    # What the published code gives for it, which agrees on other motions to the last digit.
    assert measured[0] == pytest.approx(-1.40, abs=0.01)


def test_stops_on_the_way_lengthen_the_spectral_arc():
    way = np.array([[0.18, 0.0, 0.24]])

    def reaches(n: int) -> np.ndarray:
        one = minimum_jerk(0.3 / n, 2.0 / n, RATE)[:-1]
        return np.concatenate([*(one + way * i / n for i in range(n)), way])

    arcs = [smoothness(reaches(n), [], RATE).sparc for n in (1, 2, 4)]
    assert arcs[0] > arcs[1] > arcs[2]


@given(st.integers(0, 10_000), st.floats(0.3, 3.0), st.floats(-3.0, 3.0))
def test_what_is_measured_has_its_units(seed: int, scale: float, angle: float):
    """Metres scale by their power, and neither turning nor shifting a motion changes anything."""
    positions = wander(seed)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    )
    before = asdict(smoothness(positions, [5, 10], RATE))
    turned = asdict(smoothness(positions @ turn.T + [1.0, 2.0, 3.0], [5, 10], RATE))
    assert turned == pytest.approx(before, rel=1e-5)
    faster = asdict(smoothness(positions, [5, 10], 2 * RATE))
    assert faster["mean_jerk"] == pytest.approx(8 * before["mean_jerk"])
    assert faster["boundary_acceleration"] == pytest.approx(4 * before["boundary_acceleration"])
    larger = asdict(smoothness(scale * positions, [5, 10], RATE))
    assert larger["sparc"] == pytest.approx(before["sparc"])
    assert larger["rms_jerk"] == pytest.approx(scale * before["rms_jerk"])


def test_a_jump_between_chunks_shows_at_the_boundary_only():
    velocity = np.repeat([0.0, 0.1, -0.1], 5)  # m/s, three chunks of five actions
    positions = np.zeros((16, 3))
    positions[1:, 0] = np.cumsum(velocity) / RATE
    measured = smoothness(positions, [0, 5, 10], RATE)
    assert measured.boundary_acceleration == pytest.approx((0.1 + 0.2) / 2 * RATE)
    assert measured.inside_acceleration == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_too_short_to_tell_is_none(length):
    measured = smoothness(np.zeros((length, 3)), [0], RATE)
    assert measured.mean_jerk is None and measured.curvature is None and measured.sparc is None
    assert measured.path_length == 0.0


def test_a_hand_that_stands_still_has_no_curvature():
    measured = smoothness(np.zeros((40, 3)), [5], RATE)
    assert measured.mean_jerk == 0.0 and measured.curvature is None and measured.sparc is None


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_simulation_that_diverged_is_measured_up_to_there(broken):
    positions = wander(3)
    cut = positions.copy()
    cut[50, 1] = broken
    assert smoothness(cut, [5, 60], RATE) == smoothness(positions[:50], [5], RATE)
