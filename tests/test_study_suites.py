"""The study of all suites: what each stage asks for, what is added up, and the page."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import write_dataset
from safetensors.torch import load_file

from libra_vla import stages
from libra_vla.errors import LibraError
from libra_vla.files import read_json, sole_writer, write_json, write_text
from libra_vla.reports.suites import render
from libra_vla.stages import StageClock, train_and_evaluate, training_core_seconds
from libra_vla.studies import suites
from libra_vla.studies.suites import failures, study_suites, summary
from libra_vla.studies.suites_stages import (
    ARMS,
    PAPER,
    SuitesConfig,
    arms,
    collections,
    looks,
    trainings,
)

SUITES = ("libero_goal", "libero_10")
AT_ONCE = {"preset": "small", "intents": None, "scenes": 0, "looking": 0, "base_steps": 0}
"""Settings of a study whose Libra learns everything at once, from pictures of demonstrations."""


def results_of(config, successes: int) -> dict:
    """What an evaluation of two tasks with `config.episodes` trials each writes."""
    trials = config.episodes
    counts = (successes, trials)
    rows = [
        {"task": i, "trial": t, "success": t < n, "failure": None if t < n else "actuation"}
        for i, n in enumerate(counts)
        for t in range(trials)
    ]
    tasks = [
        {"index": i, "instruction": f"task {i}", "episodes": trials, "errors": 0, "successes": n}
        for i, n in enumerate(counts)
    ]
    return {
        "complete": True,
        "suite": config.suite,
        "episodes": 2 * trials,
        "errors": 0,
        "successes": sum(counts),
        "success_rate": sum(counts) / (2 * trials),
        "policy": {"parameters": 1_736_011},
        "seeds": {"evaluation": config.seed},
        "trials": rows,
        "tasks": tasks,
    }


def test_both_policies_learn_from_the_same_data_for_as_many_steps(tmp_path: Path):
    config = SuitesConfig(tmp_path, steps=7, rounds=2, driver_steps=3, **AT_ONCE)
    for number in range(config.rounds):
        (driver,) = trainings(config, number)
        assert driver.steps == 3 and driver.out.name == f"Libra-{number}"
    libra, base = trainings(config, config.rounds)
    assert (libra.data, libra.steps) == (base.data, base.steps) and libra.steps == 7
    assert base.preset == f"{libra.preset}-monolithic"
    assert libra.init is None and base.init is None
    assert libra.stills is None
    taught, other = trainings(replace(config, scenes=60), config.rounds)
    assert taught.stills is not None and other.stills is None, "Libra-Base has no planner"
    assert libra.image_size is None and base.image_size is None
    assert {(t.shift, t.jitter) for t in (libra, base)} == {(0.02, 0.3)}
    others = {"image_size": 64, "shift": 0.06, "jitter": 0.1}
    for training in trainings(replace(config, **others), config.rounds):
        assert {name: getattr(training, name) for name in others} == others


def test_a_planner_without_pictures_is_shown_places(tmp_path: Path):
    with pytest.raises(LibraError, match="plans by places, which stills teach: add --scenes"):
        SuitesConfig(tmp_path, scenes=0)
    told = {"intents": "soft", "stills_batch": 64, "focus": 0.2, "hasten": True}
    config = SuitesConfig(tmp_path, scenes=3, looking=0, rounds=0, **told)
    assert all(part.places for part in collections(config, 0))
    assert not any(part.places for part in collections(SuitesConfig(tmp_path, **AT_ONCE), 0))
    libra, base = trainings(config, 0)
    assert {name: getattr(libra, name) for name in told} == told
    assert base.preset == "small-places-monolithic" and base.intents is None
    assert (base.focus, base.hasten) == (libra.focus, libra.hasten), "the same samples"


def test_libra_learns_to_look_then_to_plan_then_to_refine(tmp_path: Path):
    with pytest.raises(LibraError, match="'small' does not learn in turn"):
        SuitesConfig(tmp_path, preset="small")
    config = SuitesConfig(tmp_path, looking=11, steps=7, refining=5, base_steps=9, driver_steps=3)
    looking, *driver = trainings(config, 0)
    *evaluated, base = trainings(config, 1)
    assert looking.only_looks and looking.stills is not None and looking.init is None
    assert looking.steps == 11
    assert {t.threads for t in (looking, *driver)} == {config.workers}, "nothing else is to do"
    assert {t.threads for t in (*evaluated, base)} == {1}, "side by side"
    for planning, refining in (driver, evaluated):
        assert planning.init == looking.out, "it learns to look once"
        assert (planning.planner_weight, planning.refiner_weight) == (1.0, 0.0)
        assert refining.init == planning.out
        assert (refining.planner_weight, refining.refiner_weight) == (0.0, 1.0)
        assert planning.data == refining.data and planning.stills is refining.stills is None
        assert looking.shift == planning.shift == 0.0 < refining.shift, "places stay where they are"
    assert [t.steps for t in (*driver, *evaluated, base)] == [3, 3, 7, 5, 9]
    assert driver[-1].out == next(collections(config, 1)).policy
    assert {evaluated[-1].out, base.out} == {Path(e.policy) for _, e in arms(config)}


def test_each_part_of_libra_keeps_what_the_one_before_learned(tmp_path: Path):
    demonstrations = write_dataset(tmp_path / "set", stills=True)
    few = {"looking": 3, "steps": 2, "refining": 2, "base_steps": 2, "rounds": 0, "batch_size": 4}
    config = SuitesConfig(tmp_path / "out", **few)
    asked = [
        replace(t, data=demonstrations, stills=t.stills and demonstrations, focus=0.0)
        for t in trainings(config, 0)
    ]
    train_and_evaluate(asked, [], workers=2)
    looks, plans, libra, _ = (load_file(t.out / "checkpoint/model.safetensors") for t in asked)
    for name in (n for n in libra if n.startswith("planner.")):
        assert torch.equal(libra[name], plans[name]), "the planner rests while the refiner learns"
    eyes = [n for n in libra if n.startswith("planner.backbone.")]
    assert eyes and all(torch.equal(libra[n], looks[n]) for n in eyes)
    assert any(not torch.equal(plans[n], looks[n]) for n in plans), "it learned to plan"
    assert all(training_core_seconds(t.out) > 0.0 for t in asked)
    marks = [(t.out / "checkpoint/model.safetensors").stat().st_mtime_ns for t in asked]
    train_and_evaluate(asked, [], workers=2)
    assert marks == [(t.out / "checkpoint/model.safetensors").stat().st_mtime_ns for t in asked]


def test_no_two_collections_share_seeds_or_folders(tmp_path: Path):
    config = SuitesConfig(tmp_path, rounds=2, spreads=(0.01, 0.04))
    asked = [list(collections(config, number)) for number in range(config.rounds + 1)]
    assert [len(parts) for parts in asked] == [8, 4, 4]
    every = [part for parts in asked for part in parts]
    assert len({part.out for part in every}) == len(every)
    assert len({(part.suite, part.seed) for part in every}) == len(every)
    assert {part.spread for part in asked[0]} == {0.01, 0.04}
    assert all(part.policy is None and part.pass_over == 0 for part in asked[0])
    assert all(part.spread == 0.01 and part.policy for part in asked[1])
    assert not every[0].stills
    seen = list(looks(replace(config, scenes=60, stills_spread=0.05)))
    assert {(p.stills, p.episodes, p.spread) for p in seen} == {(4, 60, 0.05)}
    alike = {(p.image_size, p.meshes) for p in (*every, *seen)}
    assert len(alike) == 1, "a planner learns to look from both"
    assert len({(p.suite, p.seed) for p in [*every, *seen]}) == len(every) + len(seen)
    clumsy = replace(config, fumble=0.3, shoves=0.8, draw_every=5)
    assert {(p.fumble, p.shoves, p.draw_every) for p in collections(clumsy, 0)} == {(0.3, 0.8, 5)}
    there = {(p.fumble, p.shoves, p.draw_every) for p in collections(clumsy, 1)}
    assert there == {(0.0, 0.0, 5)}, "the policy fumbles and drifts by itself"


def test_evaluations_follow_the_official_protocol(tmp_path: Path):
    config = SuitesConfig(tmp_path, rounds=2)
    found = list(arms(config))
    assert len({e.out for _, e in found}) == len(found) == 4 * (3 + 1 + 1)
    for arm, evaluation in found:
        assert (evaluation.states, evaluation.meshes, evaluation.episodes) == (
            "official", "stock", 50,
        )  # fmt: skip
        assert evaluation.max_steps is None and evaluation.mode == arm.mode
        assert Path(evaluation.policy).name.endswith("-2"), "the policy of the last round"


def test_clocks_add_up_over_runs_and_a_process_own_time_is_what_it_worked(tmp_path: Path):
    for _ in range(2):
        StageClock(tmp_path / "wall").time("waiting", lambda: time.sleep(0.1))
        StageClock(tmp_path / "core", time.process_time).time("waiting", lambda: time.sleep(0.1))
    assert StageClock(tmp_path / "wall").seconds["waiting"] >= 0.2
    assert StageClock(tmp_path / "core").seconds["waiting"] < 0.2


def test_a_stage_that_is_killed_has_told_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stages, "NOTED", 0.01)
    clock = StageClock(tmp_path / "record")
    write_json(clock.path, {"settings": 1, "seconds": {"long": 5.0}})

    def work() -> float:
        deadline = time.monotonic() + 10.0
        while (spent := clock.seconds["long"]) < 5.1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return spent

    assert 5.1 <= clock.time("long", work) <= clock.seconds["long"]
    assert read_json(clock.path)["settings"] == 1


def test_stages_run_once_each_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []

    def collect(config):
        driver = "the expert" if config.policy is None else config.policy.name
        said.append(f"{config.out.name} by {driver}")

    def merge(parts, out):
        said.append(" + ".join(p.name for p in parts))
        out.mkdir(parents=True)

    def train_and_evaluate(train, evaluate, *, workers):
        said.extend(c.out.name for c in train)
        for config in train:
            write_text(config.out / "metrics.jsonl", "")
            write_json(config.out / "seconds.json", {"seconds": {"training": 3.0}})
        for number, config in enumerate(evaluate):
            write_json(config.out / "results.json", results_of(config, successes=number % 3))

    def write_evaluation_report(folder, results):
        return folder / "report.html"

    for stage in (collect, merge, train_and_evaluate, write_evaluation_report):
        monkeypatch.setattr(suites, stage.__name__, stage)
    config = SuitesConfig(
        tmp_path / "out", suites=SUITES, spreads=(0.01,), trials=2, rounds=1, scenes=3,
    )  # fmt: skip
    study = study_suites(config)
    first = ["libero_goal-0-spread0.01", "libero_10-0-spread0.01"]
    second = ["libero_goal-1-spread0.01", "libero_10-1-spread0.01"]
    assert said == [
        *(f"{name} by the expert" for name in first), " + ".join(first),
        *(f"{suite} by the expert" for suite in SUITES), " + ".join(["all-0", *SUITES]),
        "Libra-looks-0", "Libra-plans-0", "Libra-0",
        *(f"{name} by Libra-0" for name in second), " + ".join(["all-0", *second]),
        "Libra-plans-1", "Libra-1", "Libra-Base-1",
    ]  # fmt: skip
    assert study["training_core_seconds"] == {"Libra": 15.0, "Libra-Base": 3.0}
    assert list(study["seconds"])[-1] == "training and evaluation" and len(study["seconds"]) == 5
    first = study["arms"][0]["suites"]["libero_goal"]
    assert first["episodes"] == 12 and len(first["seeds"]) == 3
    said.clear()
    assert study_suites(config)["arms"] == study["arms"]
    assert not any(" by " in line or "+" in line for line in said), "what is done stays"
    with pytest.raises(LibraError, match="another steps"):
        study_suites(replace(config, steps=1))
    assert study_suites(replace(config, trials=3))["arms"][0]["episodes"] == 36, "more trials"
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'href="evaluations/Libra, libero_goal, seed 0/report.html"' in page


def test_a_policy_that_is_there_is_evaluated_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    evaluated = []

    def train_and_evaluate(train, evaluate, *, workers):
        assert not train
        evaluated.extend(evaluate)
        for config in evaluate:
            write_json(config.out / "results.json", results_of(config, successes=1))

    monkeypatch.setattr(suites, "train_and_evaluate", train_and_evaluate)
    monkeypatch.setattr(suites, "write_evaluation_report", lambda folder, _: folder / "report.html")
    monkeypatch.setattr(suites, "collect", lambda _: pytest.fail("nothing is to be collected"))
    policy = Path("libra-small-libero")
    config = SuitesConfig(tmp_path / "out", policy=policy, suites=SUITES, trials=2, noise_seeds=2)
    study = study_suites(config)
    assert {e.policy for e in evaluated} == {policy}
    assert [e.out.name for e in evaluated if e.suite == "libero_10"] == [
        "libra-small-libero, libero_10, seed 0",
        "libra-small-libero, libero_10, seed 1",
        "libra-small-libero, synchronous, libero_10, seed 0",
    ]
    assert [arm["name"] for arm in study["arms"]] == [
        "libra-small-libero",
        "libra-small-libero, synchronous",
    ]
    assert list(study["seconds"]) == ["evaluation"] and study["training_core_seconds"] == {}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "from scratch" not in page and "How they learned" not in page
    with pytest.raises(LibraError, match="another policy"):
        study_suites(replace(config, policy=None))
    with pytest.raises(LibraError, match="nowhere"):
        study_suites(replace(config, policy=tmp_path / "nowhere"))


def test_a_single_dataset_is_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    at_once = AT_ONCE | {"scenes": 3}
    one = SuitesConfig(tmp_path, suites=SUITES[:1], spreads=(0.01,), rounds=1, **at_once)
    (only,) = collections(one, 0)
    (driver,) = trainings(one, 0)
    assert (driver.data, driver.stills) == (only.out, next(looks(one)).out)
    (round_driver, _), two = trainings(one, 1), replace(one, suites=SUITES)
    assert round_driver.data.name == "all-1"
    assert next(trainings(two, 0)).data.name == "all-0"
    collected: list[Path] = []
    monkeypatch.setattr(suites, "collect", lambda part: collected.append(part.out))
    monkeypatch.setattr(suites, "merge", lambda parts, out: pytest.fail("there is one dataset"))
    suites._collect(one, 0)
    suites._look_around(one)
    assert collected == [driver.data, driver.stills]


def test_an_arm_is_added_up_over_seeds_suites_and_tasks(tmp_path: Path):
    config = SuitesConfig(tmp_path, suites=SUITES, trials=4)
    own = [e for arm, e in arms(config) if arm is ARMS[0]]
    row = summary(ARMS[0], [results_of(e, successes=2) for e in own])
    assert (row["episodes"], row["successes"], row["average"]) == (48, 36, 0.75)
    assert row["suites"]["libero_10"]["seeds"] == [0.75] * 3
    assert [t["successes"] for t in row["suites"]["libero_10"]["tasks"]] == [6, 12]
    assert row["failures"] == {"actuation": 12}
    low, high = row["suites"]["libero_goal"]["ci95"]
    assert low < 0.75 < high
    page = render(
        {
            "arms": [row],
            "paper": {s: PAPER[s] for s in SUITES},
            "seconds": {"evaluation": 60.0},
            "training_core_seconds": {"Libra": 240.0},
            "workers": 2,
        },
        [],
        {},
    )
    assert "98.0%" in page and "95.4%" in page and "task 1" in page


def test_a_failure_that_synchronous_mode_does_not_know_is_asynchronys(tmp_path: Path):
    config = SuitesConfig(tmp_path, suites=SUITES, trials=4)
    own = [results_of(e, successes=1) for arm, e in arms(config) if arm is ARMS[0]]
    twins = [results_of(e, successes=3) for arm, e in arms(config) if arm is ARMS[1]]
    # Two suites, three seeds of three failures each; only the first seed has a twin.
    assert failures(own, twins) == {"actuation": 14, "asynchrony-induced": 4}
    assert failures(own) == {"actuation": 18}


def test_one_process_at_a_time(tmp_path: Path):
    with sole_writer(tmp_path), pytest.raises(LibraError, match="another process is writing"):
        study_suites(SuitesConfig(tmp_path))


def test_bad_requests():
    with pytest.raises(LibraError, match="at least one suite and spread"):
        SuitesConfig(suites=())
    with pytest.raises(LibraError, match="at least one suite and spread"):
        SuitesConfig(spreads=())
    with pytest.raises(LibraError, match="trials is 0"):
        SuitesConfig(trials=0)
