"""What a server knows of a policy: the execution protocol's, with several robots at a time."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from libra_vla.action_space import ActionSpace
from libra_vla.execution.protocol import Plan, Policy
from libra_vla.observation import Observation, ObservationSpec


class ServedPolicy(Protocol):
    """A policy that plans and refines for B robots in one pass; it keeps no state of any."""

    @property
    def action_space(self) -> ActionSpace: ...

    @property
    def observation_spec(self) -> ObservationSpec: ...

    @property
    def chunk(self) -> int: ...

    @property
    def horizon_factor(self) -> int: ...

    @property
    def image_size(self) -> int | None:
        """Side in pixels to which images are resized in any case, so that a client may do it."""
        ...

    def noise(self, seed: int) -> Iterator[np.ndarray]:
        """Yields the noise of one episode, float32 [H, D] per chunk."""
        ...

    def plan_many(self, observations: Sequence[Observation]) -> list[Plan]:
        """Returns one plan per observation."""
        ...

    def refine_many(
        self, observations: Sequence[Observation], coarse: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Returns raw actions, float32 [B, H, D], given noise and intents as `Policy.refine` has
        them, [B, H, D] or [B, H, D, N_max]."""
        ...

    def describe(self) -> dict[str, Any]:
        """Returns what it is, as JSON values."""
        ...


class OneByOne:
    """Serves any policy of the execution protocol, without a batch.

    Its noise is its own affair: it is not reset, for it would be reset for all clients at once.
    """

    image_size = None

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.action_space, self.observation_spec = policy.action_space, policy.observation_spec
        self.chunk, self.horizon_factor = policy.chunk, policy.horizon_factor
        self.soft_intents = getattr(policy, "soft_intents", False)

    def noise(self, seed: int) -> Iterator[np.ndarray]:
        return repeat(np.zeros((self.chunk, self.action_space.size), dtype=np.float32))

    def plan_many(self, observations: Sequence[Observation]) -> list[Plan]:
        return [self.policy.plan(observation) for observation in observations]

    def refine_many(
        self, observations: Sequence[Observation], coarse: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        pairs = zip(observations, coarse, strict=True)
        return np.stack([self.policy.refine(seen, bins) for seen, bins in pairs])

    def describe(self) -> dict[str, Any]:
        describe = getattr(self.policy, "describe", dict)
        return describe()


def load_served(folder: Path, device: str) -> ServedPolicy:
    """Loads what `libra train` wrote, ready to be served.

    Raises:
        LibraError: there is no policy, or it is damaged.
    """
    from libra_vla.policies import load_policy
    from libra_vla.policies.batched import BatchedPolicy

    return BatchedPolicy(load_policy(folder, device=device))
