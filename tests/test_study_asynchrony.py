import json
from dataclasses import replace

import pytest
from fakes import TOY, load_scripted
from hypothesis import given
from hypothesis import strategies as st

from libra_vla.errors import LibraError
from libra_vla.evaluation.statistics import paired_difference
from libra_vla.studies.asynchrony import AsynchronyConfig, grid, study_asynchrony


def configure(tmp_path, **options) -> AsynchronyConfig:
    defaults = {
        "policy": tmp_path / "run", "suite": "toy", "out": tmp_path / "out", "tasks": "0",
        "episodes": 2, "workers": 0, "delays": (0, 3), "variants": ("plain", "replan"),
        "max_steps": 40,
    }  # fmt: skip
    return AsynchronyConfig(**defaults | options)


def run(config: AsynchronyConfig) -> dict:
    return study_asynchrony(config, benchmark=TOY, load_policy=load_scripted, quiet=True)


def test_the_grid_leaves_out_what_the_policy_was_not_trained_for(tmp_path):
    cells = list(grid(configure(tmp_path), trained_factor=2))
    assert len(cells) == len({c.name for c in cells}) == 2 * 2 * (1 + 2 + 2)
    assert (cells[0].mode, cells[0].delay, cells[0].variant) == ("synchronous", 0, "plain")
    with pytest.raises(LibraError, match="plans for M = 2 chunks"):
        list(grid(configure(tmp_path, horizon_factors=(3, 4)), trained_factor=2))


def test_every_cell_is_evaluated_and_compared_with_the_reference(tmp_path):
    study = run(configure(tmp_path))
    assert study == json.loads((tmp_path / "out" / "study.json").read_text())
    assert study["complete"] and len(study["cells"]) == 20
    first = study["cells"][0]
    assert (first["mode"], first["M"], first["delay"]) == ("synchronous", None, 0)
    assert first["paired"]["difference"] == 0 and first["paired"]["trials"] == 2
    late = [c for c in study["cells"] if c["delay"] == 3 and c["variant"] == "plain"]
    assert {c["mode"]: c["starved_steps"] > 0 for c in late} == {
        "synchronous": False, "sequential": False, "concurrent": True,
    }  # fmt: skip
    assert all((c["waited_steps"] > 0) == (c["mode"] != "concurrent") for c in late)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "What a late planner costs" in page and page.count("<svg") == 5 + 3 and "refiner" in page


def test_the_same_command_goes_on_and_may_ask_for_more(tmp_path):
    config = configure(tmp_path, delays=(0,), variants=("plain",))
    run(config)
    cell = tmp_path / "out" / "cells" / "sequential-M2-delay0-plain"
    before = (cell / "results.json").stat().st_mtime_ns
    journal = cell.parent / "synchronous-M1-delay0-plain" / "results.json"
    journal.unlink()
    study = run(replace(config, delays=(0, 1)))
    assert len(study["cells"]) == 10
    assert (cell / "results.json").stat().st_mtime_ns == before, "not again"
    with pytest.raises(LibraError, match="holds a study with another episodes, seed"):
        run(replace(config, seed=3, episodes=1))


def test_chunks_that_overlap_are_refined_anew_before_they_end(tmp_path):
    study = run(configure(tmp_path, delays=(0,), variants=("plain", "overlap")))
    plain, overlap = (c for c in study["cells"] if c["mode"] == "synchronous")
    assert overlap["plans"] > plain["plans"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ("sync",)}, "unknown mode 'sync'"),
        ({"variants": ()}, "variants is empty"),
        ({"delays": (-1,)}, "expected control steps"),
        ({"horizon_factors": (0,)}, "expected 1 or more"),
        ({"overlap": 5}, "a chunk holds H = 5"),
        ({"variants": ("inpaint",)}, "cannot in-paint"),
    ],
)
def test_a_wrong_request_is_one_clear_line(tmp_path, options, message):
    with pytest.raises(LibraError, match=message):
        run(configure(tmp_path, **options))
    assert not (tmp_path / "out").exists()


@given(n=st.integers(1, 60), data=st.data())
def test_paired_intervals_hold_their_difference_and_turn_with_it(n, data):
    better = data.draw(st.integers(0, n))
    worse = data.draw(st.integers(0, n - better))
    difference, (low, high) = paired_difference(better, worse, n)
    assert -1.0 <= low <= difference <= high <= 1.0
    turned, (a, b) = paired_difference(worse, better, n)
    assert (turned, a, b) == pytest.approx((-difference, -high, -low))
