"""Every kind of network that a preset may ask for, and what the rest of the library knows of it."""

from typing import Protocol

from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.baselines.action_expert import ActionExpert
from libra_vla.policies.baselines.autoregressive import AutoregressivePolicy, PromptedPolicy
from libra_vla.policies.baselines.diffusion import DiffusionPolicy, EncoderDiffusionPolicy
from libra_vla.policies.baselines.fast_in_slow import FastInSlow
from libra_vla.policies.baselines.parallel import ParallelPolicy
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join
from libra_vla.policies.libra import LibraModel
from libra_vla.policies.losses import Objective


class Model(Protocol):
    """What training and `LibraPolicy` know of a network."""

    def plan(self, seen: Moment) -> Tensor:
        """Returns probabilities over bins, [B, L, D, N_max]."""
        ...

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        """Turns unit Gaussian noise [B, H, D] into normalised actions.

        `coarse` weighs each dimension's bins, [B, H, D, N_max]; one-hot for a hard intent. With
        `join` the chunk agrees with what the last one left over.
        """
        ...

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and what to log of it."""
        ...


KINDS: dict[str, type[nn.Module]] = {
    "libra": LibraModel,
    "monolithic": DiffusionPolicy,
    "monolithic_ve": EncoderDiffusionPolicy,
    "action_expert": ActionExpert,
    "autoregressive": AutoregressivePolicy,
    "prompted": PromptedPolicy,
    "parallel": ParallelPolicy,
    "fast_in_slow": FastInSlow,
}
"""`PolicyConfig.kind` -> the network; each is built from (config, bins, cameras, state_size)."""


class Network(nn.Module, Model):
    """A network that follows the protocol: for type checkers alone."""


def make_model(
    config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
) -> Network:
    """Builds the network a configuration asks for."""
    build = KINDS[config.kind]
    return build(config, bins=bins, cameras=cameras, state_size=state_size)  # pyright: ignore
