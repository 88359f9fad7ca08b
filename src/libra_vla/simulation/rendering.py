"""Headless rendering: which OpenGL library is here, and drawing only what a camera can see."""

import ctypes.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import numpy as np

from libra_vla.errors import LibraError

LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}
"""MUJOCO_GL value -> system library; OSMesa first, the faster one on a CPU."""

REMEDY = "sudo apt-get install libosmesa6 (or libegl1, where there is none)"


HIDDEN_GROUP = 5
"""A group of geoms that is not drawn."""


def available() -> list[str]:
    """MUJOCO_GL values whose library this machine has, the preferred one first."""
    return [name for name, library in LIBRARIES.items() if ctypes.util.find_library(library)]


def probe() -> dict[str, Any]:
    """What `libra doctor` says: `backend`, `available`, `ok` and the `remedy` if not."""
    found = available()
    chosen = os.environ.get("MUJOCO_GL") or (found[0] if found else None)
    ok = sys.platform != "linux" or bool(found)
    return {"backend": chosen, "available": found, "ok": ok, "remedy": None if ok else REMEDY}


def choose_backend(*, required: bool = True) -> str | None:
    """Sets MUJOCO_GL, unless the user has, and returns it; to be called before importing MuJoCo,
    which settles it for the process, and so even where nothing is drawn yet.

    Args:
        required: without any library, raise instead of returning None.

    Raises:
        LibraError: Linux without any library to render with.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if sys.platform != "linux":
        return "glfw"
    found = available()
    if not found and not required:
        return None
    if not found:
        raise LibraError(f"no headless OpenGL library was found: {REMEDY}")
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = found[0]
    return found[0]


CORNERS = np.array(list(product((-1.0, 1.0), repeat=3)))
"""Of a box, in half its sides, [8, 3]."""
MARGIN = 0.01
"""Metres by which a box is taken for larger than it is."""


def visible_geoms(model: Any, data: Any, camera: int) -> np.ndarray:
    """Which geoms' bounding boxes reach into a square view of `camera`, bool [geoms].

    A box is out of view where all of its corners are on the far side of one face of the pyramid
    that the camera sees. Planes have no bounds.
    """
    centre, half = model.geom_aabb[:, None, :3], model.geom_aabb[:, None, 3:] + MARGIN
    corners = (centre + CORNERS * half) @ data.geom_xmat.reshape(-1, 3, 3).swapaxes(1, 2)
    seen_from = data.geom_xpos[:, None] + corners - data.cam_xpos[camera]
    x, y, z = np.moveaxis(seen_from @ data.cam_xmat[camera].reshape(3, 3), -1, 0)
    reach = -z * np.tan(np.deg2rad(model.cam_fovy[camera]) / 2.0)  # it looks along -z
    sides = (x > reach, -x > reach, y > reach, -y > reach, z > 0.0)
    outside = np.logical_or.reduce([side.all(axis=1) for side in sides])
    return ~outside | (model.geom_rbound == 0)


@contextmanager
def drawing_only(model: Any, geoms: np.ndarray) -> Iterator[None]:
    """Leaves the other geoms out of a scene that is updated meanwhile.

    Those out of view change no pixel, but MuJoCo would send them to the rasteriser all the same.
    """
    groups = np.array(model.geom_group)
    model.geom_group[~geoms] = HIDDEN_GROUP
    try:
        yield
    finally:
        model.geom_group[:] = groups
