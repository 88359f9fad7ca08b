"""InternVL and SigLIP adapters, tiny and random: the same code as the paper's three billion."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.config import BackboneConfig, load_preset
from libra_vla.errors import LibraError
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies import LibraPolicy
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.losses import Objective
from libra_vla.policies.policy import StateStatistics

transformers = pytest.importorskip("transformers")

from libra_vla.policies.huggingface import (  # noqa: E402
    IMAGENET_MEAN,
    IMAGENET_STD,
    ByteTokenizer,
    InternVLBackbone,
    SiglipEncoder,
)

CONFIG = load_preset("paper-tiny")
BACKBONE, ENCODER = CONFIG.planner.backbone, CONFIG.refiner.encoder
SHORT, LONG = "open the door", "put the black bowl on the plate that is nearest to the stove"
CAMERAS = ("agentview", "wrist")
CONVENTION = ActionConvention(("x", "y", "gripper"), ("m", "m", "1"), "d", 20.0, gripper=2)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny tensors gain nothing from threads, and on a busy machine threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_backbone(cameras: int = 2, **changes) -> InternVLBackbone:
    torch.manual_seed(0)
    return InternVLBackbone(dataclasses.replace(BACKBONE, **changes), cameras).eval()


def pictures(batch: int, seed: int = 0, size: int = 56) -> Tensor:
    return torch.rand(batch, 2, 3, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def backbone() -> InternVLBackbone:
    return make_backbone()


@torch.no_grad()
def test_it_equals_transformers_own_forward(backbone: InternVLBackbone):
    """The prompt written with placeholder ids, run by InternVLModel itself."""
    images, vlm = pictures(1), backbone.vlm
    placeholder, bytes_of = 319, ByteTokenizer().encode
    vlm.config.image_token_id = placeholder
    per_image = (56 // 14 // 2) ** 2
    ids = []
    for _ in CAMERAS:
        ids += [0] + [placeholder] * per_image + [1] + bytes_of("\n")
    ids = torch.tensor([ids + bytes_of(SHORT)])
    mean, std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    expected = vlm(input_ids=ids, pixel_values=(images[0] - mean) / std).last_hidden_state
    tokens = backbone(images, [SHORT])
    assert tokens.mask.all() and tokens.values.shape == (1, ids.shape[1], backbone.width)
    assert torch.allclose(tokens.values, expected, atol=1e-5)


@torch.no_grad()
def test_padding_does_not_change_the_shorter_instruction(backbone: InternVLBackbone):
    images = pictures(2)
    alone = backbone(images[:1], [SHORT])
    together = backbone(images, [SHORT, LONG])
    length = alone.values.shape[1]
    assert together.mask.sum(dim=1).tolist() == [length, together.values.shape[1]]
    assert torch.allclose(together.values[0, :length], alone.values[0], atol=1e-5)


@torch.no_grad()
def test_padding_does_not_change_the_plan():
    model = make_policy().model
    state, images = torch.zeros(2, 4), pictures(2)
    alone = model.plan(Moment(images[:1], state[:1], (SHORT,)))
    together = model.plan(Moment(images, state, (SHORT, LONG)))
    assert torch.allclose(alone[0], together[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-5)


@torch.no_grad()
def test_images_their_cameras_and_the_instruction_matter(backbone: InternVLBackbone):
    images = pictures(1)
    base = backbone(images, [SHORT]).values[:, -1]
    same_length = SHORT[::-1]
    for other in (
        backbone(pictures(1, seed=1), [SHORT]),
        backbone(images.flip(1), [SHORT]),
        backbone(images, [same_length]),
    ):
        assert not torch.allclose(base, other.values[:, -1], atol=1e-4)


@torch.no_grad()
def test_images_are_resized_and_no_camera_is_fine(backbone: InternVLBackbone):
    plain = torch.full((1, 2, 3, 56, 56), 0.3)
    large = torch.full((1, 2, 3, 100, 80), 0.3)
    same = torch.allclose(
        backbone(plain, [SHORT]).values, backbone(large, [SHORT]).values, atol=1e-5
    )
    assert same
    blind = make_backbone(cameras=0)(torch.zeros(1, 0, 3, 56, 56), [SHORT, ""][:1])
    assert blind.values.shape == (1, len(SHORT), 64)
    assert make_backbone()(plain, [""]).mask.all(), "an empty instruction is still a prompt"


def test_the_image_marks_cannot_be_typed():
    assert min(ByteTokenizer().encode("<img></img>")) >= len(ByteTokenizer.SPECIAL)
    assert max(ByteTokenizer().encode("ÿ\U0010ffff")) < ByteTokenizer.SIZE


def test_a_tokenizer_folder_is_used(tmp_path: Path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {w: i for i, w in enumerate(["<unk>", "<s>", "<img>", "</img>", "open", "the", "door"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>"
    )
    fast.save_pretrained(tmp_path / "whole")
    backbone = make_backbone(tokenizer=str(tmp_path / "whole"))
    # <s>, then <img>, 4 tokens, </img> per camera (this tokenizer drops newlines), then the words.
    assert backbone(pictures(1), [SHORT]).values.shape[1] == 1 + 2 * 6 + 3

    del words["<img>"]
    (tmp_path / "whole" / "tokenizer.json").write_text(tokenizer.to_str().replace("<img>", "<x>"))
    with pytest.raises(LibraError, match="lacks <img>"):
        make_backbone(tokenizer=str(tmp_path / "whole"))
    with pytest.raises(LibraError, match="no tokenizer at"):
        make_backbone(tokenizer=str(tmp_path / "nothing"))


def test_wrong_configurations_are_refused():
    small_vocabulary = {**BACKBONE.model["text_config"], "vocab_size": 100}
    with pytest.raises(LibraError, match="vocab_size is 100"):
        make_backbone(model={**BACKBONE.model, "text_config": small_vocabulary})
    with pytest.raises(LibraError, match="did you mean 'vision_tower'"):
        make_backbone(frozen=("vision_towr",))
    broken = {**BACKBONE.model["vision_config"], "hidden_size": "wide"}
    with pytest.raises(LibraError, match="transformers refuses"):
        InternVLBackbone(
            BackboneConfig(kind="internvl", model={**BACKBONE.model, "vision_config": broken}), 2
        )


def test_pretrained_weights_are_loaded_whole_or_refused(tmp_path: Path):
    torch.manual_seed(5)
    config = transformers.InternVLConfig(**BACKBONE.model)
    transformers.InternVLForConditionalGeneration(config).save_pretrained(tmp_path / "vlm")
    backbone = make_backbone()
    before = backbone(pictures(1), [SHORT]).values
    backbone.load_pretrained(tmp_path / "vlm")
    reference = transformers.InternVLModel.from_pretrained(tmp_path / "vlm").state_dict()
    for name, value in backbone.vlm.state_dict().items():
        assert torch.equal(value, reference[name])
    assert not torch.allclose(backbone(pictures(1), [SHORT]).values, before, atol=1e-3)
    assert not any(p.requires_grad for p in backbone.vlm.vision_tower.parameters())

    with pytest.raises(LibraError, match="is not a folder"):
        backbone.load_pretrained(tmp_path / "nothing")
    vision = SiglipEncoder(ENCODER, 2).vision
    vision.save_pretrained(tmp_path / "siglip")
    SiglipEncoder(ENCODER, 2).load_pretrained(tmp_path / "siglip")
    with pytest.raises(LibraError, match="lacks the weight"):
        backbone.load_pretrained(tmp_path / "siglip")
    wider = {**ENCODER.model, "intermediate_size": 256}
    with pytest.raises(LibraError, match="does not hold these weights"):
        SiglipEncoder(dataclasses.replace(ENCODER, model=wider), 2).load_pretrained(
            tmp_path / "siglip"
        )


@torch.no_grad()
def test_siglip_tells_cameras_apart_and_ranges_over_all_of_them():
    torch.manual_seed(0)
    encoder = SiglipEncoder(ENCODER, 2).eval()
    tokens = encoder(pictures(3, size=64))
    assert tokens.values.shape == (3, 2 * 16, 64) and tokens.mask.all()
    same = pictures(1)[:, :1].expand(-1, 2, -1, -1, -1)
    first, second = encoder(same).values.chunk(2, dim=1)
    assert torch.allclose(second - first, (encoder.camera[1] - encoder.camera[0]), atol=1e-4)
    assert SiglipEncoder(ENCODER, 0)(torch.zeros(1, 0, 3, 56, 56)).values.shape == (1, 0, 64)


def make_policy() -> LibraPolicy:
    torch.manual_seed(0)
    return LibraPolicy(
        config=CONFIG,
        action_space=ActionSpace(CONVENTION, (10, 10, 2), (-1.0,) * 3, (1.0,) * 3),
        observation_spec=ObservationSpec(cameras=CAMERAS, state_size=4),
        state_statistics=StateStatistics((0.0,) * 4, (1.0,) * 4),
    )


def make_batch(policy: LibraPolicy, size: int = 8) -> Batch:
    """Actions that can be read off the image's brightness and the instruction."""
    brightness = torch.linspace(0.0, 1.0, size)
    images = brightness[:, None, None, None, None].expand(size, 2, 3, 56, 56)
    moment = Moment(
        images, torch.zeros(size, 4), tuple(SHORT if i % 2 else LONG for i in range(size))
    )
    side = torch.tensor([1.0 if i % 2 else -1.0 for i in range(size)])
    one = torch.stack([brightness * 2 - 1, side * 0.5, side], dim=-1)
    plan = one[:, None].expand(size, CONFIG.macro_horizon, 3)
    return Batch(
        planned=moment,
        current=moment,
        offset=torch.arange(size) % (CONFIG.chunk + 1),
        coarse=torch.from_numpy(policy.action_space.encode(plan.numpy())),
        coarse_valid=torch.ones(size, CONFIG.macro_horizon, dtype=torch.bool),
        actions=plan[:, : CONFIG.chunk].contiguous(),
        actions_valid=torch.ones(size, CONFIG.chunk, dtype=torch.bool),
    )


