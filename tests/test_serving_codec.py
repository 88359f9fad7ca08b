"""Messages: what goes through, and what is refused with an error that says why."""

import msgpack
import numpy as np
import pytest
from fakes import CONVENTION, SPEC
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from serving_tools import request

from libra_vla.errors import LibraError
from libra_vla.observation import Observation
from libra_vla.serving.codec import DTYPES, pack, unpack
from libra_vla.serving.requests import read_request, write_observation

arrays = st.sampled_from(sorted(DTYPES.values(), key=str)).flatmap(
    lambda dtype: hnp.arrays(
        dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    )
)
plain = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text()


@given(st.dictionaries(st.text(), arrays | plain | st.lists(plain, max_size=4)))
def test_what_is_packed_comes_back(message):
    assert alike(unpack(pack(message)), message)


def alike(one, other) -> bool:
    """Equal in types, shapes and values, where NaN equals NaN at any depth."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, np.ndarray):
        return (
            one.dtype == other.dtype
            and one.tobytes() == other.tobytes()
            and one.shape == other.shape
        )
    return one == other or (one != one and other != other)


@given(st.binary(max_size=400))
def test_any_bytes_are_a_map_or_a_clear_error(data):
    try:
        assert isinstance(unpack(data), dict)
    except LibraError as error:
        assert "\n" not in str(error)


def test_openpi_client_speaks_the_same():
    theirs = pytest.importorskip("openpi_client.msgpack_numpy")
    message = request() | {"number": np.float32(0.5), "list": [1, "a"]}
    for there, back in ((pack, theirs.unpackb), (theirs.packb, unpack)):
        result = back(there(message))
        assert result.keys() == message.keys() and result["number"] == np.float32(0.5)
        np.testing.assert_array_equal(result["observation/image"], message["observation/image"])
        assert result["observation/state"].dtype == np.float64


def array(data=b"\0" * 12, dtype="<f4", shape=(3,)):
    return {"x": {b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape}}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (array(dtype="|O"), "type '|O'"),
        (array(dtype="<c8"), "type '<c8'"),
        (array(dtype="|V4"), "type '|V4'"),
        (array(dtype="<M8[s]"), "type"),
        (array(dtype=["<f4"]), "type"),
        (array(dtype="f4,f4"), "type"),
        (array(shape=(4,)), "expected 16 bytes"),
        (array(shape=(-3,)), "shape"),
        (array(shape=(2**62, 2**62)), "expected"),
        (array(shape=(1,) * 9), "at most 8"),
        (array(shape="3"), "shape"),
        (array(shape=(True, 3)), "shape"),
        (array(data="text"), "holds a str"),
        ({"x": {b"__ndarray__": True}}, "type None"),
        ({"x": {b"__npgeneric__": True, b"dtype": "<f4", b"data": "1"}}, "expected a number"),
        ({b"bytes": 1}, "keys that are text"),
        ({"x": msgpack.ExtType(1, b"abc")}, "ext"),
        ({"x": msgpack.Timestamp(1)}, "ext"),
        ({"x": [0] * 2000}, "max_array_len"),
        ([1, 2], "is a list"),
        (7, "is a int"),
    ],
)
def test_what_is_not_sent_is_refused(value, said):
    with pytest.raises(LibraError, match=r"(?s).*" + said.replace("|", r"\|").replace("[", r"\[")):
        unpack(msgpack.packb(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x80",  # something behind the end
        pack(request())[:-1],
        b"\xdd\xff\xff\xff\xff",  # a list that claims four thousand million entries
        b"\xdf\x00\x10\x00\x00" * 1000,
        b"\x81\xa1x" * 5000 + b"\xc0",
        b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa1\xff\xc0",  # no UTF-8
        b"\x81\x90\xc0",  # a list as a key
    ],
)
def test_damage_is_refused(data):
    with pytest.raises(LibraError):
        unpack(data)


def test_objects_are_not_packed_either():
    for value in (np.array([object()]), np.zeros(2, dtype=complex), object(), {1, 2}):
        with pytest.raises(TypeError):
            pack({"x": value})


@given(st.integers(0, 10**6))
def test_an_observation_survives_the_wire(step):
    rng = np.random.default_rng(step)
    seen = Observation(
        {"agentview": rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)},
        rng.normal(size=3).astype(np.float32),
        "go there",
        step,
    )
    read = read_request(unpack(pack(write_observation(seen, SPEC.cameras))), SPEC, CONVENTION)
    assert read.step == step and read.observation.step == step and not read.reset
    np.testing.assert_array_equal(read.observation.images["agentview"], seen.images["agentview"])
    np.testing.assert_array_equal(read.observation.state, seen.state)


BAD = {
    "observation/image": [
        None,
        "pixels",
        np.zeros((8, 8, 3), dtype=np.float32),
        np.zeros((3, 8, 8), dtype=np.uint8),
        np.zeros((8, 8), dtype=np.uint8),
        np.zeros((0, 8, 3), dtype=np.uint8),
        np.zeros((5000, 1, 3), dtype=np.uint8),
    ],
    "observation/state": [
        None,
        [0.0, 0.0, 0.0],
        np.zeros(4),
        np.zeros((1, 3)),
        np.array([0.0, np.nan, 0.0]),
        np.array([0.0, np.inf, 0.0]),
        np.array([0.0, 1e300, 0.0]),
        np.zeros(3, dtype=bool),
    ],
    "prompt": [None, 7, "", "x" * 5000, b"bytes"],
    "libra/step": [-1, 1.5, True, "1", 2**64 - 1],
    "libra/seed": [-1, "x"],
    "libra/sequence": [-1, [1]],
    "libra/reset": [1, "yes"],
    "libra/convention": [1, {"names": 1}],
    "libra/what": [1],
}
"""Key -> values that are refused."""


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_the_error_names_the_key(key, value):
    with pytest.raises(LibraError) as caught:
        read_request(request(**{key: value}), SPEC, CONVENTION)
    assert key in str(caught.value) or key == "libra/convention"


@pytest.mark.parametrize("key", ["observation/image", "observation/state", "prompt"])
def test_a_missing_key_is_named(key):
    message = request()
    del message[key]
    with pytest.raises(LibraError, match=f"'{key}' is missing"):
        read_request(message, SPEC, CONVENTION)


def test_another_convention_is_refused_with_each_difference():
    theirs = CONVENTION.to_json() | {"gripper_open": 1.0, "gripper_closed": -1.0, "rate_hz": 10.0}
    with pytest.raises(LibraError, match=r"rate_hz is 10\.0 instead of 20\.0; gripper_open"):
        read_request(request(**{"libra/convention": theirs}), SPEC, CONVENTION)
    read_request(request(**{"libra/convention": CONVENTION.to_json()}), SPEC, CONVENTION)
