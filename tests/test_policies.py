"""Planner, refiner and `LibraPolicy`: shapes, learning, checkpoints and what they refuse."""

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.config import PolicyConfig, from_json, load_preset, preset_names, to_json
from libra_vla.errors import LibraError
from libra_vla.execution.executor import Executor
from libra_vla.execution.protocol import InpaintingPolicy, Policy
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies import LibraPolicy, checkpoints, load_policy
from libra_vla.policies.backbones import Reading, WordEmbedding, make_backbone
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.info import describe_preset
from libra_vla.policies.layers import Tokens
from libra_vla.policies.losses import Objective, displaced
from libra_vla.policies.places import (
    KeyPoints,
    PlaceHead,
    Told,
    Truth,
    centres,
    map_loss,
    misjudged,
    misplaced,
    place_loss,
)
from libra_vla.policies.planner import SemanticPlanner
from libra_vla.policies.policy import StateStatistics
from libra_vla.policies.vision import SmallVision

CONVENTION = ActionConvention(
    names=("x", "y", "gripper"), units=("m", "m", "1"), representation="d", rate_hz=20.0, gripper=2
)
CAMERAS = ("agentview", "wrist")


def make_policy(preset: str = "tiny", cameras: tuple[str, ...] = CAMERAS) -> LibraPolicy:
    torch.manual_seed(0)
    return LibraPolicy(
        config=load_preset(preset),
        action_space=ActionSpace(CONVENTION, (11, 11, 2), (-1.0,) * 3, (1.0,) * 3),
        observation_spec=ObservationSpec(cameras=cameras, state_size=4),
        state_statistics=StateStatistics((0.0,) * 4, (1.0,) * 4),
    )


def observe(seed: int = 0, instruction: str = "put the bowl on the plate") -> Observation:
    rng = np.random.default_rng(seed)
    images = {c: rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for c in CAMERAS}
    return Observation(images, rng.normal(size=4).astype(np.float32), instruction, step=seed)


def make_batch(policy: LibraPolicy, size: int = 8) -> Batch:
    """Actions that can be read off the image's brightness and the instruction."""
    rng = torch.Generator().manual_seed(1)
    config, space = policy.config, policy.action_space
    cameras = len(policy.observation_spec.cameras)
    brightness = torch.rand(size, generator=rng)
    images = brightness[:, None, None, None, None].expand(
        size, cameras, 3, config.image_size, config.image_size
    )
    instructions = tuple("left" if i % 2 else "right" for i in range(size))
    moment = Moment(images, torch.zeros(size, 4), instructions)
    side = torch.tensor([1.0 if i % 2 else -1.0 for i in range(size)])
    one = torch.stack([brightness * 2 - 1, side * 0.5, side], dim=-1)
    plan = one[:, None].expand(size, config.macro_horizon, 3)
    return Batch(
        planned=moment,
        current=moment,
        offset=torch.arange(size) % (config.chunk + 1),
        coarse=torch.from_numpy(space.encode(plan.numpy())),
        coarse_valid=torch.ones(size, config.macro_horizon, dtype=torch.bool),
        actions=plan[:, : config.chunk].contiguous(),
        actions_valid=torch.ones(size, config.chunk, dtype=torch.bool),
    )


