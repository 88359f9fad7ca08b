"""Who is connected and where they are in their episode; answers for several of them at a time."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from libra_vla.errors import LibraError
from libra_vla.execution.executor import ExecutionConfig
from libra_vla.execution.intent_buffer import IntentBuffer
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation
from libra_vla.serving.config import ServeConfig
from libra_vla.serving.requests import Request
from libra_vla.serving.served import ServedPolicy


@dataclass(frozen=True)
class Pace:
    """When plans are made: `horizon` coarse actions are kept of each, `execute` actions of a chunk
    are carried out before the next request, and `always` plans for every one."""

    horizon: int
    execute: int
    always: bool

    @classmethod
    def of(cls, config: ServeConfig, policy: ServedPolicy) -> "Pace":
        """Raises LibraError if `config` asks for more than `policy` was trained for."""
        asked = ExecutionConfig(
            mode=config.mode, horizon_factor=config.horizon_factor, execute=config.execute
        )
        resolved = asked.resolve(policy)  # pyright: ignore[reportArgumentType] # H and M suffice
        assert resolved.horizon_factor and resolved.execute
        return cls(
            resolved.horizon_factor * policy.chunk, resolved.execute, config.mode == "synchronous"
        )


@dataclass(frozen=True, eq=False)
class Turn:
    """One request of one session, and the noise of its chunk, float32 [H, D]."""

    session: "Session"
    observation: Observation
    noise: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """An answer.

    Attributes:
        actions: raw, float32 [H, D].
        step: control step of the first one.
        plan_step: control step of the observation behind its intents.
        planned: whether a plan was made for it.
        model_ms: milliseconds in the policy, shared by `batch` requests.
    """

    actions: np.ndarray
    step: int
    plan_step: int
    planned: bool
    model_ms: float
    batch: int


class Session:
    """The state of one connection: its intents, its noise, and how far its episode is.

    An episode begins with the first request, with `libra/reset`, with a new prompt, and where
    `libra/step` goes back.
    """

    def __init__(self, policy: ServedPolicy, pace: Pace, seed: int) -> None:
        self.pace, self.episodes = pace, 0
        self._policy, self._seed = policy, seed
        self._buffer = IntentBuffer(pace.horizon)
        self._noise: Iterator[np.ndarray] | None = None
        self._prompt, self._step, self._next_step, self._plan_step = "", 0, 0, 0

    def begin(self, request: Request) -> Turn:
        """Starts an episode if the request does, and says at which control step it is."""
        seen = request.observation
        if (
            self._noise is None
            or request.reset
            or seen.instruction != self._prompt
            or (request.step is not None and request.step < self._step)
        ):
            self._start_over(request)
        assert self._noise is not None
        step = self._next_step if request.step is None else request.step
        self._step = step
        return Turn(self, replace(seen, step=step), next(self._noise))

    def _start_over(self, request: Request) -> None:
        seed = request.seed
        if seed is None:  # does not depend on who else is connected
            drawn = np.random.SeedSequence([self._seed, self.episodes]).generate_state(1)
            seed = int(drawn[0])
        self._noise = self._policy.noise(seed)
        self._prompt = request.observation.instruction
        self._step = self._next_step = 0
        self.episodes += 1
        self._buffer.clear()

    def wants_plan(self, step: int) -> bool:
        """Whether the buffer cannot fill the chunk that begins at control step `step`."""
        return self.pace.always or self._buffer.remaining(step) < self._policy.chunk

    def take(self, plan: Plan) -> None:
        """Fills the buffer."""
        self._buffer.put(plan)
        self._plan_step = plan.observation_step

    def intents(self, step: int) -> tuple[np.ndarray, int]:
        """Returns what the refiner is given, and the control step it was planned at."""
        intents = self._buffer.window(step, self._policy.chunk)
        return intents.as_read_by(self._policy), self._plan_step

    def gave(self, step: int) -> None:
        """Notes that the chunk of control step `step` was answered."""
        self._next_step = step + self.pace.execute


def answer_turns(policy: ServedPolicy, turns: Sequence[Turn]) -> list[Chunk]:
    """Plans for those who need it, refines for all: two passes of the network at most.

    Raises:
        LibraError: the policy returned a wrong shape, NaN or infinity.
    """
    began = time.perf_counter()
    due = [turn for turn in turns if turn.session.wants_plan(turn.observation.step)]
    if due:
        plans = policy.plan_many([turn.observation for turn in due])
        for turn, plan in zip(due, plans, strict=True):
            turn.session.take(plan)
    observations = [turn.observation for turn in turns]
    intents = [turn.session.intents(turn.observation.step) for turn in turns]
    coarse = np.stack([bins for bins, _ in intents])
    actions = policy.refine_many(observations, coarse, np.stack([turn.noise for turn in turns]))
    actions = _checked(actions, (len(turns), policy.chunk, policy.action_space.size))
    model_ms = (time.perf_counter() - began) * 1e3
    chunks = []
    for turn, (_, plan_step), rows in zip(turns, intents, actions, strict=True):
        step = turn.observation.step
        turn.session.gave(step)
        chunks.append(Chunk(rows, step, plan_step, turn in due, model_ms, len(turns)))
    return chunks


def _checked(actions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    actions = np.asarray(actions, dtype=np.float32)
    if actions.shape != shape or not np.isfinite(actions).all():
        raise LibraError(
            f"the policy returned actions {list(actions.shape)}, or some that are not finite: "
            f"expected finite ones {list(shape)}"
        )
    return actions


def answer_plans(
    policy: ServedPolicy, observations: Sequence[Observation]
) -> list[tuple[Plan, float]]:
    """Returns a plan for each observation, and the milliseconds that the pass took."""
    began = time.perf_counter()
    plans = policy.plan_many(observations)
    model_ms = (time.perf_counter() - began) * 1e3
    return [(plan, model_ms) for plan in plans]
