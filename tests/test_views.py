"""Where a camera sees what: `libra_vla.views`."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.errors import LibraError
from libra_vla.views import View, Views

DOWN = View(False, 2.0 * np.arctan(0.5), (0.0, 0.0, 2.0), ((1, 0, 0), (0, -1, 0), (0, 0, -1)))
"""Two metres up, looking down on two metres by two."""
STRAIGHT = np.eye(3)[None]


def pictured(view: View | None, place: tuple[float, float, float], hand=(0.0, 0.0, 0.0)):
    found = Views.of([[view]]).pictured(np.array([[place]]), np.array([hand]), STRAIGHT)
    assert found.shape == (1, 1, 1, 2) and found.dtype == np.float32
    return found[0, 0, 0]


def test_a_camera_that_stands_sees_the_world():
    np.testing.assert_allclose(pictured(DOWN, (0.0, 0.0, 0.0)), [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(pictured(DOWN, (0.5, 0.25, 0.0)), [-0.25, 0.5], atol=1e-6)
    np.testing.assert_allclose(pictured(DOWN, (0.25, 0.0, 1.0)), [0.0, 0.5], atol=1e-6)
    assert np.isnan(pictured(DOWN, (1.01, 0.0, 0.0))).all(), "beside the picture"
    assert np.isnan(pictured(DOWN, (0.0, 0.0, 2.5))).all(), "behind the camera"
    assert np.isnan(pictured(None, (0.0, 0.0, 0.0))).all(), "nothing is known of it"


@given(st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6), st.floats(-3.0, 3.0))
def test_a_camera_on_the_hand_moves_with_it(numbers: list[float], angle: float):
    hand, place = np.array(numbers[:3]), np.array(numbers[3:])
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    views = Views.of([[DOWN, View(True, DOWN.fov, DOWN.at, DOWN.axes)]])
    stood = views.pictured(place[None, None], np.zeros((1, 3)), STRAIGHT)
    carried = views.pictured((turned @ place + hand)[None, None], hand[None], turned[None])
    np.testing.assert_allclose(stood[0, 0], stood[0, 1])
    np.testing.assert_allclose(carried[0, 1], stood[0, 1], atol=1e-5)


def test_views_of_some_samples():
    views = Views.of([[DOWN, None], [None, DOWN]])[np.array([1, 1, 0])]
    found = views.pictured(np.zeros((3, 1, 3)), np.zeros((3, 3)), STRAIGHT.repeat(3, axis=0))
    known = [[False, True], [False, True], [True, False]]
    np.testing.assert_array_equal(np.isfinite(found).all(axis=(2, 3)), known)


def test_a_view_is_told_and_read():
    told = json.loads(json.dumps(DOWN.to_json()))
    assert View.from_json(told) == View.from_json(View.from_json(told).to_json())
    np.testing.assert_allclose(pictured(View.from_json(told), (0.5, 0.0, 0.0)), [0.0, 0.5])
    nan = told | {"at": [0.0, np.nan, 1.0]}
    others = ({"at": [0.0, 1.0]}, {"axes": "none"}, {"fov": None}, {"fov": np.inf})
    for broken in ({}, nan, *(told | other for other in others)):
        with pytest.raises(LibraError, match="a camera's view is not as expected"):
            View.from_json(broken)
