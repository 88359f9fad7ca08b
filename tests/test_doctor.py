"""The doctor: every check, in order and amiss."""

import platform
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from libra_vla import doctor, versions
from libra_vla.cli import main, summaries


def names(found):
    return {check["name"] for check in found["checks"]}


def test_looks_at_everything_and_says_how_to_mend_it():
    found = doctor.examine()
    assert {"python", "torch", "mujoco", "one LIBERO", "headless rendering", "H.264 video",
            "memory", "free disk"} <= names(found)  # fmt: skip
    assert all((check["remedy"] is None) == check["ok"] for check in found["checks"])
    assert found["ok"] == all(check["ok"] for check in found["checks"])


def test_development_tools_are_not_missed():
    assert not {"pytest", "ruff", "transformers"} & names(doctor.examine())


def test_a_package_that_is_missing_or_of_another_version():
    missing = doctor._package(Requirement("no-such-thing==1.0"), "libero")
    assert (missing["ok"], missing["remedy"]) == (False, "pip install 'libra-vla[libero]'")
    other = doctor._package(Requirement("numpy==1.0"), "")
    assert (other["ok"], other["remedy"]) == (False, "pip install 'numpy==1.0'")


def test_a_local_version_is_the_pinned_one(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "2.13.0+cpu")
    assert doctor._package(Requirement("torch==2.13.0"), "")["ok"]


def test_two_liberos(monkeypatch):
    def version(name):
        if name == "hf-libero":
            return "0.1"
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", version)
    check = doctor._one_libero()
    assert not check["ok"] and "pip uninstall -y hf-libero" in check["remedy"]


def test_no_opengl(monkeypatch):
    probed = {"backend": None, "available": [], "ok": False, "remedy": "install it"}
    monkeypatch.setattr(doctor.rendering, "probe", lambda: probed)
    assert doctor._rendering() == {
        "name": "headless rendering", "ok": False, "found": "no OpenGL library",
        "remedy": "install it",
    }  # fmt: skip


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_exit_code_and_text(ok, code, monkeypatch, capsys):
    check = {"name": "memory", "ok": ok, "found": "1 GiB", "remedy": None if ok else "buy some"}
    monkeypatch.setattr(doctor, "examine", lambda: {"ok": ok, "checks": [check]})
    assert main(["doctor"]) == code
    assert ("buy some" in capsys.readouterr().out) is not ok


def test_text_for_people():
    found = {"ok": True, "checks": [{"name": "a", "ok": True, "found": "1", "remedy": None}]}
    assert summaries.doctor(found) == "ok  a  1\neverything is here"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("flags\t: fma avx2 sse4_1", " avx2"),
        ("flags\t: avx2 avx512f avx512_bf16", " avx512_bf16"),
        ("flags\t: sse2", ""),
        ("Features\t: asimd", ""),
    ],
)
def test_versions_name_the_kind_of_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, told: str
):
    monkeypatch.setattr(versions, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}\n")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    versions.versions.cache_clear()
    assert versions.versions()["cpu"] == f"x86_64{told}"
    versions.versions.cache_clear()