def train(policy: LibraPolicy, steps: int) -> list[float]:
    batch, model = make_batch(policy), policy.model
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser, losses = torch.optim.AdamW(trained, lr=2e-3), []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        loss, _ = model.loss(
            batch,
            Objective(draws=4, generator=generator),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    return losses


def observe(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {c: rng.integers(0, 256, (128, 128, 3), dtype=np.uint8) for c in CAMERAS}
    return Observation(images, rng.normal(size=4).astype(np.float32), LONG, step=3)


def test_the_dual_system_learns_while_its_frozen_part_stays():
    policy = make_policy()
    backbone = policy.model.planner.backbone
    tower = backbone.vlm.vision_tower
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    policy.model.train()
    assert not any(m.training for m in tower.modules()), "a frozen part stays in evaluation mode"
    assert backbone.vlm.language_model.training
    losses = train(policy, 30)
    assert np.mean(losses[-3:]) < 0.6 * losses[0]
    assert all(p.grad is None for p in tower.parameters())
    assert all(torch.equal(value, before[name]) for name, value in tower.state_dict().items())
    idle = [n for n, p in policy.model.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == [], "everything else is trained: no parameter is there for nothing"


def test_it_trains_and_plans_in_mixed_precision():
    policy = make_policy()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train(policy, 2)
        plan = policy.plan(observe())
    assert np.isfinite(losses).all() and np.isfinite(plan.distribution).all()


def test_a_trained_policy_is_saved_and_loaded_bit_for_bit(tmp_path: Path):
    policy = make_policy()
    train(policy, 3)
    policy.save_pretrained(tmp_path / "checkpoint")
    loaded = LibraPolicy.from_pretrained(tmp_path)
    plan, again = policy.plan(observe()), loaded.plan(observe())
    assert np.array_equal(plan.distribution, again.distribution)
    assert plan.coarse.shape == (10, 3) and plan.distribution.shape == (10, 3, 10)
    actions = []
    for each in (policy, loaded):
        each.reset(seed=4)
        actions.append(each.refine(observe(), plan.coarse[:5]))
    assert np.array_equal(*actions) and actions[0].shape == (5, 3)
    assert loaded.parameters() == policy.parameters()
    assert loaded.parameters()["trainable"] < loaded.parameters()["total"]
