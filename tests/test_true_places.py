"""`benchmarks/true_places.py`: what the planner tells is replaced by where things are."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from libra_vla.config import load_preset
from libra_vla.policies.models import make_model
from libra_vla.training.building import with_places

pytest.importorskip("libero")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "true_places.py"


@pytest.mark.parametrize("attentive", [True, False])
def test_the_truth_is_told_from_where_the_hand_is(attentive, monkeypatch: pytest.MonkeyPatch):
    spec = importlib.util.spec_from_file_location("true_places", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    found = {"ball": np.array([0.3, 0.2, 0.1]), "tray": np.array([0.0, 0.1, 0.9])}
    monkeypatch.setattr(script, "whereabouts", lambda env: lambda: found)
    monkeypatch.setattr(script, "asked_by", lambda task: ("tray", "ball"))
    monkeypatch.setattr(script, "made", [SimpleNamespace(task=None)])
    config = with_places(load_preset("small-places"), (("ball", "cube", "tray"), 2))
    backbone = replace(config.planner.backbone, attentive=attentive)
    config = replace(config, planner=replace(config.planner, backbone=backbone))
    planner = make_model(config, bins=(11, 11, 2), cameras=1, state_size=6).planner.eval()
    planner.places.standardised_by((1.0,) * 6, (2.0,) * 6)
    planner.places.register_forward_hook(script.truth)
    hand = torch.tensor([[0.5, -0.5, 0.25, 0.0, 0.0, 0.0]])
    told = planner.locate(torch.rand(1, 1, 3, 128, 128), (hand - 1.0) / 2.0, ("go",))
    true = torch.tensor(np.array([found["tray"], found["ball"]])).float() - hand[:, :3]
    torch.testing.assert_close(told.asked[0].float(), true, atol=1e-5, rtol=0.0)
