import json
import math
from dataclasses import replace

import pytest
from datasets import write_dataset
from fakes import TOY, load_scripted

from libra_vla.errors import LibraError
from libra_vla.files import read_json
from libra_vla.reports.granularity import render
from libra_vla.studies.baselines import BaselinesConfig, study_baselines
from libra_vla.studies.curriculum import CurriculumConfig, study_curriculum
from libra_vla.studies.difficulty import observe, steps_to_converge
from libra_vla.studies.granularity import (
    GranularityConfig,
    main_cells,
    placed,
    preliminary_cells,
    study_granularity,
)
from libra_vla.studies.machine import Tools

BALANCED = 8
"""N at which the fake training finds both halves equally hard."""


class FakeTraining:
    """Writes the metrics of a run whose planner gets harder with N; stops at the `dies`-th run."""

    def __init__(self, dies: int | None = None) -> None:
        self.dies, self.runs = dies, []

    def __call__(self, config, *, quiet: bool) -> dict:
        self.runs.append(config.out.parent.name)
        if self.dies == len(self.runs):
            raise KeyboardInterrupt
        n = config.granularity or 2
        hard, easy = 0.2 * n / BALANCED, 0.2
        lines = []
        for k in range(1, 6):
            decay = 1 + 2 * math.exp(-k)
            validation = {"refiner_loss": easy if config.granularity else 0.8}
            if config.granularity:
                validation |= {
                    "planner_loss": hard * decay,
                    "planner_loss_normalised": hard * decay / math.log(n),
                    "refiner_loss_true": easy * decay,
                }
            line = {"step": k * config.steps // 5, "validation": validation}
            lines.append(line | {"planner_gradient_norm": hard, "refiner_gradient_norm": easy})
        config.out.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (config.out / "metrics.jsonl").write_text(text)
        return {"steps": config.steps, "parameters": {"total": n}, "curriculum_switched_at": None}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "demonstrations", length=4)


@pytest.fixture
def config(tmp_path, data) -> GranularityConfig:
    return GranularityConfig(
        data=data, suite="toy", out=tmp_path / "out", tasks="0", episodes=3, states="official",
        levels=(2, 4, 16, 64), seeds=2, steps=200, workers=0, validation=0.25,
    )  # fmt: skip


def run(config: GranularityConfig, training: FakeTraining | None = None) -> dict:
    tools = Tools(TOY, load_scripted, training or FakeTraining())
    return study_granularity(config, tools=tools, quiet=True)


def test_a_study_registers_predicts_and_sweeps(config):
    study = run(config)
    assert study == json.loads((config.out / "study.json").read_text())
    assert study["complete"] and study["cost"]["preliminary"]["runs"] == 10
    assert study["cost"]["sweep"] == study["cost"]["sweep"] | {"runs": 8, "rollouts": 24}
    steps = study["cost"]["preliminary"]["steps"] / study["cost"]["sweep"]["steps"]
    assert steps <= 0.1 and study["prediction"]["share_of_steps"] == pytest.approx(steps)
    found = study["prediction"]["observables"]
    for name in ("losses", "gradients"):
        assert found[name]["n"] == pytest.approx(BALANCED) and found[name]["bracketed"]
    curve = study["placements"]["uniform"]
    assert [(r["N"], r["successes"], r["trials"]) for r in curve["levels"]] == [
        (n, 4, 6) for n in config.levels
    ]
    assert not curve["two_lines"]["inverted_u"] and curve["peak"]["shares"]["2"] == 0.25
    assert curve["predictions"]["losses"]["regret"] == 0
    page = (config.out / "report.html").read_text()
    assert "granularity N: bins per action dimension" in page and "Success rate: share" in page
    assert study["registration"]["sha256"] in page and "No inverted U was shown" in page


def test_what_was_done_is_not_done_again(config):
    training = FakeTraining(dies=13)
    with pytest.raises(KeyboardInterrupt, match="stopped after 2 of 8 cells: run the same"):
        run(config, training)
    study = json.loads((config.out / "study.json").read_text())
    assert not study["complete"] and study["placements"] == {}
    again = FakeTraining()
    assert run(config, again)["complete"]
    assert not set(again.runs) & set(training.runs[:12]) and len(again.runs) == 6
    finished = FakeTraining()
    run(config, finished)
    assert finished.runs == []


def test_nothing_runs_without_the_registration_or_with_a_changed_one(config):
    run(replace(config, register_only=True))
    path = config.out / "preregistration.json"
    text = path.read_text()
    record = json.loads(text)
    record["protocol"]["settings"]["levels"][0] = 3
    path.write_text(json.dumps(record))
    training = FakeTraining()
    with pytest.raises(LibraError, match="was changed after it was written"):
        run(config, training)
    path.write_text(text)
    with pytest.raises(
        LibraError,
        match=r"announces: preliminary, settings\.preliminary_steps, settings\.steps differ",
    ):
        run(replace(config, steps=400), training)
    assert training.runs == []
    run(replace(config, predict_only=True))
    path.unlink()
    with pytest.raises(LibraError, match="nothing is run that was not registered"):
        run(config, training)
    assert training.runs == []


def test_a_changed_prediction_is_refused(config):
    run(replace(config, predict_only=True))
    path = config.out / "prediction.json"
    prediction = json.loads(path.read_text())
    path.write_text(json.dumps(prediction | {"recommended": 5}))
    with pytest.raises(LibraError, match="not what the preliminary runs say"):
        run(config)


