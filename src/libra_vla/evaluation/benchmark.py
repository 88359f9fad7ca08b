"""Where tasks, scenes and policies come from: LIBERO, or a toy of the same shape in tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from libra_vla.evaluation.rollout import Environment
from libra_vla.execution.protocol import Policy
from libra_vla.simulation.disturbances import move_object
from libra_vla.simulation.libero import LiberoEnv
from libra_vla.simulation.probes import end_effector, watch_goal
from libra_vla.simulation.suites import SETTLE_STEPS, Task, load_tasks, official_states

Watch = Callable[[], bool]


class DescribedPolicy(Policy, Protocol):
    """A policy that can say what it is."""

    def describe(self) -> dict[str, Any]:
        """Returns preset, parameters, N, M, H and checkpoint hash, as JSON values."""
        ...


@dataclass(frozen=True)
class Benchmark:
    """The parts an evaluation is made of; functions of a module, so that workers find them.

    Attributes:
        tasks: suite name -> its tasks, in the benchmark's order.
        official_states: task -> initial states [K, S].
        make_env: (task, image_size=, meshes=, cameras=) -> environment, as `LiberoEnv`.
        load_policy: (folder, or its name, device) -> policy.
        end_effector: environment -> present position of the end effector [3], m.
        watch_goal: (environment, another task) -> a check whether that task's goal is reached in
            this scene, or None where the scene cannot tell.
        move_object: (environment, metres, source of randomness) moves what the task is about.
        settle_steps: control steps that `reset` spends before the first observation.
    """

    tasks: Callable[[str], Sequence[Task]]
    official_states: Callable[[Task], np.ndarray]
    make_env: Callable[..., Environment]
    load_policy: Callable[[Path | str, str], DescribedPolicy]
    end_effector: Callable[[Any], np.ndarray]
    watch_goal: Callable[[Any, Task], Watch | None]
    move_object: Callable[[Any, float, np.random.Generator], object]
    settle_steps: int


def _load_policy(folder: Path | str, device: str) -> DescribedPolicy:
    from libra_vla.policies import load_policy

    return load_policy(folder, device=device)


LIBERO = Benchmark(
    tasks=load_tasks,
    official_states=official_states,
    make_env=LiberoEnv,
    load_policy=_load_policy,
    end_effector=end_effector,
    watch_goal=watch_goal,
    move_object=move_object,
    settle_steps=SETTLE_STEPS,
)
