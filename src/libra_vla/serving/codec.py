"""Messages as openpi-client 0.1.2 encodes them: msgpack, with NumPy arrays as maps of bytes keys.

Decoding trusts nothing: every length is bounded, every array's type is one of a list and its bytes
are exactly as many as its shape says. Objects of any other kind are refused.
"""

import math
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from libra_vla.errors import LibraError

DTYPES = {
    np.dtype(name).str: np.dtype(name)
    for name in (
        "bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64",
        "float16", "float32", "float64",
    )
}  # fmt: skip
"""Array types that may come in, by NumPy's name for them ("<f4")."""
MAX_DIMENSIONS = 8
MAX_ITEMS, MAX_TEXT = 1024, 1 << 16
"""Most entries of one list or map, most bytes of one text."""


def pack(message: Mapping[str, Any]) -> bytes:
    """Returns `message` as bytes; its values are plain JSON values or NumPy arrays of numbers."""
    packed = msgpack.packb(message, default=_pack_array)
    assert packed is not None
    return packed


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.str not in DTYPES:
        raise TypeError(f"arrays of type {value.dtype} are not sent")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__} is not sent")


def unpack(message: bytes) -> dict[str, Any]:
    """Returns the map that `message` encodes; its arrays are read-only.

    Raises:
        LibraError: it is no msgpack, no map, too large in some way, or holds an array of a type
            that is not sent, or whose size contradicts its shape.
    """
    try:
        value = msgpack.unpackb(
            message,
            object_hook=_unpack_array,
            ext_hook=_refuse_extension,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            max_str_len=MAX_TEXT,
            max_bin_len=len(message),
            max_ext_len=0,
        )
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LibraError(
            f"the message is not valid msgpack ({reason}): expected a map, as of openpi-client"
        ) from None
    if not isinstance(value, dict):
        raise LibraError(f"the message is a {type(value).__name__}: expected a map of keys")
    for key in value:
        if not isinstance(key, str):
            raise LibraError(f"the message has the key {key!r:.80}: expected keys that are text")
    return value


def _refuse_extension(code: int, data: bytes) -> Any:
    raise LibraError(f"the message holds a msgpack extension (type {code}): these are not read")


def _unpack_array(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        dtype, data = _dtype(value), value.get(b"data")
        if not isinstance(data, bool | int | float):
            raise LibraError(f"a {dtype} holds a {type(data).__name__}: expected a number")
        return dtype.type(data)
    return value


def _array(value: dict[Any, Any]) -> np.ndarray:
    dtype, data, shape = _dtype(value), value.get(b"data"), value.get(b"shape")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_DIMENSIONS
        or any(type(side) is not int or side < 0 for side in shape)
    ):
        raise LibraError(
            f"an array has the shape {shape!r:.80}: expected at most {MAX_DIMENSIONS} whole numbers"
        )
    if not isinstance(data, bytes) or math.prod(shape) * dtype.itemsize != len(data):
        size = f"{len(data)} bytes" if isinstance(data, bytes) else f"a {type(data).__name__}"
        raise LibraError(
            f"an array of {dtype}{shape} holds {size}: expected "
            f"{math.prod(shape) * dtype.itemsize} bytes"
        )
    return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))


def _dtype(value: dict[Any, Any]) -> np.dtype:
    name = value.get(b"dtype")
    if not isinstance(name, str) or name not in DTYPES:
        raise LibraError(
            f"an array is of type {name!r:.80}: expected one of {', '.join(sorted(DTYPES))}"
        )
    return DTYPES[name]
