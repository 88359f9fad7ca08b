"""Headless rendering: which OpenGL library is here, chosen before MuJoCo is imported."""

import ctypes.util
import os
import sys
from typing import Any

from libra_vla.errors import LibraError

LIBRARIES = {"osmesa": "OSMesa", "egl": "EGL"}
"""MUJOCO_GL value -> system library; OSMesa first, the faster one on a CPU."""

REMEDY = "sudo apt-get install libosmesa6 (or libegl1, where there is none)"


def available() -> list[str]:
    """MUJOCO_GL values whose library this machine has, the preferred one first."""
    return [name for name, library in LIBRARIES.items() if ctypes.util.find_library(library)]


def probe() -> dict[str, Any]:
    """What `libra doctor` says: `backend`, `available`, `ok` and the `remedy` if not."""
    found = available()
    chosen = os.environ.get("MUJOCO_GL") or (found[0] if found else None)
    ok = sys.platform != "linux" or bool(found)
    return {"backend": chosen, "available": found, "ok": ok, "remedy": None if ok else REMEDY}


def choose_backend() -> str:
    """Sets MUJOCO_GL, unless the user has, and returns it.

    Raises:
        LibraError: Linux without any library to render with.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if sys.platform != "linux":
        return "glfw"
    found = available()
    if not found:
        raise LibraError(f"no headless OpenGL library was found: {REMEDY}")
    os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = found[0]
    return found[0]