def train_a_little(policy: LibraPolicy, steps: int, predicted: bool = False) -> list[float]:
    batch = make_batch(policy)
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=3e-3)
    losses = []
    for step in range(steps):
        loss, _ = policy.model.loss(
            batch,
            Objective(
                predicted_intents=predicted,
                weights=(1.0, 1.0),
                draws=2,
                generator=torch.Generator().manual_seed(step),
            ),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("preset", [n for n in preset_names() if n.startswith("tiny")])
def test_plan_and_refine_have_the_protocol_shapes(preset: str):
    policy = make_policy(preset)
    assert isinstance(policy, Policy)
    policy.reset(seed=3)
    plan = policy.plan(observe(5))
    assert plan.coarse.shape == (10, 3) and plan.coarse.dtype == np.int64
    assert plan.distribution.shape == (10, 3, 11) and plan.observation_step == 5
    assert np.allclose(plan.distribution.sum(-1), 1.0, atol=1e-5)
    assert (plan.distribution[:, 2, 2:] == 0).all(), "the gripper has only two bins"
    actions = policy.refine(observe(5), plan.coarse[:5])
    assert actions.shape == (5, 3) and actions.dtype == np.float32
    assert (np.abs(actions) <= 1.0).all()


def test_the_same_seed_gives_the_same_actions():
    policy = make_policy()
    train_a_little(policy, 3)
    coarse = np.zeros((5, 3), dtype=np.int64)

    def act(seed: int) -> np.ndarray:
        policy.reset(seed)
        return policy.refine(observe(), coarse)

    assert np.array_equal(act(1), act(1))
    assert not np.array_equal(act(1), act(2))


@pytest.mark.parametrize(
    "preset", ["tiny", "tiny-monolithic", "tiny-action-expert", "tiny-fast-in-slow"]
)
def test_a_chunk_can_join_on_to_the_one_before(preset: str):
    policy = make_policy(preset)
    assert isinstance(policy, InpaintingPolicy)
    plan = policy.plan(observe())
    policy.reset(0)
    free = policy.refine(observe(), plan.coarse[:5])
    known = policy.action_space.denormalise(np.full((3, policy.action_space.size), 0.3, np.float32))
    policy.reset(0)
    joined = policy.refine_onto(observe(), plan.coarse[:5], known, frozen=2)
    assert joined.shape == free.shape and joined.dtype == np.float32
    assert np.abs(joined - known[0])[:2].mean() < 0.5 * np.abs(free - known[0])[:2].mean()


def test_training_fits_both_systems():
    losses = train_a_little(make_policy(), 60)
    assert losses[-1] < 0.35 * losses[0]


def test_no_gradient_passes_from_the_refiner_to_the_planner():
    policy = make_policy()
    train_a_little(policy, 2)
    policy.model.zero_grad()
    loss, _ = policy.model.loss(
        make_batch(policy),
        Objective(predicted_intents=True, weights=(0.0, 1.0)),
    )
    loss.backward()
    planner = [p.grad for p in policy.model.planner.parameters() if p.grad is not None]
    assert all(not g.any() for g in planner)
    assert any(p.grad is not None and p.grad.any() for p in policy.model.refiner.parameters())


def test_the_refiner_follows_its_intents():
    policy = make_policy()
    train_a_little(policy, 60)
    policy.reset(0)
    low = policy.refine(observe(), np.zeros((5, 3), dtype=np.int64))
    policy.reset(0)
    high = policy.refine(observe(), np.tile([[10, 10, 1]], (5, 1)))
    assert (high[:, 2] - low[:, 2] > 0.5).all()


def test_a_soft_intent_tells_how_sure_the_planner_is():
    policy = make_policy()
    policy.config = dataclasses.replace(policy.config, intents="soft")
    policy.__post_init__()
    assert policy.soft_intents
    batch, seen = make_batch(policy, size=2), []
    look = policy.model.refiner.look

    def spy(images, state, weights, *, draws=1):
        seen.append(weights)
        return look(images, state, weights, draws=draws)

    policy.model.refiner.look = spy  # type: ignore[method-assign]
    for predicted in (False, True):
        policy.model.loss(batch, Objective(predicted_intents=predicted))
    true, predicted = seen
    assert torch.equal(true.amax(-1), torch.ones(2, 5, 3)), "true intents are sure"
    assert predicted.amax(-1).max() < 0.9 and not predicted.requires_grad
    assert torch.allclose(predicted.sum(-1), torch.ones(2, 5, 3), atol=1e-5)

    plan = policy.plan(observe())
    executor = Executor(policy)
    executor.reset(seed=0)
    executor.act(observe)
    policy.reset(0)
    soft = policy.refine(observe(), plan.distribution[:5])
    assert np.array_equal(seen[-1][0].numpy(), plan.distribution[:5])
    assert np.array_equal(seen[-2][0].numpy(), plan.distribution[:5]), "so does the executor"
    policy.reset(0)
    assert soft.shape == policy.refine(observe(), plan.coarse[:5]).shape


def test_displaced_intents_are_off_by_the_share_they_are_told():
    coarse = torch.full((4000, 10, 3), 50)
    coarse[..., 2] = 1
    bins, generator = (101, 101, 2), torch.Generator().manual_seed(0)
    assert torch.equal(displaced(coarse, bins, Objective()), coarse)
    off = displaced(coarse, bins, Objective(intent_noise=0.05, generator=generator)) - coarse
    assert (off == off[:, :1]).all(), "one displacement for all steps of a sample"
    assert off[:, 0, :2].float().std().item() == pytest.approx(0.05 * 101, rel=0.05)
    assert abs(off[:, 0, :2].float().mean().item()) < 0.3
    assert not torch.equal(off[:, 0, 0], off[:, 0, 1]), "and one for each dimension"
    edge = displaced(coarse, bins, Objective(intent_noise=5.0, generator=generator))
    assert edge.min() == 0 and edge[..., :2].max() == 100 and edge[..., 2].max() == 1


def test_intents_of_a_late_refinement_are_those_of_their_own_steps():
    policy = make_policy()
    batch = make_batch(policy, size=2)
    seen = {}
    look = policy.model.refiner.look

    def spy(images, state, weights, *, draws=1):
        seen["intents"] = weights.argmax(-1)
        return look(images, state, weights, draws=draws)

    policy.model.refiner.look = spy  # type: ignore[method-assign]
    coarse = torch.arange(10)[None, :, None].expand(2, 10, 3).clone()
    coarse[..., 2] %= 2
    batch = dataclasses.replace(batch, coarse=coarse, offset=torch.tensor([0, 5]))
    policy.model.loss(batch, Objective())
    assert seen["intents"][0, :, 0].tolist() == [0, 1, 2, 3, 4]
    assert seen["intents"][1, :, 0].tolist() == [5, 6, 7, 8, 9]


def test_steps_beyond_the_episode_do_not_count():
    policy = make_policy()
    batch = make_batch(policy, size=4)
    valid = torch.ones(4, 5, dtype=torch.bool)
    valid[:, 3:] = False

    def loss(actions: torch.Tensor) -> float:
        changed = dataclasses.replace(batch, actions=actions, actions_valid=valid)
        generator = torch.Generator().manual_seed(0)
        return policy.model.loss(
            changed,
            Objective(weights=(0.0, 1.0), generator=generator),
        )[0].item()

    other = batch.actions.clone()
    other[:, 3:] = 0.123
    train_a_little(policy, 2)
    # The network may look at late steps, so only their own error is compared: zero the output.
    torch.nn.init.zeros_(policy.model.refiner.transformer.out.weight)
    torch.nn.init.zeros_(policy.model.refiner.transformer.out.bias)
    assert loss(other) == pytest.approx(loss(batch.actions), abs=1e-6)


OTHERS = [n for n in preset_names() if "-" in n and not n.startswith("paper-tiny")]


@pytest.mark.parametrize("name", OTHERS)
def test_ablations_and_baselines_have_equal_parameters(name: str):
    def count(preset: str) -> int:
        return describe_preset(preset)["parameters"]["total"]

    twin = name.removesuffix("-monolithic")
    dual = count(twin if twin in OTHERS else name.partition("-")[0])
    single = count(name)
    assert abs(single / dual - 1.0) < 0.05, f"{dual} against {single}"


def test_every_preset_round_trips_through_json():
    for name in preset_names():
        config = load_preset(name)
        assert from_json(PolicyConfig, json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"granularty": 3}, "unknown field of configuration 'granularty': did you mean"),
        ({"refiner": {"denoising": "flw"}}, "refiner.denoising 'flw': did you mean 'flow'"),
        ({"chunk": "five"}, "chunk is 'five': expected int"),
        ({"chunk": 0}, "expected at least 1"),
        ({"granularity": 1}, "at least 2"),
    ],
)
def test_bad_configuration(value: dict, message: str):
    with pytest.raises(LibraError, match=message):
        from_json(PolicyConfig, value)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(LibraError, match="unknown preset 'tinny': did you mean 'tiny'"):
        load_preset("tinny")


