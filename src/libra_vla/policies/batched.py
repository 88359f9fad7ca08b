"""One trained policy, several robots: their plans and chunks in one pass each."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from libra_vla.errors import LibraError
from libra_vla.execution.protocol import Plan
from libra_vla.observation import Observation
from libra_vla.policies.batch import Moment
from libra_vla.policies.policy import LibraPolicy, intent_weights


class BatchedPolicy:
    """Plans and refines for B robots at a time.

    Noise is handed in, so what one robot is told does not depend on who else asks, beyond the
    rounding of a batched matrix product.

    Raises:
        LibraError: the network itself keeps what it saw (fast-in-slow), and so serves one robot.
    """

    def __init__(self, policy: LibraPolicy) -> None:
        if getattr(policy.model, "remembers", False):
            raise LibraError(
                f"'{policy.config.kind}' keeps what it saw last, so it serves one robot: "
                "`libra eval` carries it out, `libra serve` does not"
            )
        self.policy = policy
        self.action_space, self.observation_spec = policy.action_space, policy.observation_spec
        self.chunk, self.horizon_factor = policy.chunk, policy.horizon_factor
        self.image_size = policy.config.image_size
        self.soft_intents = policy.soft_intents

    def noise(self, seed: int) -> Iterator[np.ndarray]:
        """Yields what `LibraPolicy.refine` draws after `reset(seed)`, float32 [H, D] each."""
        generator = torch.Generator().manual_seed(seed)
        shape = (self.chunk, self.action_space.size)
        while True:
            yield torch.randn(shape, generator=generator).numpy()

    @torch.inference_mode()
    def plan_many(self, observations: Sequence[Observation]) -> list[Plan]:
        """Returns one plan per observation."""
        distributions = self.policy.model.plan(self._see(observations)).float().cpu()
        chosen = distributions.argmax(dim=-1)
        return [
            Plan(coarse.numpy(), distribution.numpy(), seen.step)
            for coarse, distribution, seen in zip(chosen, distributions, observations, strict=True)
        ]

    @torch.inference_mode()
    def refine_many(
        self, observations: Sequence[Observation], coarse: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Returns raw actions, float32 [B, H, D].

        Args:
            coarse: as in `intent_weights`.
            noise: unit Gaussian, float32 [B, H, D].
        """
        device = self.policy.device
        weights = intent_weights(coarse, max(self.action_space.bins)).to(device)
        started = torch.from_numpy(np.asarray(noise)).to(device)
        actions = self.policy.model.refine(self._see(observations), weights, started)
        return self.action_space.denormalise(actions.float().cpu().numpy())

    def describe(self) -> dict[str, Any]:
        return self.policy.describe()

    def _see(self, observations: Sequence[Observation]) -> Moment:
        moments = [self.policy.see(observation) for observation in observations]
        return Moment(
            images=torch.cat([moment.images for moment in moments]),
            state=torch.cat([moment.state for moment in moments]),
            instructions=tuple(seen.instruction for seen in observations),
        )
