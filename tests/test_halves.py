"""One policy's planner before another's refiner."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_policies import make_policy, observe

from libra_vla.cli import main
from libra_vla.errors import LibraError
from libra_vla.policies import LibraPolicy, load_policy
from libra_vla.policies.halves import averaged, joined_halves


def moved(policy: LibraPolicy) -> LibraPolicy:
    """The same policy with other weights, and intents that tell how sure the planner is."""
    other = replace(policy, config=replace(policy.config, intents="soft"))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.normal_(std=0.1)
    return other


def test_the_planner_is_of_one_and_the_refiner_of_the_other(tmp_path: Path):
    first = make_policy()
    first.save_pretrained(tmp_path / "first")
    moved(first).save_pretrained(tmp_path / "second")
    words = ["export", "--policy", str(tmp_path / "first"), "--out", str(tmp_path / "both")]
    assert main([*words, "--refiner", str(tmp_path / "second")]) == 0
    one, other, both = (load_policy(tmp_path / name) for name in ("first", "second", "both"))
    plans = [policy.plan(observe()).distribution for policy in (one, other, both)]
    np.testing.assert_allclose(plans[2], plans[0], atol=1e-3)
    assert np.abs(plans[1] - plans[0]).max() > 0.01
    assert both.soft_intents and not one.soft_intents
    chunks = []
    for policy in (other, both):
        policy.reset(0)
        chunks.append(policy.refine(observe(), plans[0][: policy.chunk]))
    np.testing.assert_allclose(chunks[1], chunks[0], atol=2e-2)
    assert both.training["refiner"]["checkpoint"] == other.checkpoint_hash


def test_halves_that_do_not_fit_are_refused():
    policy = make_policy()
    shorter = replace(policy, config=replace(policy.config, horizon_factor=1))
    with pytest.raises(LibraError, match="horizon_factor is 2, the refiner's 1: expected the same"):
        joined_halves(policy, shorter)
    elsewhere = replace(policy.state_statistics, mean=(1.0,) * 4)
    with pytest.raises(LibraError, match="differ in their state statistics: train one of them"):
        joined_halves(policy, replace(policy, state_statistics=elsewhere))
    with pytest.raises(LibraError, match="'monolithic' has no planner to put before another's"):
        joined_halves(make_policy("tiny-monolithic"), policy)
    with pytest.raises(LibraError, match="sees through its planner's encoder cannot leave it"):
        joined_halves(policy, make_policy("tiny-refinement"))


def test_the_weights_of_two_policies_are_averaged(tmp_path: Path):
    make_policy().save_pretrained(tmp_path / "first")
    other = moved(make_policy())
    replace(other, config=make_policy().config).save_pretrained(tmp_path / "then")
    words = ["export", "--policy", str(tmp_path / "then"), "--out", str(tmp_path / "mean")]
    assert main([*words, "--average", str(tmp_path / "first")]) == 0
    first, then, mean = (load_policy(tmp_path / name) for name in ("first", "then", "mean"))
    for name, value in mean.model.state_dict().items():
        expected = (first.model.state_dict()[name] + then.model.state_dict()[name]) / 2
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)
    assert mean.training["averaged_with"] == first.checkpoint_hash


def test_only_policies_that_differ_in_weights_alone_are_averaged():
    policy = make_policy()
    with pytest.raises(LibraError, match="differ in their config: only one that was trained with"):
        averaged(policy, moved(make_policy()))
    elsewhere = replace(policy.state_statistics, mean=(1.0,) * 4)
    with pytest.raises(LibraError, match="differ in their state statistics"):
        averaged(policy, replace(policy, state_statistics=elsewhere))