def test_words_need_no_vocabulary():
    embedding = WordEmbedding(16)
    tokens = embedding(["Put the BOWL, on the plate!", "bowl", ""])
    assert tokens.mask.sum(dim=1).tolist() == [6, 1, 0]
    assert embedding.hashes("bowl") == embedding.hashes("Bowl")
    words = ["bowl", "plate", "stove", "cabinet", "drawer", "wine", "bottle", "rack", "basket"]
    assert len({embedding.hashes(w) for w in words}) == len(words)


def test_padding_does_not_change_a_plan():
    policy = make_policy()
    moment = policy.see(observe(instruction="short"))
    alone = policy.model.plan(moment)
    pair = Moment(
        moment.images.repeat(2, 1, 1, 1, 1),
        moment.state.repeat(2, 1),
        ("short", "a much longer instruction than that"),
    )
    assert torch.allclose(policy.model.plan(pair)[0], alone[0], atol=1e-5)


def test_a_policy_without_images_sees_none():
    policy = make_policy(cameras=())
    assert SmallVision(0, 64, 128)(torch.zeros(2, 0, 3, 64, 64)).values.shape == (2, 0, 128)
    blank = Observation({}, observe().state, "go")
    assert policy.plan(blank).coarse.shape == (10, 3)
    train_a_little(policy, 2)


