"""Folders that belong to one process at a time."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from libra_vla.errors import LibraError
from libra_vla.files import alone_in_out, atomic_folder, sole_writer

HOLD = """
import sys, time
from libra_vla.files import sole_writer
with sole_writer(sys.argv[1]):
    open(sys.argv[1] + "/work", "w").close()
    print("holding", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_one_is_gone(tmp_path: Path):
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None and first.stdout.readline() == "holding\n"
        with (
            pytest.raises(LibraError, match=r"another process is writing .*run: wait"),
            sole_writer(folder),
        ):
            pass
    finally:
        first.kill()
        first.wait()
    with sole_writer(folder):
        assert [p.name for p in folder.iterdir()] == ["work"], "the lock is no file"


def test_nothing_is_left_where_nothing_was_written(tmp_path: Path):
    @alone_in_out
    def refuse(config: SimpleNamespace) -> None:
        raise LibraError("no")

    with pytest.raises(LibraError, match="no"):
        refuse(SimpleNamespace(out=tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(LibraError, match=r"cannot write .*run"),
        sole_writer(tmp_path / "file" / "run"),
    ):
        pass


def test_what_a_library_wrote_for_its_owner_alone_can_be_read_by_all(tmp_path: Path):
    with atomic_folder(tmp_path / "checkpoint") as aside:
        (aside / "weights").write_text("")
        (aside / "weights").chmod(0o600)
    assert (tmp_path / "checkpoint" / "weights").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_writer_left_behind_is_swept_away(tmp_path: Path):
    kept = tmp_path / "results.json"
    for file in (kept, tmp_path / ".results.abc.partial.json", tmp_path / ".state.partial.x" / "a"):
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    with sole_writer(tmp_path):
        assert list(tmp_path.iterdir()) == [kept]
