"""What a small network does that sees nothing and is told where things are.

libra collect --suite libero_10 --episodes 20 --spread 0.02 --places --out data/told
python benchmarks/told_policy.py --data data/told --suite libero_10 --misjudge 0.006 --off 0.01

Learns chunks of actions from demonstrations that tell places, in minutes on one core, and drives on
sampled resets that nothing is drawn of. So it tells, without pictures, what demonstrations are good
for, and how well places have to be known.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from libra_vla.data.lerobot import LeRobotDataset
from libra_vla.evaluation.statistics import wilson
from libra_vla.simulation.benchmark import Task
from libra_vla.simulation.libero.environment import LiberoEnv
from libra_vla.simulation.libero.stills import asked_by, whereabouts
from libra_vla.simulation.registry import benchmark_of
from libra_vla.training.samples import places_asked

CHUNK, EXECUTED = 10, 5
SCALES = (0.01, 0.03, 0.1)
"""Metres over which it reads where a thing is from the hand."""
UPRIGHT = np.array([1.0, 1.0, 0.5])
"""Heights are off by less."""


class Network(nn.Module):
    """Proprioception [B, S], places from the hand [B, K, 3] (m) and tasks [B] -> [B, CHUNK, D]."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, states: Tensor, places: int, tasks: int, dimensions: int, width: int = 256
    ) -> None:
        super().__init__()
        self.register_buffer("mean", states.mean(dim=0))
        self.register_buffer("std", states.std(dim=0) + 1e-4)
        size = states.shape[1] + 3 * places * (len(SCALES) + 1)
        self.task = nn.Embedding(tasks, width)
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * width),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(2 * width, width),
            )
            for _ in range(3)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, CHUNK * dimensions))

    def forward(self, states: Tensor, places: Tensor, tasks: Tensor) -> Tensor:
        where = places.flatten(1)
        read = [(where / scale).tanh() for scale in SCALES]
        known = torch.cat([(states - self.mean) / self.std, where / SCALES[-1], *read], dim=1)
        x = self.enter(known) + self.task(tasks)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x).unflatten(1, (CHUNK, -1))


@dataclass(frozen=True)
class Examples:
    """Moments at which places are told, and what the expert does from there.

    Attributes:
        states: [T, S].
        places: of what the task is about, metres from the hand [T, K, 3].
        tasks: [T], numbers of `instructions`.
        actions: raw [T, CHUNK, D].
        valid: before the next shove and the end, bool [T, CHUNK].
    """

    states: Tensor
    places: Tensor
    tasks: Tensor
    actions: Tensor
    valid: Tensor
    instructions: list[str]

    @classmethod
    def of(cls, dataset: LeRobotDataset) -> "Examples":
        assert dataset.places is not None, "collect with --places"
        places, instructions = places_asked(dataset, dataset.places), list(dataset.tasks)
        rows, tasks, stops = [], [], []
        for episode in dataset.episodes:
            for span in episode.spans:
                rows.append(np.arange(span.start, span.stop))
                stops.append(np.full(len(rows[-1]), span.stop))
                tasks.append(np.full(len(rows[-1]), instructions.index(episode.instruction)))
        row, stop = np.concatenate(rows), np.concatenate(stops)
        ahead = row[:, None] + np.arange(CHUNK)
        return cls(
            torch.from_numpy(dataset.states[row]),
            torch.from_numpy(places[row]),
            torch.from_numpy(np.concatenate(tasks)),
            torch.from_numpy(dataset.actions[np.minimum(ahead, stop[:, None] - 1)]),
            torch.from_numpy(ahead < stop[:, None]),
            instructions,
        )


def learned(examples: Examples, *, steps: int, misjudge: float, seed: int) -> Network:
    """A network that has learned from examples whose places were off by `misjudge` (m) on average,
    its weights averaged over the last steps."""
    torch.manual_seed(seed)
    network = Network(
        examples.states,
        examples.places.shape[1],
        len(examples.instructions),
        examples.actions.shape[2],
    )
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps, pct_start=0.05)
    average = torch.optim.swa_utils.AveragedModel(
        network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    for _ in tqdm(range(steps), desc="learn", unit="step"):
        row = torch.randint(len(examples.states), (512,))
        off = misjudge * torch.empty(512, 1, 1).exponential_()
        noise = off * torch.randn_like(examples.places[row]) * torch.from_numpy(UPRIGHT).float()
        told = network(examples.states[row], examples.places[row] + noise, examples.tasks[row])
        wrong = F.l1_loss(told, examples.actions[row], reduction="none").mean(dim=2)
        loss = wrong[examples.valid[row]].mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        average.update_parameters(network)
    averaged = average.module.eval()
    assert isinstance(averaged, Network)
    return averaged


@torch.no_grad()
def drive(network: Network, env: LiberoEnv, task: int, off: np.ndarray) -> bool:
    """Drives from a reset on, with all places told off by `off` [K, 3] (m); whether it succeeds."""
    tell, names, gripper = whereabouts(env), asked_by(env.task), env.convention.gripper
    while env.steps_taken < env.task.step_budget:
        state, found = env.observe().state, tell()
        where = np.array([found[name] for name in names]) + off - state[:3]
        chunk = network(
            torch.from_numpy(state).float()[None],
            torch.from_numpy(where).float()[None],
            torch.tensor([task]),
        )[0]
        for action in chunk.clamp(-1.0, 1.0).double().numpy()[:EXECUTED]:
            action[gripper] = np.sign(action[gripper]) or 1.0
            if env.step(action):
                return True
    return False


def successes(
    network: Network, task: Task, number: int, arguments: argparse.Namespace
) -> list[bool]:
    """What becomes of some sampled resets of a task."""
    env = benchmark_of(task.suite).make_env(task, render=False, cameras=())
    assert isinstance(env, LiberoEnv)
    results = []
    for episode in range(arguments.episodes):
        rng = np.random.default_rng([arguments.seed, task.index, episode])
        env.reset(seed=int(rng.integers(2**31)), spread=arguments.spread)
        off = arguments.off * rng.normal(size=(len(asked_by(task)), 3)) * UPRIGHT
        results.append(drive(network, env, number, off))
    env.close()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--tasks")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--misjudge", type=float, default=0.0)
    parser.add_argument("--off", type=float, default=0.0)
    parser.add_argument("--episodes", type=int, default=3)
    parser.add_argument("--spread", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=7000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    examples = Examples.of(LeRobotDataset.open(arguments.data))
    network = learned(
        examples, steps=arguments.steps, misjudge=arguments.misjudge, seed=arguments.seed
    )
    found = {
        task.index: successes(
            network, task, examples.instructions.index(task.instruction), arguments
        )
        for task in benchmark_of(arguments.suite).choose(arguments.suite, arguments.tasks)
        if task.instruction in examples.instructions
    }
    total, solved = sum(map(len, found.values())), sum(map(sum, found.values()))
    summary = {"successes": solved, "episodes": total, "interval": wilson(solved, total)}
    print(json.dumps({"by_task": {k: sum(v) for k, v in found.items()}, **summary}))


if __name__ == "__main__":
    main()
