"""The record of official trials: what goes into it, and that the page says what it says."""

import json
from dataclasses import asdict
from pathlib import Path

import official
import pytest

from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.trial import Trial
from libra_vla.files import write_json
from libra_vla.policies.policy import load_policy

ROOT = Path(__file__).parent.parent
RECORD, PAGE = ROOT / "docs" / "results" / "official.csv", ROOT / "docs" / "results" / "libero.md"
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")


def evaluation(out: Path, suite: str, successes: list[bool], **changes: object) -> Path:
    """A folder such as `libra eval` writes, of trials of task 0."""
    config = EvalConfig(policy=Path("p"), suite=suite, out=out, image_size=256)
    policy = {"policy kind": "libra", "policy checkpoint_hash": "0123456789abcdef"}
    write_json(out / "evaluation.json", config.decisive | policy | changes)
    trials = [
        Trial(0, n, n, n, success, steps=100 + n, failure=None if success else "actuation",
              phase=None if success else "place")
        for n, success in enumerate(successes)
    ]  # fmt: skip
    lines = [json.dumps(asdict(trial)) + "\n" for trial in trials]
    (out / "episodes.jsonl").write_text("".join(lines))
    return out


def test_what_is_recorded_is_read_again_and_counted(tmp_path: Path):
    first = [evaluation(tmp_path / suite, suite, [True, False]) for suite in SUITES]
    again = evaluation(tmp_path / "again", SUITES[0], [True, True], seed=1)
    official.record(tmp_path / "record.csv", [*first, again])
    before = (tmp_path / "record.csv").read_text()
    official.record(tmp_path / "record.csv", [again])
    assert (tmp_path / "record.csv").read_text() == before, "what it has stays"
    outcomes = official.read(tmp_path / "record.csv")
    assert len(outcomes) == 10
    failed = next(o for o in outcomes if not o.success)
    assert (failed.weights, failed.error, failed.steps) == ("0123456789ab", "place", 101)
    tables = official.tables(outcomes)
    assert "| libra, sequential, seed 0 | 2 | 1 of 2: 50.0 % [9.5, 90.5] |" in tables["suites"]
    assert "| 4 of 8: 50.0 % [21.5, 78.5] | 50.0 % |" in tables["suites"]
    assert "| libra, sequential, seed 1 | 2 | 2 of 2: 100.0 % [34.2, 100.0] |" in tables["suites"]
    assert "| libra, sequential, seed 1 | 2 | 1 | 0 | +50.0 [" in tables["pairs"]
    assert "| Goal 1 | put the bowl on the stove | not run |" in tables["tasks"]
    assert tables["failures"].endswith("| LIBERO-10 | 1 |\n")


@pytest.mark.parametrize(
    "change",
    [
        {"states": "sampled"},
        {"meshes": "decimated"},
        {"max_steps": 900},
        {"instruction_from": {"0": 1}},
    ],
)
def test_what_is_not_official_is_not_recorded(tmp_path: Path, change: dict[str, object]):
    folder = evaluation(tmp_path / "other", SUITES[0], [True], **change)
    with pytest.raises(SystemExit, match=next(iter(change))):
        official.record(tmp_path / "record.csv", [folder])
    assert not (tmp_path / "record.csv").exists()


def test_the_record_is_of_the_policy_that_comes_with_the_package():
    weights = load_policy("libra-small-libero").describe()["checkpoint_hash"]
    assert {o.weights for o in official.read(RECORD)} == {weights[:12]}


def test_the_page_shows_the_tables_of_the_record():
    page = PAGE.read_text(encoding="utf-8")
    for name, table in official.tables(official.read(RECORD)).items():
        assert table in page, f"{name} is out of date: python scripts/official.py tables {RECORD}"
