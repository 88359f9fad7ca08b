"""Baselines: each learns, and does what its paper says it does."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from test_policies import make_batch, make_policy, observe

from libra_vla.config import preset_names
from libra_vla.errors import LibraError
from libra_vla.policies.baselines.autoregressive import FINE, value, word
from libra_vla.policies.batched import BatchedPolicy
from libra_vla.policies.losses import Objective
from libra_vla.studies.baselines import BaselinesConfig, arms
from libra_vla.training.config import TrainConfig

BASELINES = (
    "tiny-diffusion", "tiny-action-expert", "tiny-autoregressive", "tiny-prompted",
    "tiny-parallel", "tiny-fast-in-slow",
)  # fmt: skip
LANGUAGE = ("tiny-autoregressive", "tiny-prompted")


def fit(preset: str, steps: int, draws: int = 2):
    """A policy trained on one batch, that batch, and its losses."""
    policy = make_policy(preset)
    batch, losses = make_batch(policy), []
    optimiser = torch.optim.AdamW(policy.model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        loss, _ = policy.model.loss(
            batch,
            Objective(draws=draws, generator=generator),
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return policy, batch, losses


@pytest.mark.parametrize("preset", BASELINES)
def test_it_learns_and_acts_as_it_learned(preset: str):
    # Noise prediction learns late what an image says: most of its levels hardly need it. With few
    # draws, when it does so depends on the last bits of a processor's arithmetic.
    steps = {"tiny-diffusion": 250, "tiny-parallel": 250}.get(preset, 150)
    policy, batch, losses = fit(preset, steps, draws=16 if preset == "tiny-diffusion" else 2)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    noise = torch.randn(batch.actions.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        coarse = policy.model.plan(batch.current)[:, : policy.chunk]
        acted = policy.model.refine(batch.current, coarse, noise)
    assert acted.shape == batch.actions.shape
    error, spread = (acted - batch.actions).abs().mean(), batch.actions.std()
    assert error < 0.6 * spread, f"{error:.3f} of {spread:.3f}"
    # It tells "left" from "right", which only the instruction says.
    sides = acted[:, :, 2].mean(dim=1)
    assert (sides[1::2] > sides[::2].max()).all()


@pytest.mark.parametrize("preset", LANGUAGE)
def test_no_word_hears_a_later_one(preset: str):
    policy = make_policy(preset)
    batch, model = make_batch(policy, size=2), policy.model
    words = [word(batch.actions, count).flatten(1) for count in model.levels]
    before = torch.cat([x.sum(-1) for x in model.logits(batch.current, words)], 1)
    changed = [w.clone() for w in words]
    place = 7
    changed[-1][:, place] = (changed[-1][:, place] + 5) % FINE
    after = torch.cat([x.sum(-1) for x in model.logits(batch.current, changed)], 1)
    at = (len(words) - 1) * words[0].shape[1] + place
    assert torch.allclose(before[:, : at + 1], after[:, : at + 1], atol=1e-5)
    assert not torch.allclose(before[:, at + 1 :], after[:, at + 1 :], atol=1e-3)


@pytest.mark.parametrize("preset", LANGUAGE)
def test_words_are_told_as_they_are_scored(preset: str):
    """Greedy decoding with kept keys and values says what a pass over all of it would say."""
    policy, batch, _ = fit(preset, 60)  # so that a coarse word is what its fine one lies in
    model = policy.model
    with torch.no_grad():
        told = model.refine(batch.current, torch.empty(0), torch.empty(0))
        words = [word(told, count).flatten(1) for count in model.levels]
        again = [x.argmax(-1) for x in model.logits(batch.current, words)]
    assert torch.equal(again[-1], words[-1])
    assert (again[0] == words[0]).float().mean() > 0.9


def test_levels_and_their_middles():
    actions = torch.linspace(-1, 1, 1001)
    assert (value(word(actions, FINE), FINE) - actions).abs().max() <= 1.0 / FINE + 1e-6
    assert word(torch.tensor([-1.0, 1.0, 7.0]), FINE).tolist() == [0, 255, 255]


def test_fast_in_slow_shares_blocks_and_keeps_what_the_slow_one_saw():
    policy = make_policy("tiny-fast-in-slow")
    model = policy.model
    batch = make_batch(policy, size=2)
    loss, _ = model.loss(batch, Objective())
    shared = list(model.blocks)[-model.shared :]
    names = [n for n, _ in model.named_parameters()]
    assert len(names) == len(set(names)) and not any("fast" in n for n in names)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for b in shared for p in b.parameters())
    policy.reset(0)
    plan = policy.plan(observe(1))
    first = policy.refine(observe(2), plan.coarse[:5])
    policy.plan(observe(9))  # the slow system saw something else
    policy.reset(0)
    assert not np.array_equal(policy.refine(observe(2), plan.coarse[:5]), first)
    policy.plan(observe(1))
    policy.reset(0)
    assert np.array_equal(policy.refine(observe(2), plan.coarse[:5]), first)
    with pytest.raises(LibraError, match="one robot"):
        BatchedPolicy(policy)


@pytest.mark.parametrize("preset", ["tiny-parallel", "tiny-autoregressive"])
def test_what_does_not_denoise_cannot_join_chunks(preset: str):
    policy = make_policy(preset)
    known = np.zeros((2, 3), dtype=np.float32)
    with pytest.raises(LibraError, match="does not denoise"):
        policy.refine_onto(observe(), policy.plan(observe()).coarse[:5], known, frozen=1)


def test_every_arm_of_the_study_can_be_trained(tmp_path: Path):
    found = arms(BaselinesConfig(tmp_path, "libero_goal", tmp_path))
    assert [arm.name for arm in found][-3:] == ["modular", "soft", "Libra"]
    presets = {str(arm.options["preset"]) for arm in found if "preset" in arm.options}
    assert presets <= set(preset_names()) and set(BASELINES) <= presets
    known = {field.name for field in fields(TrainConfig)}
    assert all(set(arm.options) <= known for arm in found)
    with pytest.raises(LibraError, match="did you mean 'prompted'"):
        BaselinesConfig(tmp_path, "libero_goal", tmp_path, baselines=("prompt",))