@pytest.mark.parametrize("preset", [n for n in preset_names() if n.startswith("tiny")])
def test_checkpoints_hold_everything(preset: str, tmp_path: Path):
    policy = make_policy(preset)
    train_a_little(policy, 2)
    policy.save_pretrained(tmp_path / "run" / "checkpoint")
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint"):
        loaded = load_policy(folder)
        assert loaded.action_space == policy.action_space
        assert loaded.observation_spec == policy.observation_spec
        for p in (policy, loaded):
            p.reset(0)
        plan = policy.plan(observe())
        assert np.array_equal(loaded.plan(observe()).distribution, plan.distribution)
        assert np.array_equal(
            loaded.refine(observe(), plan.coarse[:5]), policy.refine(observe(), plan.coarse[:5])
        )
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint"]


def test_half_precision_halves_the_file_and_hardly_moves_an_action(tmp_path: Path):
    policy = make_policy()
    train_a_little(policy, 2)
    policy.save_pretrained(tmp_path / "full")
    policy.save_pretrained(tmp_path / "half", half=True)
    full, half = (load_policy(tmp_path / name) for name in ("full", "half"))
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    coarse = full.plan(observe()).coarse[:5]
    actions = []
    for loaded in (full, half):
        loaded.reset(0)
        assert next(loaded.model.parameters()).dtype == torch.float32
        actions.append(loaded.refine(observe(), coarse))
    span = np.ptp(actions[0]) or 1.0
    assert 0 < np.abs(actions[0] - actions[1]).max() < 0.01 * max(span, 1.0)


def test_a_policy_that_comes_with_the_package_is_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoints, "SHIPPED", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    make_policy().save_pretrained(tmp_path / "package" / "libra-one", half=True)
    assert load_policy("libra-one").chunk == 5
    with pytest.raises(LibraError, match=r"libra-won holds no policy.*, or one of libra-one"):
        load_policy("libra-won")
    make_policy("tiny-monolithic").save_pretrained(tmp_path / "libra-one")
    assert load_policy("libra-one").config.kind == "monolithic"  # a folder of that name wins


def test_an_instruction_modulates_what_is_looked_for():
    small = dataclasses.replace(load_preset("small").planner.backbone, width=16)
    backbone = make_backbone(small, cameras=1, image_size=32)
    images = torch.rand(2, 1, 3, 32, 32)
    seen = backbone(images[:1].repeat(2, 1, 1, 1, 1), ("the bowl", "the plate")).values
    assert torch.equal(seen[0, :5], seen[1, :5])  # untrained, it is the identity
    for parameter in backbone.vision.modulation.parameters():
        torch.nn.init.normal_(parameter)
    seen = backbone(images[:1].repeat(2, 1, 1, 1, 1), ("the bowl", "the plate")).values
    assert not torch.allclose(seen[0, :5], seen[1, :5])
    # Each sample by its own instruction, whatever stands beside it in the batch.
    alone = backbone(images[1:], ("the plate",)).values
    beside = backbone(images, ("the bowl", "the plate")).values[1:]
    assert torch.allclose(alone, beside, atol=1e-5)


def test_damaged_checkpoints(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    with pytest.raises(LibraError, match="holds no policy"):
        load_policy(tmp_path)
    policy = make_policy()
    policy.save_pretrained(folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LibraError, match="missing or damaged"):
        load_policy(folder)
    weights.write_bytes(whole)
    manifest = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(manifest[:100])
    with pytest.raises(LibraError, match="not valid JSON"):
        load_policy(folder)
    (folder / "policy.json").write_text(manifest.replace('"width": 128', '"width": 64'))
    with pytest.raises(LibraError, match="does not fit its configuration"):
        load_policy(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {"agentview": observe().images["agentview"]}}, "camera 'wrist' is missing"),
        ({"state": np.zeros(3, dtype=np.float32)}, r"shape \[3\]: the policy was trained with \[4"),
        ({"state": np.array([0, np.nan, 0, 0])}, "NaN or infinity at index 1"),
        (
            {"images": {c: np.zeros((64, 64, 3), dtype=np.float32) for c in CAMERAS}},
            "image 'agentview' is float32",
        ),
    ],
)
def test_bad_observations_are_named(change: dict, message: str):
    with pytest.raises(LibraError, match=message):
        make_policy().plan(dataclasses.replace(observe(), **change))


