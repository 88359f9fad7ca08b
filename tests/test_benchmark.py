import numpy as np
import pytest
import torch
from fakes import ScriptedPolicy, observation

from libra_vla.benchmark import (
    MONOLITH,
    Repeated,
    _overhead_ms,
    _run_paced,
    heavy_config,
    operations,
)
from libra_vla.execution.executor import ExecutionConfig, Executor
from libra_vla.policies.models import make_model


def test_the_heavy_policy_and_its_monolithic_twin_are_of_equal_size():
    def size(kind: str) -> int:
        with torch.device("meta"):
            model = make_model(heavy_config(kind), bins=(11,) * 7, cameras=2, state_size=8)
        return sum(p.numel() for p in model.parameters())

    assert size("libra") == pytest.approx(size(MONOLITH), rel=0.01)


def test_operations_fall_as_a_plan_is_shared_by_more_chunks():
    counted = operations("tiny", (1, 2, 1000))
    lower = counted["lower_than_monolith"]
    assert lower["M=1"] < lower["M=2"] < lower["M=1000"] < 1.0
    # What M saves is the planner: half of it from 1 to 2, hardly any of it is left at 1000.
    assert 2.0 * (lower["M=2"] - lower["M=1"]) == pytest.approx(
        lower["M=1000"] - lower["M=1"], rel=0.01
    )


def test_a_repeated_planner_plans_as_often():
    policy = ScriptedPolicy()
    assert Repeated(policy, 3).plan(observation(4)).observation_step == 4
    assert [kind for kind, _ in policy.calls] == ["plan"] * 3


def test_the_runtime_adds_little_to_a_control_step():
    """A bound that a busy machine keeps too; libra bench measures the figure itself."""
    executor = Executor(ScriptedPolicy(), ExecutionConfig(mode="concurrent"))
    chunk_ms = _run_paced(executor, seconds=1.0)
    executor.close()
    assert len(chunk_ms) == len(executor.trace) > 1 and np.isfinite(chunk_ms).all()
    assert _overhead_ms(executor) < 2.0
