"""Observations and plans as bytes between processes of one machine: JSON and raw arrays, no pickle.

A message is the length of its head (4 bytes), the head (JSON: fields, and name, type and shape of
each array), and the arrays' bytes, one after the other.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation

LIMIT = 256 * 2**20
"""Most bytes of a message."""
KINDS = "biuf"
"""Array types that may be sent: numbers."""


def pack(fields: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Returns a message."""
    dense = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    described = [[name, a.dtype.str, list(a.shape)] for name, a in dense.items()]
    head = json.dumps({"fields": dict(fields), "arrays": described}).encode()
    return b"".join([struct.pack("<I", len(head)), head, *(a.tobytes() for a in dense.values())])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns fields and arrays of a message.

    Raises:
        LibraError: it is not one, or is damaged.
    """
    try:
        (length,) = struct.unpack_from("<I", message)
        head = json.loads(message[4 : 4 + length])
        arrays, offset = {}, 4 + length
        for name, kind, shape in head["arrays"]:
            dtype = np.dtype(kind)
            if dtype.kind not in KINDS:
                raise ValueError(f"array '{name}' is of type {kind}")
            if not all(isinstance(size, int) and size >= 0 for size in shape):
                raise ValueError(f"array '{name}' has shape {shape}")
            count = math.prod(shape)
            flat = np.frombuffer(message, dtype, count, offset)
            arrays[str(name)] = flat.reshape(shape).copy()
            offset += flat.nbytes
        if offset != len(message):
            raise ValueError(f"{len(message) - offset} bytes too many")
        return dict(head["fields"]), arrays
    except (ValueError, TypeError, KeyError, OverflowError, struct.error) as error:
        raise LibraError(f"a message between processes is damaged ({error})") from error


def pack_observation(observation: Observation) -> bytes:
    """Returns an observation as a message."""
    fields = {"instruction": observation.instruction, "step": observation.step}
    images = {f"image {camera}": image for camera, image in observation.images.items()}
    return pack(fields, {"state": np.asarray(observation.state), **images})


def unpack_observation(message: bytes) -> Observation:
    """Returns the observation of a message; raises LibraError if it is none."""
    fields, arrays = unpack(message)
    try:
        state = arrays.pop("state")
        images = {name.removeprefix("image "): image for name, image in arrays.items()}
        return Observation(images, state, str(fields["instruction"]), int(fields["step"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LibraError(f"a message holds no observation ({error!r})") from error


def pack_plan(plan: Plan) -> bytes:
    """Returns a plan as a message."""
    arrays = {"coarse": plan.coarse, "distribution": plan.distribution}
    return pack({"observation_step": plan.observation_step}, arrays)


def unpack_plan(message: bytes) -> Plan:
    """Returns the plan of a message.

    Raises:
        LibraError: it holds none.
        RuntimeError: it holds the error that planning ended in.
    """
    fields, arrays = unpack(message)
    if "error" in fields:
        raise RuntimeError(fields["error"])
    try:
        return Plan(arrays["coarse"], arrays["distribution"], int(fields["observation_step"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LibraError(f"a message holds no plan ({error!r})") from error
