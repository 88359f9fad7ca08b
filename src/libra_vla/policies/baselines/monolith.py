"""What the baselines have in common: one path from images and words to actions, without a plan."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.errors import LibraError
from libra_vla.policies.backbones import make_backbone
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join, Predict, joined, make_denoiser
from libra_vla.policies.layers import Block, Tokens
from libra_vla.policies.losses import Objective, denoising_loss

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of some tokens in one block, [B, heads, T, W / heads] each."""


def beside(context: KeyValue, own: KeyValue) -> KeyValue:
    """Returns a context with further tokens behind it."""
    return torch.cat([context[0], own[0]], dim=2), torch.cat([context[1], own[1]], dim=2)


def drawn(context: KeyValue, draws: int) -> KeyValue:
    """Returns a context for `draws` noise draws per sample, side by side."""
    if draws == 1:
        return context
    return context[0].repeat_interleave(draws, dim=0), context[1].repeat_interleave(draws, dim=0)


class Monolith(nn.Module):
    """A backbone and `planner.layers` bidirectional blocks over its tokens and proprioception.

    Every chunk costs a pass through everything.
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__()
        self.config, self.bins = config, bins
        self.backbone = make_backbone(config.planner.backbone, cameras, config.image_size)
        self.width = self.backbone.width
        self.state = nn.Linear(state_size, self.width)
        self.blocks = nn.ModuleList(
            Block(self.width, config.planner.heads) for _ in range(config.planner.layers)
        )
        self.norm = nn.LayerNorm(self.width)

    def read(self, seen: Moment) -> Tokens:
        """Returns what the blocks begin with: images, words and proprioception."""
        return Tokens.join(
            self.backbone(seen.images, seen.instructions),
            Tokens.dense(self.state(seen.state)[:, None]),
        )

    def contexts(self, tokens: Tokens) -> list[KeyValue]:
        """Returns, block by block, how tokens that come later attend to these."""
        x, mask = tokens
        found = []
        for block in self.layers():
            found.append(block.project(x))
            x = block(x, mask, context=found[-1])
        return found

    def layers(self) -> Iterable[Block]:
        """The blocks, as type checkers like them."""
        return cast(Iterable[Block], self.blocks)

    def plan(self, seen: Moment) -> Tensor:
        """There is no plan: uniform weights [B, L, D, N_max], at no cost."""
        weights = torch.zeros(
            len(seen.state), self.config.macro_horizon, len(self.bins), max(self.bins)
        )
        for dimension, count in enumerate(self.bins):
            weights[:, :, dimension, :count] = 1.0 / count
        return weights


class DenoisingMonolith(Monolith):
    """A monolith whose actions come out of noise; `look` says how.

    Args:
        config: `refiner` sizes what denoises.
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        self.denoiser = make_denoiser(config.refiner.denoising, config.refiner.train_steps)

    def look(self, seen: Moment, draws: int = 1) -> Predict:
        """Encodes what does not change during denoising; see `ActionRefiner.look`."""
        raise NotImplementedError

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        predict = joined(self.denoiser, self.look(seen), join)
        return self.denoiser.sample(predict, noise, self.config.refiner.sample_steps)

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        loss = denoising_loss(
            self.denoiser, self.look(batch.current, objective.draws), batch, objective
        )
        return loss, {"refiner_loss": loss.detach()}


def refuse_join(join: Join | None) -> None:
    """Raises LibraError if a chunk is to agree with the last one, which needs denoising."""
    if join is not None:
        raise LibraError(
            "this policy does not denoise its actions: real-time chunking (inpaint) needs that"
        )
