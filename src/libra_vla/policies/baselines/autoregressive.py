"""Actions as words, one after the other, as in RT-2 and OpenVLA; or coarse ones, then fine ones."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.baselines.monolith import KeyValue, Monolith, beside, refuse_join
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join
from libra_vla.policies.losses import Objective, masked_mean

FINE = 256
"""Levels of an action dimension (RT-2 and OpenVLA)."""


class AutoregressivePolicy(Monolith):
    """Each number of a chunk is one of 256 levels, told after all before it, step by step.

    Images, words and proprioception attend to each other; actions attend to these and to what was
    said before. Decoding is greedy and keeps keys and values.
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        width = self.width
        self.levels = self.sentences()
        # Each embedding is also the output layer of its sentence (tied weights).
        self.words = nn.ParameterList(
            torch.randn(count, width) * width**-0.5 for count in self.levels
        )
        self.each = config.chunk * len(bins)  # words per sentence
        self.begin = nn.Parameter(torch.randn(width) * 0.02)
        self.position = nn.Parameter(torch.randn(self.each * len(self.levels), width) * 0.02)

    def sentences(self) -> Sequence[int]:
        """Levels of each sentence; every one tells the whole chunk, and the last one counts."""
        return (FINE,)

    def logits(self, seen: Moment, words: Sequence[Tensor]) -> list[Tensor]:
        """Returns logits of each sentence's words [B, H x D, levels], given all words before."""
        told = torch.cat(
            [F.embedding(said, known) for known, said in zip(self.words, words, strict=True)], dim=1
        )
        begin = self.begin.expand(len(told), 1, -1)
        x = torch.cat([begin, told[:, :-1]], dim=1) + self.position
        tokens = self.read(seen)
        count = x.shape[1]
        before = torch.ones(count, count, dtype=torch.bool, device=x.device).tril()
        mask = torch.cat(
            [tokens.mask[:, None].expand(-1, count, -1), before.expand(len(x), -1, -1)], dim=2
        )
        for block, context in zip(self.layers(), self.contexts(tokens), strict=True):
            x = block(x, mask, context=beside(context, block.project(x)))
        parts = self.norm(x).split(self.each, dim=1)
        return [F.linear(part, known) for known, part in zip(self.words, parts, strict=True)]

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        refuse_join(join)
        tokens = self.read(seen)
        contexts, mask = self.contexts(tokens), tokens.mask
        x, said = self.begin.expand(len(mask), 1, -1), mask.new_zeros(len(mask), 0)
        for sentence, known in enumerate(self.words):
            chosen = []
            for place in range(self.each):
                x = x + self.position[sentence * self.each + place]
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                x, contexts = self._next(x, mask, contexts)
                chosen.append(F.linear(self.norm(x), known).argmax(dim=-1))
                x = F.embedding(chosen[-1], known)
            said = torch.cat(chosen, dim=1)
        return value(said, self.levels[-1]).unflatten(1, (self.config.chunk, -1))

    def _next(
        self, x: Tensor, mask: Tensor, contexts: list[KeyValue]
    ) -> tuple[Tensor, list[KeyValue]]:
        """One more word [B, 1, W] through all blocks; returns it, and contexts that have it."""
        grown = []
        for block, context in zip(self.layers(), contexts, strict=True):
            grown.append(beside(context, block.project(x)))
            x = block(x, mask, context=grown[-1])
        return x, grown

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        words = [word(batch.actions, count).flatten(1) for count in self.levels]
        shape = batch.actions.shape
        losses = [
            masked_mean(
                F.cross_entropy(logits.float().movedim(-1, 1), said, reduction="none").reshape(
                    shape
                ),
                batch.actions_valid,
            )
            for logits, said in zip(self.logits(batch.current, words), words, strict=True)
        ]
        loss = torch.stack(losses).sum()
        return loss, {"refiner_loss": losses[-1].detach()}


class PromptedPolicy(AutoregressivePolicy):
    """Coarse-to-fine prompting in one model (the review's RT-2 variant): a first sentence tells the
    chunk in N levels, a second one, which has heard it, in 256."""

    def sentences(self) -> Sequence[int]:
        return (self.config.granularity, FINE)


def word(actions: Tensor, levels: int) -> Tensor:
    """Normalised actions -> levels of equal width, int64."""
    return ((actions + 1.0) / 2.0 * levels).floor().clamp(0, levels - 1).long()


def value(words: Tensor, levels: int) -> Tensor:
    """The middle of each level, in [-1, 1]."""
    return (words + 0.5) / levels * 2.0 - 1.0
