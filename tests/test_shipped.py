"""The policies that come with the package: small, whole, and good for something."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from libra_vla.cli import main
from libra_vla.policies.checkpoints import SHIPPED, WEIGHTS, shipped
from libra_vla.policies.policy import load_policy

LIBERO = "libra-small-libero"


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_policy_is_small_and_in_half_precision(name: str):
    assert sum(file.stat().st_size for file in (SHIPPED / name).rglob("*")) <= 25e6
    with safe_open(SHIPPED / name / WEIGHTS, "pt") as weights:
        dtypes = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
    assert dtypes & {"F16", "BF16"} and not dtypes & {"F32", "F64"}


def test_the_policy_for_libero_is_one_of_them_and_knows_what_it_was_trained_on():
    assert LIBERO in shipped()
    policy = load_policy(LIBERO)
    assert policy.describe()["parameters"] <= 15e6
    assert len(policy.training["dataset"]["instructions"]) == 40


def test_the_policy_for_libero_tells_what_it_is(capsys: pytest.CaptureFixture[str]):
    assert main(["info", "--policy", LIBERO]) == 0
    shown = capsys.readouterr().out
    assert "tells places of: " in shown and "planner.places: " in shown


@pytest.mark.simulator
def test_the_policy_for_libero_works_without_training(tmp_path: Path):
    """An easy task: three official states, of which it solves at least two."""
    pytest.importorskip("libero")
    out = tmp_path / "evaluation"
    evaluation = ["eval", "--policy", LIBERO, "--suite", "libero_object", "--tasks", "0"]
    assert main([*evaluation, "--episodes", "3", "--out", str(out)]) == 0
    results = json.loads((out / "results.json").read_text())
    assert results["errors"] == 0 and results["successes"] >= 2
