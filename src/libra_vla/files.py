"""Files and folders that are either whole or absent: everything is written aside, then renamed."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from libra_vla.errors import LibraError


@contextmanager
def clear_disk_errors(target: Path) -> Iterator[None]:
    """Turns what the disk refuses (full, read-only, forbidden) into one clear `LibraError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LibraError(
                f"the disk is full while writing {target}: free some space, then run it again"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise LibraError(
                f"cannot write {target} ({os.strerror(error.errno)}): choose another output folder"
            ) from error
        raise


@contextmanager
def atomic_file(target: Path | str) -> Iterator[Path]:
    """Yields a path beside `target` to write to; it becomes `target` when the block ends well.

    After an exception nothing is left behind and an older `target` is untouched.

    Raises:
        LibraError: the disk is full or the folder cannot be written.
    """
    target = Path(target)
    with clear_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix=f".partial{target.suffix}"
        )
        os.close(handle)
        partial = Path(name)
        try:
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.chmod(0o644)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(target: Path | str) -> Iterator[Path]:
    """Like `atomic_file`, for a folder; an older `target` is replaced as a whole."""
    target = Path(target)
    with clear_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.partial."))
        aside.chmod(0o755)
        try:
            yield aside
            for file in aside.rglob("*"):
                if file.is_file():  # safetensors writes for the owner alone
                    file.chmod(0o644)
            if target.exists():
                old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.old."))
                target.rename(old / target.name)
                aside.rename(target)
                shutil.rmtree(old)
            else:
                aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def sole_writer(folder: Path | str) -> Iterator[None]:
    """Keeps a folder to one process while the block runs; it is made if there is none.

    The lock ends with the process, however that ends, and leaves nothing in the folder. What a
    killed process left half-written right there (see `atomic_file`) is removed.

    Raises:
        LibraError: another process writes there, or the folder cannot be made.
    """
    folder = Path(folder)
    with clear_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LibraError(
                f"another process is writing {folder}: wait until it ends, or stop it"
            ) from None
        for left in folder.glob(".*.partial*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        yield
    finally:
        os.close(handle)
        with suppress(OSError):
            folder.rmdir()  # if it is still empty, there was nothing to write


P = ParamSpec("P")
R = TypeVar("R")


def alone_in_out(work: Callable[P, R]) -> Callable[P, R]:
    """Decorates work whose first argument says in `out` where it writes; see `sole_writer`."""

    @wraps(work)
    def alone(*args: P.args, **options: P.kwargs) -> R:
        with sole_writer(cast(Any, args[0]).out):
            return work(*args, **options)

    return alone


def write_text(target: Path | str, text: str) -> None:
    """Writes `text` as UTF-8, atomically."""
    with atomic_file(target) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(target: Path | str, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN and infinity are refused (ValueError)."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Reads a JSON file.

    Raises:
        LibraError: the file is missing or is not JSON.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LibraError(f"{path} does not exist: check the path") from None
    except UnicodeDecodeError as error:
        raise LibraError(f"{path} is not text ({error}): it may be damaged") from error
    return json_from_text(text, where=str(path))


def json_from_text(text: str, *, where: str) -> Any:
    """Parses JSON.

    Raises:
        LibraError: naming `where` it came from.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise LibraError(f"{where} is not valid JSON ({error}): it may be truncated") from error


def require_absent(path: Path | str, *, what: str, remedy: str) -> None:
    """Raises LibraError if `path` exists and is not an empty folder: nothing is overwritten."""
    path = Path(path)
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        raise LibraError(f"{what} {path} exists already: {remedy}")


def sha256(path: Path | str) -> str:
    """Returns the hexadecimal SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
