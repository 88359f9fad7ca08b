"""What a policy is made of and what it costs, counted without computing anything.

The network is built on PyTorch's meta device (shapes without numbers), so that the paper's three
billion parameters are counted in seconds on any machine.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from libra_vla.config import PolicyConfig, load_preset
from libra_vla.policies.batch import Moment
from libra_vla.policies.models import Network, make_model
from libra_vla.policies.policy import LibraPolicy

INSTRUCTION = "put the bowl on the plate"
"""Language of typical length; FLOPs depend on it a little."""
LIBERO_DIMENSIONS, LIBERO_STATE, LIBERO_CAMERAS = 7, 8, 2
LIBERO_THINGS, LIBERO_ASKED = 57, 4
"""What the stills of the four suites tell places of, and of how many an instruction is."""
BYTES = {"fp32": 4, "bf16": 2}
OPENED = ("planner", "planner.backbone", "planner.backbone.vlm", "refiner", "backbone")
"""Modules that are listed part by part."""


def describe_preset(name: str) -> dict[str, Any]:
    """Counts a preset as it would be trained on LIBERO (7 action dimensions, 2 cameras; the places
    of its stills, where it plans by places).

    Raises:
        LibraError: unknown preset.
    """
    config = load_preset(name)
    bins = [config.granularity] * LIBERO_DIMENSIONS
    if config.gripper_bins is not None:
        bins[-1] = config.gripper_bins
    if not config.planner.sees:
        things = tuple(f"thing {number}" for number in range(LIBERO_THINGS))
        config = replace(config, planner=replace(config.planner, things=things, asked=LIBERO_ASKED))
    return _describe(config, tuple(bins), LIBERO_CAMERAS, LIBERO_STATE)


def describe_policy(folder: Path | str) -> dict[str, Any]:
    """Counts a checkpoint, and adds its action space and how it was trained.

    Raises:
        LibraError: no checkpoint there, or a damaged one.
    """
    policy = LibraPolicy.from_pretrained(folder)
    cameras, state = policy.observation_spec.cameras, policy.observation_spec.state_size
    things = policy.config.planner.things
    return {
        **_describe(policy.config, policy.action_space.bins, len(cameras), state),
        "camera_names": list(cameras),
        **({"tells_places_of": list(things)} if things else {}),
        "action_space": policy.action_space.to_json(),
        "training": dict(policy.training),
        "checkpoint_hash": policy.checkpoint_hash,
    }


def count_parts(model: nn.Module, name: str = "") -> dict[str, int]:
    """Parameters by dotted name of the part; the values sum up to the total."""
    parts: dict[str, int] = {}
    for child_name, child in model.named_children():
        full = f"{name}.{child_name}".lstrip(".")
        if full in OPENED:
            parts |= count_parts(child, full)
        elif count := sum(p.numel() for p in child.parameters()):
            parts[full.replace(".vlm", "")] = count
    own = sum(p.numel() for p in model.parameters(recurse=False))
    return parts | ({f"{name or 'model'} (itself)": own} if own else {})


def _describe(
    config: PolicyConfig, bins: tuple[int, ...], cameras: int, state_size: int
) -> dict[str, Any]:
    with torch.device("meta"):
        model = make_model(config, bins=bins, cameras=cameras, state_size=state_size).eval()
    total = sum(p.numel() for p in model.parameters())
    return {
        "preset": config.preset,
        "kind": config.kind,
        "N": config.granularity,
        "M": config.horizon_factor,
        "H": config.chunk,
        "D": len(bins),
        "cameras": cameras,
        "image_size": config.image_size,
        "parameters": {
            "total": total,
            "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
            "parts": count_parts(model),
        },
        "weights_gib": {name: round(total * size / 2**30, 4) for name, size in BYTES.items()},
        "flops": _flops(model, config, bins, cameras, state_size),
    }


def _flops(
    model: Network,
    config: PolicyConfig,
    bins: tuple[int, ...],
    cameras: int,
    state_size: int,
) -> dict[str, int]:
    """FLOPs (an addition and a multiplication are two) of batch size 1.

    Counts matrix products, convolutions and attention; the rest is below a hundredth.
    """
    size = config.image_size
    with torch.device("meta"):
        images, state = torch.zeros(1, cameras, 3, size, size), torch.zeros(1, state_size)
        coarse = torch.zeros(1, config.chunk, len(bins), max(bins))
        noise = torch.zeros(1, config.chunk, len(bins))
    seen = Moment(images, state, (INSTRUCTION,))
    with torch.inference_mode():
        with FlopCounterMode(display=False) as plan:
            model.plan(seen)
        with FlopCounterMode(display=False) as chunk:
            model.refine(seen, coarse, noise)
    per_plan, per_chunk = plan.get_total_flops(), chunk.get_total_flops()
    factor = config.horizon_factor
    return {
        "plan": per_plan,
        "chunk": per_chunk,
        # M chunks share one plan.
        "action": round((per_plan / factor + per_chunk) / config.chunk),
    }
