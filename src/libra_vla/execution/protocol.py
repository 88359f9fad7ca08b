"""What execution, evaluation and serving know of a policy; a scripted fake of it tests them all."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from libra_vla.action_space import ActionSpace
from libra_vla.errors import LibraError
from libra_vla.observation import Observation, ObservationSpec


@dataclass(frozen=True)
class Plan:
    """Coarse actions for a macro-horizon of L control steps.

    Attributes:
        coarse: int64 [L, D], bin indices; row i is meant for control step `observation_step + i`.
        distribution: float32 [L, D, N_max], the planner's probabilities over bins, zero beyond a
            dimension's own N: the plan's confidence.
        observation_step: control step of the observation behind the plan.
    """

    coarse: np.ndarray
    distribution: np.ndarray
    observation_step: int

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each chosen bin, float32 [L, D] in [0, 1]."""
        return np.take_along_axis(self.distribution, self.coarse[..., None], axis=-1)[..., 0]


@runtime_checkable
class Policy(Protocol):
    """Two systems: `plan` says where to go, `refine` says how."""

    @property
    def action_space(self) -> ActionSpace:
        """Normalisation, bins and conventions the policy was trained with."""
        ...

    @property
    def observation_spec(self) -> ObservationSpec:
        """Cameras and state size it needs."""
        ...

    @property
    def chunk(self) -> int:
        """H, actions per `refine`."""
        ...

    @property
    def horizon_factor(self) -> int:
        """M, so that a plan holds L = M x H coarse actions."""
        ...

    def reset(self, seed: int) -> None:
        """Starts an episode; `seed` fixes the noise of everything that follows."""
        ...

    def plan(self, observation: Observation) -> Plan:
        """Returns coarse actions for the next L control steps (slow, System 2)."""
        ...

    def refine(self, observation: Observation, coarse: np.ndarray) -> np.ndarray:
        """Returns raw actions, float32 [H, D], given coarse ones (fast, System 1).

        Args:
            coarse: bins, int64 [H, D]; or, for a policy whose `soft_intents` is true, the planner's
                probabilities over them, float32 [H, D, N_max].
        """
        ...


@runtime_checkable
class InpaintingPolicy(Policy, Protocol):
    """A policy whose chunks can join on to the one before (real-time chunking)."""

    def refine_onto(
        self, observation: Observation, coarse: np.ndarray, known: np.ndarray, *, frozen: int
    ) -> np.ndarray:
        """Like `refine`, but the chunk agrees with what the last one had left over.

        Args:
            known: raw actions [k, D] of the last chunk for the same control steps, 1 <= k <= H.
            frozen: how many of them will be carried out in any case; the others pull the less
                the later they are.
        """
        ...


def require_inpainting(policy: Policy) -> InpaintingPolicy:
    """Returns `policy`; raises LibraError if it cannot in-paint."""
    if not isinstance(policy, InpaintingPolicy):
        raise LibraError(
            "this policy cannot in-paint its chunks (it has no refine_onto): set inpaint to False"
        )
    return policy
