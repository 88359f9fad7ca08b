"""`libra bench`: speed, side by side.

Machines differ and drift, so contenders take turns, and what counts is their ratio within one run.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
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
from libra_vla.execution.config import ExecutionConfig
from libra_vla.execution.executor import Executor
from libra_vla.execution.planners import Planner
from libra_vla.execution.process import ProcessPlanner
from libra_vla.execution.protocol import Plan
from libra_vla.files import require_absent, write_json
from libra_vla.observation import Observation, ObservationSpec
from libra_vla.policies.info import describe_preset
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
        seconds: how long each concurrent contender is run, at 20 Hz.
        serving_rounds: rounds of one client, then eight, two seconds each.
    """

    out: Path
    preset: str = "tiny"
    threads: int = 1
    plans: int = 40
    horizon_factors: tuple[int, ...] = (1, 2, 3, 4, 5)
    seconds: float = 20.0
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
        "operations": {
            preset: operations(preset, config.horizon_factors) for preset in _counted(config.preset)
        },
        "concurrent": concurrent(config),
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


def operations(preset: str, factors: Sequence[int]) -> dict[str, Any]:
    """The same as `latency`, in floating-point operations: counted, so for any size of policy."""
    dual, monolith = (describe_preset(p)["flops"] for p in (preset, f"{preset}-{MONOLITH}"))
    return {
        "planner_over_refiner": round(dual["plan"] / dual["chunk"], 2),
        "lower_than_monolith": {
            f"M={m}": round(1.0 - (dual["plan"] / m + dual["chunk"]) / monolith["chunk"], 4)
            for m in factors
        },
    }


def _counted(preset: str) -> tuple[str, ...]:
    """The preset, and the paper's where its library is installed."""
    return (preset, "paper") if find_spec("transformers") and preset != "paper" else (preset,)


RATE_HZ = 20.0
HEAVY, HEAVIER = 1, 2
"""How often the heavy planner plans for one plan: its cost, and twice its cost."""


def heavy_config(kind: str = "libra") -> PolicyConfig:
    """A policy whose planner costs at least five times what its refiner does, as in a VLM's case.

    Its monolithic twin has all of that in one path; their parameters agree within 1 %.
    """
    tiny = load_preset("tiny" if kind == "libra" else f"tiny-{MONOLITH}")
    backbone = replace(tiny.planner.backbone, width=384)
    planner = replace(tiny.planner, backbone=backbone, width=384, layers=12, heads=6)
    refiner = replace(tiny.refiner, sample_steps=2)
    return replace(
        tiny, preset=f"heavy-{kind}", image_size=128, horizon_factor=5, planner=planner,
        refiner=refiner,
    )  # fmt: skip


@dataclass(frozen=True)
class Repeated:
    """A planner that costs `times` as much."""

    planner: Planner
    times: int

    def plan(self, observation: Observation) -> Plan:
        for _ in range(self.times - 1):
            self.planner.plan(observation)
        return self.planner.plan(observation)


def load_heavy(times: int, threads: int) -> Planner:
    """What the planner's process loads."""
    torch.set_num_threads(threads)
    return Repeated(_executor(heavy_config()).policy, times)


def concurrent(config: BenchConfig) -> dict[str, Any]:
    """Milliseconds per chunk on the control path when the planner is costly and works beside it.

    Every contender runs at 20 Hz, by the clock; the concurrent planner has a process of its own,
    and is made twice as costly to see whether the control path notices.
    """
    dual = _executor(heavy_config()).policy
    beside = ExecutionConfig(mode="concurrent", horizon_factor=5)
    planners = [_in_process(times, config.threads) for times in (HEAVY, HEAVIER)]
    contenders = {
        MONOLITH: _executor(heavy_config(MONOLITH)),
        **{f"sequential, M={m}": Executor(dual, ExecutionConfig(horizon_factor=m)) for m in (2, 5)},
        "concurrent": Executor(dual, beside, planner=planners[0]),
        "concurrent, planner twice as costly": Executor(dual, beside, planner=planners[1]),
    }
    chunk_ms: dict[str, list[float]] = {}
    reports: dict[str, Any] = {}
    overhead_ms: dict[str, float] = {}
    for name, executor in tqdm(contenders.items(), desc="concurrent", unit="contender"):
        _run_paced(executor, 3.0)  # warms up
        chunk_ms[name] = _run_paced(executor, config.seconds)
        reports[name] = executor.report()
        overhead_ms[name] = round(_overhead_ms(executor), 4)
        executor.close()
    for planner in planners:
        planner.close()
    monolith = float(np.mean(chunk_ms[MONOLITH]))
    plan_ms, refine_ms = _costs(contenders["sequential, M=5"])
    beside_ms = [float(np.median(chunk_ms[n])) for n in chunk_ms if n.startswith("concurrent")]
    spread = percentiles(chunk_ms["concurrent"])
    return {
        "planner_over_refiner": round(plan_ms / refine_ms, 2),
        "chunk_ms": {name: percentiles(ms) for name, ms in chunk_ms.items()},
        "lower_than_monolith": {
            name: round(1.0 - float(np.mean(ms)) / monolith, 4)
            for name, ms in chunk_ms.items()
            if name != MONOLITH
        },
        "p99_over_p50": round((spread["p99"] or 0.0) / (spread["p50"] or 1.0), 3),
        "twice_the_planner_over_once": round(beside_ms[1] / beside_ms[0], 3),
        "overhead_ms_per_step": overhead_ms,
        "starved_steps": {name: r["starved_steps"] for name, r in reports.items()},
        "age": {name: r["age"] for name, r in reports.items()},
        "parameters": {
            n: contenders[n].policy.parameters()["total"]  # pyright: ignore
            for n in (MONOLITH, "concurrent")
        },
    }


def _in_process(times: int, threads: int) -> ProcessPlanner:
    planner = ProcessPlanner(load_heavy, [times, threads], threads=threads)
    planner.plan(_observation())
    return planner


def _run_paced(executor: Executor, seconds: float) -> list[float]:
    """Runs one episode at the control rate; returns what each chunk cost on the control path."""
    observation = _observation()
    executor.reset(0)
    due = time.perf_counter()
    for _ in range(round(seconds * RATE_HZ)):
        time.sleep(max(0.0, due - time.perf_counter()))
        due = max(due, time.perf_counter()) + 1.0 / RATE_HZ
        executor.act(lambda: observation)
    begins = np.array([chunk.step for chunk in executor.trace])
    return np.array(executor.control_ms)[begins].tolist()


def _overhead_ms(executor: Executor) -> float:
    """What executor, buffer and safety add per control step, averaged over a chunk: median."""
    steps = np.array(executor.control_ms)
    spent = [
        (steps[c.step : c.step + c.executed].sum() - c.refine_ms - (c.plan_ms or 0.0)) / c.executed
        for c in executor.trace
        if c.executed
    ]
    return float(np.median(spent))


def _costs(executor: Executor) -> tuple[float, float]:
    """Median milliseconds of a plan and of a refinement, both in line."""
    plans = [chunk.plan_ms for chunk in executor.trace if chunk.plan_ms is not None]
    return float(np.median(plans)), float(np.median([c.refine_ms for c in executor.trace]))


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
