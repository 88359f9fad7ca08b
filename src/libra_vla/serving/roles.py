"""What a server answers with: actions (the whole policy) or coarse actions (its planner)."""

from collections.abc import Sequence
from typing import Any, Protocol

from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation
from libra_vla.serving.batching import Batcher
from libra_vla.serving.config import ServeConfig
from libra_vla.serving.metrics import Metrics
from libra_vla.serving.requests import Request
from libra_vla.serving.served import ServedPolicy
from libra_vla.serving.session import Chunk, Pace, Session, Turn, answer_plans, answer_turns

Answer = tuple[dict[str, Any], float]
"""Fields of an answer, and milliseconds spent in the policy."""


class ServedRole(Protocol):
    """What the server asks of a role; states and jobs are the role's own affair."""

    def metadata(self) -> dict[str, Any]:
        """Returns what a client is told in addition, as JSON values."""
        ...

    def open(self) -> Any:
        """Returns the state of a new connection."""
        ...

    def run(self, jobs: Sequence[Any], /) -> Sequence[Any]:
        """Answers jobs in one pass; called in the model's thread."""
        ...

    async def answer(self, state: Any, request: Request, ask: Batcher[Any, Any]) -> Answer:
        """Returns the answer to one request."""
        ...


class PolicyRole:
    """Answers an observation with the next chunk; every connection has a session."""

    def __init__(self, policy: ServedPolicy, config: ServeConfig, metrics: Metrics) -> None:
        self._policy, self._seed, self._metrics = policy, config.seed, metrics
        self._pace = Pace.of(config, policy)

    def metadata(self) -> dict[str, Any]:
        return {
            "mode": "synchronous" if self._pace.always else "sequential",
            "execute": self._pace.execute,
        }

    def open(self) -> Session:
        return Session(self._policy, self._pace, self._seed)

    def run(self, turns: Sequence[Turn], /) -> Sequence[Chunk]:
        return answer_turns(self._policy, turns)

    async def answer(self, state: Session, request: Request, ask: Batcher[Turn, Chunk]) -> Answer:
        before = state.episodes
        turn = state.begin(request)
        self._metrics.episodes.inc(state.episodes - before)
        chunk = await ask(turn)
        self._metrics.plans.inc(chunk.planned)
        self._metrics.batch.observe(chunk.batch)
        fields = {
            "actions": chunk.actions,
            "libra/step": chunk.step,
            "libra/plan_step": chunk.plan_step,
            "libra/planned": chunk.planned,
            "libra/episode": state.episodes,
            "libra/batch": chunk.batch,
        }
        return fields, chunk.model_ms


class PlannerRole:
    """Answers an observation with a plan; knows nothing of episodes."""

    def __init__(self, policy: ServedPolicy, config: ServeConfig, metrics: Metrics) -> None:
        self._policy, self._metrics = policy, metrics

    def metadata(self) -> dict[str, Any]:
        return {}

    def open(self) -> None:
        return None

    def run(self, observations: Sequence[Observation], /) -> Sequence[tuple[Plan, float, int]]:
        return [(*answer, len(observations)) for answer in answer_plans(self._policy, observations)]

    async def answer(
        self, state: None, request: Request, ask: Batcher[Observation, tuple[Plan, float, int]]
    ) -> Answer:
        plan, model_ms, batch = await ask(request.observation)
        self._metrics.plans.inc()
        self._metrics.batch.observe(batch)
        fields = {
            "libra/coarse": plan.coarse,
            "libra/distribution": plan.distribution,
            "libra/step": plan.observation_step,
            "libra/batch": batch,
        }
        return fields, model_ms