def test_a_deviation_needs_a_reason_and_is_shown(config):
    run(replace(config, predict_only=True))
    other = replace(config, episodes=2, deviation="the night was too short")
    study = run(other)
    assert study["deviations"][0]["reason"] == "the night was too short"
    assert study["deviations"][0]["changed"] == {"settings.episodes": [3, 2]}
    assert "the night was too short" in (config.out / "report.html").read_text()
    assert run(replace(other, deviation=None))["complete"], "once is enough"


def test_predict_only_needs_no_simulator(config):
    config = replace(config, predict_only=True, suite="my_robot")
    study = study_granularity(config, tools=Tools(train=FakeTraining()), quiet=True)
    assert study["prediction"]["recommended"] in config.levels and study["placements"] == {}
    assert "is recommended" in render(study)


def test_placements_are_a_factor_of_their_own(config):
    study = run(replace(config, placements=("uniform", "odd"), steps=100))
    assert study["placement_effect"]["odd"]["difference"] == 0
    assert [r["bins"] for r in study["placements"]["odd"]["levels"]] == [3, 5, 17, 65]
    assert placed("gripper", 10) == {"granularity": 10, "gripper_bins": 2}
    assert placed("centred", 10)["normalisation"] == "symmetric"


def test_runs_differ_in_nothing_but_their_factor(config):
    cells = main_cells(config, Tools())
    assert len({c.name for c in cells}) == len(cells) == 8
    assert {c.train.split for c in cells} == {0} and {c.evaluation.seed for c in cells} == {1000}
    assert {c.train.steps for c in cells} == {200}


def test_what_a_study_is_asked_reaches_every_training(config):
    asked = {"batch_size": 7, "optimiser": "adamw", "shift": 0.05, "precision": "bf16"}
    config = replace(config, **asked)
    for cell in preliminary_cells(config, Tools()) + main_cells(config, Tools()):
        assert {name: getattr(cell.train, name) for name in asked} == asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (4, 2)}, "two or more, ascending"),
        ({"placements": ("middle",)}, "unknown placement 'middle'"),
        ({"preliminary_steps": 100}, "cost 62% of the sweep: expected at most 10%"),
        ({"steps": 50}, "raise --steps"),
        ({"validation": 0.0}, "expected a share"),
    ],
)
def test_a_wrong_request_is_one_clear_line(config, options, message):
    with pytest.raises(LibraError, match=message):
        replace(config, **options)


def test_observables_compare_planner_and_refiner():
    lines = [
        {
            "step": step,
            "planner_gradient_norm": 4.0,
            "refiner_gradient_norm": 2.0,
            "validation": {
                "planner_loss": 0.6 + late, "planner_loss_normalised": 0.3,
                "refiner_loss": 9.0, "refiner_loss_true": 0.2,
            },
        }
        for step, late in ((10, 1.0), (20, 0.0), (30, 0.0))
    ]  # fmt: skip
    found = observe(lines, [{"step": 30, "validation": {"refiner_loss": 0.8}}])
    assert found == pytest.approx(
        {
            "losses": 3.0,
            "normalised": 0.3 / 0.25,
            "gradients": 2.0,
            "convergence": 2.0,
            "planner": 0.3,
        }
    )
    assert steps_to_converge([(5, 2.0), (10, 1.05), (15, 1.0)]) == 10


def test_arms_are_paired_and_resumed(tmp_path, data):
    config = CurriculumConfig(
        data=data, suite="toy", out=tmp_path / "out", tasks="0", episodes=3, states="official",
        seeds=2, steps=20, workers=0, validation=0.25,
    )  # fmt: skip
    tools = Tools(TOY, load_scripted, FakeTraining())
    study = study_curriculum(config, tools=tools, quiet=True)
    assert [a["name"] for a in study["arms"]] == ["teacher forcing", "none", "dynamic"]
    assert study["complete"] and all(a["paired"]["trials"] == 6 for a in study["arms"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "teacher forcing" in page and "success rate: share of the trials" in page
    again = Tools(TOY, load_scripted, FakeTraining(dies=1))
    assert study_curriculum(config, tools=again, quiet=True)["complete"]
    with pytest.raises(LibraError, match="holds a study with another episodes"):
        study_curriculum(replace(config, episodes=2), tools=tools, quiet=True)


def test_a_run_of_another_study_is_taken_over_if_it_is_the_same(tmp_path, data):
    options = {
        "data": data, "suite": "toy", "tasks": "0", "states": "official", "seeds": 1, "steps": 20,
        "workers": 0, "validation": 0.25,
    }  # fmt: skip
    tools = Tools(TOY, load_scripted, FakeTraining())
    first = CurriculumConfig(out=tmp_path / "first", episodes=3, **options)
    study_curriculum(first, tools=tools, quiet=True)

    def second(name, episodes):
        config = BaselinesConfig(
            out=tmp_path / name, episodes=episodes, baselines=("modular", "soft"),
            reuse=(first.out,), **options,
        )  # fmt: skip
        return study_baselines(config, tools=tools, quiet=True)

    assert second("second", 3)["cost"]["taken_over"] == 2  # modular and Libra, but not soft
    record = read_json(tmp_path / "second" / "runs" / "Libra-seed0" / "cell.json")
    assert record["taken_from"].endswith("dynamic-seed0")
    assert record["factors"] == {"arm": "Libra", "seed": 0}
    assert "2 of them from other studies" in (tmp_path / "second" / "report.html").read_text()
    assert second("third", 2)["cost"]["taken_over"] == 0  # other trials
    with pytest.raises(LibraError, match="expected the folder of a study"):
        replace(first, reuse=(tmp_path / "nowhere",))
