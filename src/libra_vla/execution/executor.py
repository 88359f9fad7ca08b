"""The executor: turns a policy into one action per control step, and records how.

Modes:
    synchronous: plan and refine at every chunk.
    sequential: refine at every chunk, plan in line when the buffer cannot fill the next one: the
        paper's mode, where the planner works every M chunks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from libra_vla.errors import LibraError, unknown
from libra_vla.execution.intent_buffer import IntentBuffer, Intents
from libra_vla.execution.protocol import Plan, Policy
from libra_vla.execution.trace import ChunkRecord
from libra_vla.observation import Observation

Mode = Literal["synchronous", "sequential"]


@dataclass(frozen=True)
class ExecutionConfig:
    """How a policy is carried out.

    Attributes:
        mode: when the planner works.
        horizon_factor: M, chunks per plan; at most the policy's, which is the default.
        execute: actions carried out of each chunk before the next, 1..H; all H by default.
    """

    mode: Mode = "sequential"
    horizon_factor: int | None = None
    execute: int | None = None

    def __post_init__(self) -> None:
        if self.mode == "concurrent":
            raise LibraError(
                f"mode 'concurrent' is not available yet: known: {', '.join(get_args(Mode))}"
            )
        if self.mode not in get_args(Mode):
            raise unknown("mode", self.mode, get_args(Mode))

    def resolve(self, policy: Policy) -> "ExecutionConfig":
        """Fills in what `policy` decides by default.

        Raises:
            LibraError: `horizon_factor` or `execute` is beyond what the policy was trained for.
        """
        factor = policy.horizon_factor if self.horizon_factor is None else self.horizon_factor
        execute = policy.chunk if self.execute is None else self.execute
        if not 1 <= factor <= policy.horizon_factor:
            raise LibraError(
                f"horizon factor is {factor}: this policy plans for M = {policy.horizon_factor} "
                f"chunks, so expected 1 to {policy.horizon_factor}"
            )
        if not 1 <= execute <= policy.chunk:
            raise LibraError(
                f"execute is {execute}: this policy's chunks hold H = {policy.chunk} actions, so "
                f"expected 1 to {policy.chunk}"
            )
        return replace(self, horizon_factor=factor, execute=execute)


class Executor:
    """Runs one policy through one episode at a time.

    Args:
        policy: what plans and refines.
        config: mode, M and actions per chunk.
        clock: seconds from any origin; only differences are used.

    Attributes:
        config: with M and `execute` filled in.
        trace: one record per chunk of the episode.
        control_ms: milliseconds each `act` took, without the time inside `observe`.

    Raises:
        LibraError: the configuration asks for more than the policy was trained for.
    """

    def __init__(
        self,
        policy: Policy,
        config: ExecutionConfig | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self.config = (config or ExecutionConfig()).resolve(policy)
        assert self.config.horizon_factor and self.config.execute  # filled in by resolve
        self._horizon = self.config.horizon_factor * policy.chunk
        self._execute = self.config.execute
        self._buffer = IntentBuffer(self._horizon)
        self._clock = clock
        self._start_over()

    def reset(self, seed: int) -> None:
        """Starts an episode: forgets the last one; `seed` fixes the policy's noise."""
        self.policy.reset(seed)
        self._start_over()

    def _start_over(self) -> None:
        self._buffer.clear()
        self._step = 0
        self.trace: list[ChunkRecord] = []
        self.control_ms: list[float] = []

    def act(self, observe: Callable[[], Observation]) -> np.ndarray:
        """Returns the raw action of the next control step, float32 [D].

        Args:
            observe: called only when a new chunk begins: images are the expensive part. Its
                `step` is replaced by the executor's own count, which the intents are aligned to.

        Raises:
            LibraError: the policy returned a wrong shape, a bin that does not exist, NaN or
                infinity. No action is given out then.
        """
        began, seeing = self._clock(), 0.0
        if not self.trace or self._step == self.trace[-1].step + self._execute:
            asked = self._clock()
            observation = replace(observe(), step=self._step)
            seeing = self._clock() - asked
            self.trace.append(self._next_chunk(observation))
        chunk = self.trace[-1]
        action = chunk.actions[self._step - chunk.step].copy()
        chunk.executed += 1
        self._step += 1
        self.control_ms.append((self._clock() - began - seeing) * 1e3)
        return action

    def _next_chunk(self, observation: Observation) -> ChunkRecord:
        plan_ms = None
        chunk = self.policy.chunk
        if self.config.mode == "synchronous" or self._buffer.remaining(self._step) < chunk:
            began = self._clock()
            plan = self.policy.plan(observation)
            plan_ms = (self._clock() - began) * 1e3
            self._buffer.put(self._checked_plan(plan))
        intents = self._buffer.window(self._step, chunk)
        began = self._clock()
        actions = self.policy.refine(observation, intents.coarse)
        refine_ms = (self._clock() - began) * 1e3
        return self._record(self._checked_actions(actions), intents, plan_ms, refine_ms)

    def _record(
        self, actions: np.ndarray, intents: Intents, plan_ms: float | None, refine_ms: float
    ) -> ChunkRecord:
        return ChunkRecord(
            step=self._step,
            plan_step=self._step - intents.age,
            coarse=intents.coarse,
            confidence=intents.confidence,
            actions=actions,
            plan_ms=plan_ms,
            refine_ms=refine_ms,
        )

    def _checked_plan(self, plan: Plan) -> Plan:
        """Raises LibraError unless `plan` fills the horizon with bins that exist."""
        space, coarse = self.policy.action_space, np.asarray(plan.coarse)
        if plan.observation_step != self._step:
            raise LibraError(
                f"policy planned for control step {plan.observation_step} at step {self._step}: "
                "plan() must pass its observation's step on"
            )
        if coarse.ndim != 2 or coarse.shape[1] != space.size or len(coarse) < self._horizon:
            raise LibraError(
                f"policy planned coarse actions {list(coarse.shape)}: expected at least "
                f"[{self._horizon}, {space.size}]"
            )
        if (coarse < 0).any() or (coarse >= np.asarray(space.bins)).any():
            raise LibraError(
                f"policy planned bins that do not exist: expected 0 <= c < {space.bins}"
            )
        return plan

    def _checked_actions(self, actions: np.ndarray) -> np.ndarray:
        """Returns float32 [H, D]; raises LibraError for another shape, NaN or infinity."""
        space, actions = self.policy.action_space, np.asarray(actions, dtype=np.float32)
        if actions.shape != (self.policy.chunk, space.size):
            raise LibraError(
                f"policy returned actions {list(actions.shape)}: expected "
                f"[{self.policy.chunk}, {space.size}]"
            )
        if not np.isfinite(actions).all():
            row, column = np.argwhere(~np.isfinite(actions))[0]
            raise LibraError(
                f"policy returned {actions[row, column]} for '{space.convention.names[column]}' "
                f"at control step {self._step + row}: actions must be finite"
            )
        return actions
