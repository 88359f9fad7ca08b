"""What a policy would do if its planner always told right where things are.

python benchmarks/true_places.py --policy runs/policy --suite libero_goal --out runs/true

Evaluates on sampled resets as `libra eval` does, but what the planner tells of the places that its
instruction is about is replaced by what the simulator knows: that of the policy's failures which
is left does not come from what it sees of places.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from libra_vla.errors import LibraError
from libra_vla.evaluation.config import EvalConfig
from libra_vla.evaluation.evaluate import evaluate
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.places import Places, Told
from libra_vla.policies.policy import LibraPolicy
from libra_vla.simulation.benchmark import Environment, Task
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.stills import asked_by, whereabouts
from libra_vla.simulation.registry import benchmark_of

made: list[LiberoEnv] = []
"""The environment that this process made last."""


def make_env(task: Task, **options: Any) -> Environment:
    """An environment that `truth` looks at."""
    env = benchmark_of(task.suite).make_env(task, **options)
    assert isinstance(env, LiberoEnv)
    made[:] = [env]
    return env


def truth(head: torch.nn.Module, given: tuple[Any, ...], told: Told) -> Told:
    """In place of what `head` told of the places that matter, where they are."""
    assert isinstance(head, Places)
    if not made:  # nothing runs yet: the policy is being warmed up
        return told
    found, names = whereabouts(made[0])(), asked_by(made[0].task)
    hand = given[-1][0, :3] * head.std[:3] + head.mean[:3]
    where = torch.tensor(np.array([found[name] for name in names])).to(hand) - hand
    return Told(where[None], 100.0 * torch.eye(len(names))[None])


def load_policy(folder: Path, device: str) -> LibraPolicy:
    """A policy whose planner is told the truth."""
    policy = LibraPolicy.from_pretrained(folder, device=device)
    model = policy.model
    if not isinstance(model, LibraModel) or model.planner.places is None:
        raise LibraError("expected a policy that tells places: `libra train --stills`")
    model.planner.places.register_forward_hook(truth)
    return policy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks")
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--spread", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--meshes", default="decimated")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments: Mapping[str, Any] = vars(parser.parse_args())
    config = EvalConfig(**arguments, states="sampled")
    benchmark = replace(benchmark_of(config.suite), make_env=make_env)
    results = evaluate(config, benchmark=benchmark, load_policy=load_policy)
    chosen = ("suite", "success_rate", "success_interval", "failures", "episodes")
    print(json.dumps({key: results[key] for key in chosen if key in results}))


if __name__ == "__main__":
    main()
