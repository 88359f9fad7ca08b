"""`libra bench`: speed, side by side.

Machines differ and drift, so contenders take turns, and what counts is their ratio within one run.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.config import PolicyConfig, load_preset, preset_names
from libra_vla.errors import LibraError
from libra_vla.evaluation.statistics import percentiles
from libra_vla.execution.executor import Executor
from libra_vla.files import require_absent, write_json
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies.policy import LibraPolicy, StateStatistics
from libra_vla.versions import versions

CAMERAS, STATE, DIMENSIONS, IMAGE = ("agentview", "wrist"), 8, 7, 256
"""What is measured looks like LIBERO: two 256-pixel cameras, 8 numbers, 7 dimensions."""
MONOLITH = "monolithic"


@dataclass(frozen=True)
class BenchConfig:
    """Measures what the two systems cost beside the monolith of equal parameters.

    Attributes:
        out: folder for `bench.json`.
        preset: a dual-system preset that has a `-monolithic` twin.
        threads: torch threads.
        plans: plans per contender; the macro-horizon of the largest M is what a round executes.
        horizon_factors: values of M, chunks per plan.
        serving_rounds: rounds of one client, then eight, two seconds each.
    """

    out: Path
    preset: str = "tiny"
    threads: int = 1
    plans: int = 40
    horizon_factors: tuple[int, ...] = (1, 2, 3, 4, 5)
    serving_rounds: int = 5


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measures, writes `OUT/bench.json` and returns it.

    Raises:
        LibraError: the folder exists, or the preset has no monolithic twin.
    """
    require_absent(config.out, what="the output folder", remedy="choose another --out")
    if (twin := f"{config.preset}-{MONOLITH}") not in preset_names():
        raise LibraError(f"preset '{config.preset}' has no twin '{twin}': choose tiny or small")
    torch.set_num_threads(config.threads)
    result: dict[str, Any] = {
        "preset": config.preset,
        "threads": config.threads,
        "latency": latency(config, twin),
        "serving": serving(config),
        "versions": versions(),
    }
    write_json(config.out / "bench.json", result)
    return result


def latency(config: BenchConfig, twin: str) -> dict[str, Any]:
    """Milliseconds per chunk on the control path, and how far below the monolith's they are.

    The paper's own figure: 44.5 % at M = 2 and 52.7 % at M = 5.
    """
    executors = {MONOLITH: _executor(load_preset(twin))}
    for factor in config.horizon_factors:
        preset = replace(load_preset(config.preset), horizon_factor=factor)
        executors[f"M={factor}"] = _executor(preset)
    steps = max(config.horizon_factors) * load_preset(config.preset).chunk
    chunks: dict[str, list[float]] = {name: [] for name in executors}
    overhead: list[float] = []
    observation = _observation()
    for plan in tqdm(range(config.plans + 1), desc="latency", unit="plan"):
        for name, executor in executors.items():
            executor.reset(plan)
            for _ in range(steps):
                executor.act(lambda: observation)
            if plan == 0:  # the first one warms up
                continue
            model_ms = [(c.plan_ms or 0.0) + c.refine_ms for c in executor.trace]
            chunks[name] += model_ms
            overhead.append((sum(executor.control_ms) - sum(model_ms)) / steps)
    monolith = float(np.mean(chunks[MONOLITH]))
    return {
        "chunk_ms": {name: percentiles(ms) for name, ms in chunks.items()},
        "lower_than_monolith": {
            name: round(1.0 - float(np.mean(ms)) / monolith, 4)
            for name, ms in chunks.items()
            if name != MONOLITH
        },
        "parameters": {n: e.policy.parameters()["total"] for n, e in executors.items()},  # pyright: ignore
        "executor_overhead_ms_per_step": round(float(np.median(overhead)), 4),
    }


def serving(config: BenchConfig) -> dict[str, Any]:
    """What a server adds to the policy's own time, and what eight clients get beside one."""
    from libra_vla.serving.measure import measure

    policy = _executor(load_preset(config.preset)).policy
    assert isinstance(policy, LibraPolicy)
    with TemporaryDirectory() as folder:
        policy.save_pretrained(Path(folder) / "policy")
        return measure(
            Path(folder) / "policy", rounds=config.serving_rounds, threads=config.threads
        )


def _executor(config: PolicyConfig) -> Executor:
    """An untrained policy: its speed is that of a trained one."""
    names = tuple(f"d{i}" for i in range(DIMENSIONS))
    convention = ActionConvention(names, ("1",) * DIMENSIONS, "benchmark", 20.0, gripper=6)
    bins = [config.granularity] * DIMENSIONS
    bins[-1] = config.gripper_bins or config.granularity
    edge = (1.0,) * DIMENSIONS
    policy = LibraPolicy(
        config=config,
        action_space=ActionSpace(convention, tuple(bins), tuple(-x for x in edge), edge),
        observation_spec=ObservationSpec(CAMERAS, STATE),
        state_statistics=StateStatistics((0.0,) * STATE, (1.0,) * STATE),
    )
    return Executor(policy)


def _observation() -> Observation:
    rng = np.random.default_rng(0)
    images = {c: rng.integers(0, 256, (IMAGE, IMAGE, 3), dtype=np.uint8) for c in CAMERAS}
    state = rng.normal(size=STATE).astype(np.float32)
    return Observation(images, state, "put the bowl on the plate")