def told_by(sure_of_world: float, pose: list[float]) -> np.ndarray:
    """What a head tells that has seen (0.3, 0.2, 0.1) m in the world, or (0, 0, 0.1) m ahead."""
    head = PlaceHead(things=1, asked=1, cameras=1, camera_tokens=3, width=8).eval()
    head.standardised_by([1.0] * 6, [2.0] * 6)
    last = head.cameras[0][-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([3.0, 2.0, 1.0, sure_of_world, 0.0, 0.0, 1.0, 0.0])
    context = Tokens.dense(torch.randn(1, 5, 8))
    state = (torch.tensor([pose]) - 1.0) / 2.0
    return head(context, state).asked[0, 0].detach().numpy()


def test_places_are_told_from_the_hand_wherever_it_is():
    down = [0.1, 0.2, 0.5, np.pi, 0.0, 0.0]
    np.testing.assert_allclose(told_by(50.0, down), [0.2, 0.0, -0.4], atol=1e-6)
    np.testing.assert_allclose(told_by(-50.0, down), [0.0, 0.0, -0.1], atol=1e-6)
    aside = [0.1, 0.2, 0.5, 0.0, np.pi / 2, 0.0]
    np.testing.assert_allclose(told_by(-50.0, aside), [0.1, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(told_by(0.0, down), [0.1, 0.0, -0.25], atol=1e-6)


def test_places_are_told_in_full_precision_whatever_the_rest_is_computed_in():
    torch.manual_seed(0)
    head = PlaceHead(things=2, asked=1, cameras=1, camera_tokens=3, width=8).eval()
    context, state = Tokens.dense(torch.randn(4, 5, 8)), torch.randn(4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        asked = head(context, state).asked
    assert torch.equal(asked, head(context, state).asked)


def test_a_plan_is_made_from_places_and_leaves_them_alone():
    policy = make_policy()
    grown = dataclasses.replace(policy.config.planner, things=("ball", "cube", "tray"), asked=2)
    policy = dataclasses.replace(
        policy,
        config=dataclasses.replace(policy.config, planner=grown),
        observation_spec=ObservationSpec(CAMERAS, state_size=6),
        state_statistics=StateStatistics((0.0,) * 6, (1.0,) * 6),
    )
    planner = policy.model.planner
    assert isinstance(planner, SemanticPlanner) and planner.places is not None
    images, state = torch.rand(2, 2, 3, 64, 64), torch.randn(2, 6)
    words = ("put the bowl on the plate",) * 2
    planner(images, state, words).sum().backward()
    assert planner.places.read[0].weight.grad is not None
    assert all(p.grad is None for p in planner.places.cameras.parameters())
    told = planner.locate(images, state, words)
    assert (told.places.shape, told.asked.shape) == ((2, 3, 3), (2, 2, 3))


def by_places() -> LibraPolicy:
    """A policy whose planner has no pictures."""
    policy = make_policy("small-places")
    grown = dataclasses.replace(policy.config.planner, things=("ball", "cube", "tray"), asked=2)
    return dataclasses.replace(
        policy,
        config=dataclasses.replace(policy.config, planner=grown),
        observation_spec=ObservationSpec(CAMERAS, state_size=6),
        state_statistics=StateStatistics((0.0,) * 6, (1.0,) * 6),
    )


def test_a_planner_without_pictures_learns_from_true_places_and_plans_by_told_ones():
    planner = by_places().model.planner
    assert isinstance(planner, SemanticPlanner) and isinstance(planner.places, KeyPoints)
    images, state = torch.rand(2, 2, 3, 128, 128), torch.randn(2, 6)
    words, places = ("put the bowl on the plate",) * 2, torch.rand(2, 2, 3)
    told = planner.locate(images, state, words)
    assert (told.places.shape, told.asked.shape) == ((2, 3, 3), (2, 2, 3))
    plan = planner(images, state, words)
    assert torch.equal(planner(images, state, words, places), plan), (
        "when deployed, the truth is unknown"
    )
    dark = planner(torch.zeros_like(images), state, words)
    assert not torch.equal(dark, plan), "pictures tell the places"
    planner.train()
    torch.manual_seed(1)
    taught = planner(images, state, words, places)
    torch.manual_seed(1)
    assert torch.equal(planner(torch.zeros_like(images), state, words, places), taught)
    taught.sum().backward()
    assert planner.places.read[0].weight.grad is not None
    assert all(p.grad is None for p in planner.places.maps.parameters())


def test_key_points_follow_what_they_look_for():
    head = KeyPoints(things=1, asked=1, cameras=1, channels=8, width=8).eval()
    torch.nn.init.zeros_(head.maps[0].weight)
    head.maps[0].weight.data[0, 3] = 50.0
    last = head.cameras[0]
    features = torch.zeros(2, 1, 8, 16, 16)
    features[0, 0, 3, 2, 13] = features[1, 0, 3, 15, 0] = 1.0
    known = []
    last.register_forward_hook(lambda _, given, out: known.append(given[0]))
    head(features, Tokens.dense(torch.zeros(2, 1, 8)), torch.zeros(2, 6))
    row_column = torch.tensor([[4 / 15 - 1, 26 / 15 - 1], [1.0, -1.0]])
    torch.testing.assert_close(known[0][:, 0, :2], row_column)
    assert (known[0][:, 0, 2] > 0.99).all(), "it is clear where it is"
    assert known[0][0, 0, 3:11].argmax() == 3, "and what it looks like there"


def test_what_is_asked_for_says_where_to_look():
    head = KeyPoints(things=1, asked=1, cameras=1, channels=8, width=4, guided=True).eval()
    features = torch.zeros(1, 1, 8, 16, 16)
    features[0, 0, 3, 2, 13] = features[0, 0, 3, 12, 4] = 1.0  # two alike
    torch.nn.init.zeros_(head.maps[0].weight)
    head.maps[0].weight.data[0, 3] = 8.0
    words, state = Tokens.dense(torch.zeros(1, 1, 4)), torch.zeros(1, 6)

    def looked(reading: torch.Tensor) -> torch.Tensor:
        maps = head(features, words, state, reading).maps
        assert maps is not None and maps.shape == (1, 1, 1, 16, 16)
        return maps[0, 0, 0]

    anywhere = looked(torch.randn(1, 4))
    assert anywhere[2, 13] == anywhere[12, 4], "it begins with looking anywhere"
    last = head.expected[0].network[2]
    torch.nn.init.normal_(last.weight)
    one, other = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    drawn_to = [maps[2, 13] - maps[12, 4] for maps in (looked(one), looked(other))]
    assert drawn_to[0] != drawn_to[1], "what is asked for decides between two alike"


def test_a_reading_is_of_words_and_not_of_what_fills_up():
    torch.manual_seed(0)
    reading = Reading(8).eval()
    words = torch.randn(2, 5, 8)
    short = Tokens(words, torch.arange(5).expand(2, 5) < 3)
    torch.testing.assert_close(reading(short), reading(Tokens.dense(words[:, :3])))
    assert not torch.allclose(reading(short)[0], reading(short)[1], atol=0.1)


def test_maps_are_to_show_where_things_are():
    rows, columns = torch.tensor([[[[0.2, -0.5], [torch.nan, torch.nan]]]]), 16
    maps = torch.zeros(1, 1, 2, 12, columns, requires_grad=True)
    optimiser = torch.optim.Adam([maps], lr=0.1)
    for _ in range(300):
        optimiser.zero_grad()
        map_loss(maps, rows).backward()
        optimiser.step()
    assert not maps[0, 0, 1].any(), "what is in no picture is looked for nowhere"
    weights = maps[0, 0, 0].flatten().softmax(dim=0).detach()
    found = (weights[:, None] * centres(12, columns, device=maps.device)).sum(dim=0)
    # From edge to edge the picture is as many cells wide, and their middles one less.
    middles = found * torch.tensor([11 / 12, 15 / 16])
    torch.testing.assert_close(middles, rows[0, 0, 0], atol=0.02, rtol=0.0)
    assert map_loss(maps, torch.full_like(rows, torch.nan)) == 0.0


def test_places_are_misjudged_by_less_near_the_hand():
    torch.manual_seed(0)
    near, far = (torch.full((4000, 1, 3), away) for away in (0.001, 0.3))
    off = [(misjudged(places) - places).abs().mean(dim=(0, 1)) for places in (near, far)]
    assert (2.0 * off[0] < off[1]).all() and off[1].max() < 0.01
    assert off[1][2] < 0.7 * off[1][0], "height is told best"


def test_what_is_asked_for_is_one_of_the_things():
    places = torch.arange(12.0).reshape(1, 4, 3)
    told = Told(places, 100.0 * torch.eye(4)[None, [2, 0]])
    torch.testing.assert_close(told.asked, places[:, [2, 0]])


def test_only_what_is_there_is_to_be_told():
    places, asked = torch.rand(1, 3, 3), torch.tensor([[2, 2]])
    nowhere = torch.full((1, 1, 3, 2), torch.nan)
    truth = Truth(places, torch.tensor([[False, True, True]]), asked, nowhere)
    sure = 100.0 * torch.eye(3)[None, [2, 2]]
    assert torch.equal(truth.of_asked, places[:, [2, 2]])

    def loss(which: torch.Tensor, *off: float) -> float:
        return place_loss(Told(places + torch.tensor(off)[:, None], which), truth).item()

    assert loss(sure, 1.0, 0.0, 0.0) == pytest.approx(0.0, abs=1e-6)
    assert 0.0 < loss(sure, 0.0, 0.1, 0.0) < loss(sure, 0.0, 0.0, 0.1)
    assert loss(sure.roll(1, dims=-1), 0.0, 0.0, 0.0) == pytest.approx(100.0)
    shown = dataclasses.replace(truth, pictured=torch.zeros(1, 1, 3, 2))
    maps = torch.zeros(1, 1, 3, 4, 4)
    unsure = place_loss(Told(places, sure, maps), shown)
    maps[0, 0, 2, 1:3, 1:3] = 2.0
    assert place_loss(Told(places, sure, maps), shown) < unsure
    assert place_loss(Told(places, sure, maps), truth) == pytest.approx(0.0, abs=1e-6)


def test_every_vote_is_judged_by_itself():
    """Two cameras, one thing, both votes of each camera off to different sides."""
    votes = torch.tensor([[[[0.1, 0, 0], [-0.1, 0, 0], [0.1, 0, 0], [-0.1, 0, 0]]]])
    sure = torch.full((1, 1, 4), 0.25)
    told = Told(votes.mean(dim=2), torch.zeros(1, 1, 1), votes=votes, sure=sure)
    truth = Truth(
        torch.zeros(1, 1, 3),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.int64),
        torch.full((1, 2, 1, 2), torch.nan),
    )
    assert told.places.abs().max() == 0.0, "their mean is right"
    wrong = misplaced(told, truth)
    assert wrong.item() > 0.1
    certain = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    right = torch.tensor([[[[0.0, 0, 0], [-0.1, 0, 0], [0.1, 0, 0], [-0.1, 0, 0]]]])
    one = dataclasses.replace(told, votes=right, sure=certain)
    assert misplaced(one, truth).item() == 0.0
    in_sight = truth.pictured.clone()
    in_sight[:, 1] = 0.0
    seen = dataclasses.replace(truth, pictured=in_sight)
    assert 0.0 < misplaced(one, seen).item() < 0.2 * wrong.item(), "the second camera's are heard"


def test_some_plans_are_learned_from_places_alone_but_none_is_made_so():
    torch.manual_seed(0)
    head = PlaceHead(things=1, asked=1, cameras=2, camera_tokens=3, width=8)
    context = Tokens(torch.randn(64, 8, 8), torch.arange(8).expand(64, 8) != 7)
    mask = head.train().sometimes_unseen(context).mask
    assert torch.equal(mask[:, 6:], context.mask[:, 6:]), "words are always read"
    seen = mask[:, :6].float().mean(dim=1)
    assert set(seen.tolist()) == {0.0, 1.0} and 0.3 < seen.mean() < 0.7
    assert head.eval().sometimes_unseen(context) is context


def test_what_the_disk_refuses_is_an_os_error(tmp_path: Path):
    """Safetensors raises an error of its own, which would not become a line about the disk."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError) as refused:
            checkpoints.write_tensors({"weights": torch.zeros(100_000)}, tmp_path / "weights")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.errno == errno.EFBIG
