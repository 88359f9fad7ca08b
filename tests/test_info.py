"""`libra info`: the paper's parameter counts, equal baselines, FLOPs against hand counts."""

from functools import cache
from pathlib import Path

import pytest

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.config import load_preset, preset_names
from libra_vla.errors import LibraError
from libra_vla.observation import ObservationSpec
from libra_vla.policies import LibraPolicy
from libra_vla.policies.info import describe_policy, describe_preset
from libra_vla.policies.policy import StateStatistics

PAPER_TOTAL, PAPER_TRAINABLE, VISION_TOWER = 3042e6, 2738e6, 304e6


@cache
def described(name: str) -> dict:
    if name.startswith("paper"):
        pytest.importorskip("transformers")
    return describe_preset(name)


def counts(name: str) -> dict:
    return described(name)["parameters"]


@pytest.fixture
def paper() -> dict:
    return described("paper")


def test_the_paper_preset_has_the_papers_size(paper: dict):
    parameters = paper["parameters"]
    assert parameters["total"] == pytest.approx(PAPER_TOTAL, rel=0.02)
    assert parameters["trainable"] == pytest.approx(PAPER_TRAINABLE, rel=0.02)
    frozen = parameters["parts"]["planner.backbone.vision_tower"]
    assert frozen == pytest.approx(VISION_TOWER, rel=0.002)
    assert parameters["total"] - parameters["trainable"] == frozen
    assert parameters["parts"]["planner.head"] == pytest.approx(151e6, rel=0.02)
    assert (paper["N"], paper["M"], paper["H"], paper["D"]) == (10, 2, 5, 7)
    assert paper["weights_gib"]["bf16"] == pytest.approx(parameters["total"] * 2 / 2**30, abs=1e-3)


def test_the_papers_language_model_is_internlm2_without_its_head(paper: dict):
    width, inner, layers, vocabulary = 2048, 8192, 24, 92553
    attention = 2 * width * width + 2 * width * (width // 2)  # 8 of 16 heads have keys, values
    per_layer = attention + 3 * width * inner + 2 * width
    expected = layers * per_layer + vocabulary * width + width
    assert paper["parameters"]["parts"]["planner.backbone.language_model"] == expected


def test_the_papers_flops_are_those_of_its_matrices(paper: dict):
    """Two FLOPs per weight and token, four per query, key and width: by hand within 3 %."""
    tokens = 2 * (256 + 3) + 25
    language = 24 * (2 * 62.9e6 * tokens + 4 * tokens**2 * 2048)
    vision = 2 * 24 * (2 * 12.6e6 * 1025 + 4 * 1025**2 * 1024)
    head = 12 * (2 * 12.6e6 * (tokens + 11) + 4 * (tokens + 11) ** 2 * 1024)
    assert paper["flops"]["plan"] == pytest.approx(language + vision + head, rel=0.03)
    siglip = 2 * 27 * (2 * 15.2e6 * 256 + 4 * 256**2 * 1152)
    # Keys and values of 513 context tokens once, everything else for 5 actions and 10 steps.
    read = 12 * 2 * (2 * 1536**2) * 513
    denoising = 10 * 5 * 12 * 2 * (14 * 1536**2)
    assert paper["flops"]["chunk"] == pytest.approx(siglip + read + denoising, rel=0.03)
    assert paper["flops"]["action"] < paper["flops"]["chunk"]


@pytest.mark.parametrize("name", [n for n in preset_names() if n.endswith("-monolithic")])
def test_each_monolith_is_as_large_as_its_dual_system(name: str):
    libra, monolith = counts(name.removesuffix("-monolithic")), counts(name)
    for kind in ("total", "trainable"):
        assert monolith[kind] == pytest.approx(libra[kind], rel=0.05)


@pytest.mark.parametrize("name", preset_names())
def test_parts_sum_up_and_every_number_is_there(name: str):
    parameters, flops = described(name)["parameters"], described(name)["flops"]
    assert sum(parameters["parts"].values()) == parameters["total"]
    assert 0 < parameters["trainable"] <= parameters["total"]
    assert flops["chunk"] > 0
    assert (flops["plan"] > 0) == (described(name)["kind"] in ("libra", "fast_in_slow"))
    assert flops["action"] == round((flops["plan"] / 2 + flops["chunk"]) / 5)


def test_from_scratch_presets_are_small():
    assert counts("tiny")["total"] < 2e6
    assert counts("small")["total"] < 15e6


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(LibraError, match="did you mean 'paper'"):
        describe_preset("papr")


def test_a_checkpoint_is_described_with_its_conventions_and_training(tmp_path: Path):
    convention = ActionConvention(("x", "gripper"), ("m", "1"), "delta", 20.0, gripper=1)
    policy = LibraPolicy(
        config=load_preset("tiny"),
        action_space=ActionSpace(convention, (11, 2), (-1.0,) * 2, (1.0,) * 2),
        observation_spec=ObservationSpec(cameras=("front",), state_size=3),
        state_statistics=StateStatistics((0.0,) * 3, (1.0,) * 3),
        training={"step": 7},
    )
    policy.save_pretrained(tmp_path / "checkpoint")
    told = describe_policy(tmp_path)
    assert told["parameters"]["total"] == policy.parameters()["total"]
    assert (told["D"], told["cameras"], told["camera_names"]) == (2, 1, ["front"])
    assert told["action_space"]["convention"]["names"] == ("x", "gripper")
    assert told["training"] == {"step": 7}
    assert told["checkpoint_hash"]
    with pytest.raises(LibraError, match="holds no policy"):
        describe_policy(tmp_path / "nothing")
