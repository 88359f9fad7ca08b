"""What may import what, and what an import costs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "mujoco", "robosuite", "libero", "av", "pyarrow", "transformers")


def imported_by(statement: str) -> str:
    code = f"{statement}\nimport sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    return subprocess.check_output([sys.executable, "-c", code], text=True).strip()


@pytest.mark.parametrize(
    "module", ["libra_vla", "libra_vla.action_space", "libra_vla.execution.executor"]
)
def test_light_modules_stay_light(module):
    assert imported_by(f"import {module}") == ""


def test_each_room_knows_only_the_rooms_below_it():
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run([*lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_every_requirement_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    wanted = {Requirement(line).name for group in groups for line in group} - {"libra-vla"}
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert wanted <= {pin.partition("==")[0] for pin in pins}
