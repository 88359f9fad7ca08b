"""A scripted policy and a toy environment: everything above them is tested without a network.

They live at module level, with picklable factories, so that worker processes can make them too.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from libra_vla.action_space import ActionConvention, ActionSpace
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation, ObservationSpec

CONVENTION = ActionConvention(
    names=("x", "y", "gripper"),
    units=("1", "1", "1"),
    representation="delta position",
    rate_hz=20.0,
    gripper=2,
)
SPACE = ActionSpace(CONVENTION, bins=(10, 10, 10), low=(-1.0,) * 3, high=(1.0,) * 3)
SPEC = ObservationSpec(cameras=("agentview",), state_size=3)


class Clock:
    """A clock that only moves when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def observation(step: int = 0, state: Any = (0.0, 0.0, 0.0)) -> Observation:
    image = np.full((8, 8, 3), step % 256, dtype=np.uint8)
    return Observation({"agentview": image}, np.asarray(state, np.float32), "go there", step)


@dataclass
class ScriptedPolicy:
    """Intends bin `(observation step + i) % 10` for row i, and acts on their centres.

    Every raw action carries the control step it was refined for in "y" (in thousandths), so that
    a test sees what was executed, when. `clock` is moved by `plan_s` and `refine_s`.
    """

    chunk: int = 5
    horizon_factor: int = 2
    clock: Clock | None = None
    plan_s: float = 0.0
    refine_s: float = 0.0
    bad_step: int | None = None
    action_space: ActionSpace = SPACE
    observation_spec: ObservationSpec = SPEC
    calls: list[tuple[str, int]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def reset(self, seed: int) -> None:
        self.seeds.append(seed)
        self.calls.clear()

    def plan(self, observation: Observation) -> Plan:
        self.calls.append(("plan", observation.step))
        self._spend(self.plan_s)
        length = self.chunk * self.horizon_factor
        rows = (observation.step + np.arange(length)) % 10
        coarse = np.repeat(rows[:, None], self.action_space.size, axis=1)
        distribution = np.eye(10, dtype=np.float32)[coarse] * 0.75
        return Plan(coarse, distribution, observation.step)

    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        self.calls.append(("refine", observation.step))
        self._spend(self.refine_s)
        actions = self.action_space.decode(coarse)
        actions[:, 1] = (observation.step + np.arange(self.chunk)) / 1000
        if observation.step == self.bad_step:
            actions[1, 0] = np.nan
        return actions

    def _spend(self, seconds: float) -> None:
        if self.clock is not None:
            self.clock.now += seconds

    def describe(self) -> dict[str, Any]:
        return {
            "preset": "scripted",
            "parameters": 0,
            "N": 10,
            "M": self.horizon_factor,
            "H": self.chunk,
            "checkpoint_hash": "0" * 64,
        }
