"""The executor: turns a policy into one action per control step, and records how."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from libra_vla.execution.checks import checked_actions
from libra_vla.execution.config import ExecutionConfig
from libra_vla.execution.intent_buffer import IntentBuffer
from libra_vla.execution.latency import Latency
from libra_vla.execution.planners import Background, Planner, in_background
from libra_vla.execution.planning import Beside, Cause, InLine, Look, Planning, Served
from libra_vla.execution.protocol import Policy, require_inpainting
from libra_vla.execution.safety import Safety
from libra_vla.execution.trace import ChunkRecord, Halt, PlanRecord, summarise
from libra_vla.observation import Observation


class Executor:
    """Runs one policy through one episode at a time.

    When intents run out (only possible where the planner works beside the control loop), the last
    one is kept for `hold` control steps; then the robot slows down over `slow` of them and stands
    still, the gripper as it was, until a plan comes. Nothing of that is silent: see `halts`.

    Args:
        policy: what refines, and plans if nobody else does.
        config: mode, M, actions per chunk, limits.
        planner: who plans instead of the policy: a process, another machine, or (concurrent only)
            something that works in the background already. A planner that is not in the
            background is given a thread by `concurrent`.
        latency: simulated time: inference costs this many control steps, in which the world goes
            on. By default it costs what it costs: in line the world waits, and a concurrent
            planner works in a thread.
        clock: seconds from any origin; only differences are used.

    Attributes:
        config: with everything filled in.
        trace: one record per chunk of the episode.
        plans: one record per plan that arrived.
        halts: where the robot was given no chunk's action, and why.
        safety: counts its interventions.
        control_ms: milliseconds each `act` took, without the time inside `observe`.

    Raises:
        LibraError: the configuration asks for more than the policy was trained for.
    """

    def __init__(
        self,
        policy: Policy,
        config: ExecutionConfig | None = None,
        *,
        planner: Planner | Background | None = None,
        latency: Latency | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self.config = (config or ExecutionConfig()).resolve(policy)
        assert self.config.horizon_factor and self.config.execute  # filled in by resolve
        self._inpainting = require_inpainting(policy) if self.config.inpaint else None
        self._execute = self.config.execute
        self._latency, self._clock = latency or Latency(), clock
        self._planning = self._make_planning(planner or policy, latency)
        self.safety = Safety(self.config.safety, policy.action_space)
        self._start_over()

    def _make_planning(self, planner: Planner | Background, latency: Latency | None) -> Planning:
        config, policy = self.config, self.policy
        buffer = IntentBuffer((config.horizon_factor or 1) * policy.chunk, config.max_age)
        if config.mode == "concurrent":
            background = in_background(planner, latency, self._clock)
            return Beside(background, policy, config, buffer)
        assert isinstance(planner, Planner)
        return InLine(planner, policy, config, buffer, self._latency, self._clock)

    @property
    def plans(self) -> list[PlanRecord]:
        return self._planning.plans

    def reset(self, seed: int) -> None:
        """Starts an episode: forgets the last one; `seed` fixes the policy's noise."""
        self.policy.reset(seed)
        self._latency.reset(seed)
        self._planning.reset(seed)
        self.safety.reset()
        self._start_over()

    def _start_over(self) -> None:
        self._step = 0
        self._chunk: ChunkRecord | None = None
        self.trace: list[ChunkRecord] = []
        self.halts: list[Halt] = []
        self.control_ms: list[float] = []

    def close(self) -> None:
        """Ends what works in the background; a planner that was given stays its owner's."""
        self._planning.close()

    def report(self) -> dict[str, Any]:
        """Returns what happened since `reset`, as JSON values; see `trace.summarise`."""
        return summarise(self.trace, self.plans, self.halts) | {
            "interventions": dict(self.safety.interventions)
        }

    def act(self, observe: Callable[[], Observation]) -> np.ndarray:
        """Returns the raw action of the next control step, float32 [D].

        Args:
            observe: called only when a new chunk or a plan begins: images are the expensive part.
                Its `step` is replaced by the executor's own count, which the intents are aligned
                to.

        Raises:
            LibraError: the policy returned a wrong shape, a bin that does not exist, NaN or
                infinity, or its planner failed too often. No action is given out then.
        """
        began = self._clock()
        look = Look(observe, self._step, self._clock)
        self._planning.tick(look)
        if self._chunk_is_over():
            self._chunk = self._next_chunk(look)
        action = self._chunk_action() if self._moving() else self._halt()
        self._step += 1
        ms = (self._clock() - began - look.seconds) * 1e3
        self.safety.took(ms)
        self.control_ms.append(ms)
        return action

    def _chunk_is_over(self) -> bool:
        """Also ends a chunk that goes on with a kept intent as soon as a plan has come."""
        chunk = self._chunk
        if chunk is None or self._step >= chunk.step + chunk.length:
            return True
        return self._step >= chunk.step + chunk.own and self._planning.has_intents(self._step)

    def _moving(self) -> bool:
        return self._chunk is not None and self._step >= self._chunk.step

    def _chunk_action(self) -> np.ndarray:
        assert self._chunk is not None
        action = self.safety(self._chunk.actions[self._step - self._chunk.step])
        self._chunk.executed += 1
        return action

    def _next_chunk(self, look: Look) -> ChunkRecord | None:
        served = self._planning.serve(look)
        if served is None:
            return None
        self.safety.saw(look().state)
        cause = self._unsure(served)
        if cause and (again := self._planning.replan(look, cause)):
            served = again
        chunk, wait = self._refine(look, served)
        if not cause and self._disagrees(chunk):
            again = self._planning.replan(look, "disagreement")
            if again is not None:
                spent = chunk.refine_ms
                chunk, more = self._refine(look, again)
                chunk.refine_ms += spent
                wait += more
        if wait:
            chunk.step += wait
            self._planning.stood_still(wait)
        self.trace.append(chunk)
        return chunk

    def _refine(self, look: Look, served: Served) -> tuple[ChunkRecord, int]:
        """Returns the next chunk and the control steps that it makes the robot wait."""
        intents, known = served.intents, self._left_over()
        kept = min(self.config.freeze, len(known))
        began = self._clock()
        coarse = intents.as_read_by(self.policy)
        if self._inpainting and len(known):
            actions = self._inpainting.refine_onto(look(), coarse, known, frozen=kept)
        else:
            actions = self.policy.refine(look(), coarse)
        ms = (self._clock() - began) * 1e3
        actions = checked_actions(
            actions,
            self.policy.action_space,
            chunk=self.policy.chunk,
            step=look.step,
            finite=not self.config.safety.hold_on_nan,
        )
        if kept:
            actions = np.concatenate([known[:kept], actions[kept:]])
        chunk = ChunkRecord(
            step=look.step,
            plan_step=intents.observation_step,
            coarse=intents.coarse,
            confidence=intents.confidence,
            actions=actions,
            plan_ms=served.plan_ms,
            refine_ms=ms,
            own=intents.own,
            length=min(self._execute, intents.usable),
        )
        return chunk, served.wait + max(0, self._latency.refine_steps(ms) - kept)

    def _left_over(self) -> np.ndarray:
        """Actions [k, D] of the last chunk for this control step and those after it."""
        last = self.trace[-1] if self.trace else None
        if (
            last is None
            or last.step + last.executed != self._step
            or not np.isfinite(last.actions).all()
        ):
            return np.zeros((0, self.policy.action_space.size), np.float32)
        return last.actions[last.executed :]

    def _unsure(self, served: Served) -> Cause | None:
        """Whether intents that are not of this moment are too doubtful to go on with."""
        limit, fresh = self.config.replan_confidence, served.intents.observation_step == self._step
        if limit is None or fresh or served.intents.confidence.mean() >= limit:
            return None
        return "low confidence"

    def _disagrees(self, chunk: ChunkRecord) -> bool:
        """Whether the refiner, which looks now, leaves intents that come from an older look."""
        if self.config.replan_bins is None or chunk.plan_step == self._step:
            return False
        chunk.deviation = self._deviation(chunk)
        return chunk.deviation > self.config.replan_bins

    def _deviation(self, chunk: ChunkRecord) -> int:
        space, rows = self.policy.action_space, slice(0, chunk.length)
        if not np.isfinite(chunk.actions[rows]).all():
            return 0
        distance = np.abs(space.encode(space.normalise(chunk.actions[rows])) - chunk.coarse[rows])
        if space.convention.gripper is not None:
            distance[:, space.convention.gripper] = 0
        return int(distance.max())

    def _halt(self) -> np.ndarray:
        """Slows down and stands still; a wait for inference stands still at once."""
        starved = self._chunk is None
        halt = self.halts[-1] if self.halts else None
        if halt is None or halt.step + halt.steps != self._step or halt.starved != starved:
            halt = Halt(self._step, 0, "waiting for inference", starved)
            self.halts.append(halt)
        halt.steps += 1
        if not starved:  # the plan has been postponed by the whole wait already
            return self.safety.rest()
        halt.reason = self._planning.trouble()
        left = self.config.slow + 1 - halt.steps if self.trace else 0
        if left <= 0:
            self._planning.stood_still(1)
            return self.safety.rest()
        return self.safety.rest(motion=left / (left + 1))
