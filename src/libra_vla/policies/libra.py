"""The dual system: planner and refiner with their joint loss, and the monolith beside it."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.backbones import BorrowedVision, make_backbone, make_encoder
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Denoiser, Join, Predict, joined, make_denoiser
from libra_vla.policies.layers import Block, DiffusionTransformer, Tokens
from libra_vla.policies.planner import SemanticPlanner
from libra_vla.policies.refiner import ActionRefiner


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

    def loss(
        self,
        batch: Batch,
        *,
        predicted_intents: bool,
        weights: tuple[float, float],
        draws: int,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the loss and what to log of it."""
        ...


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid steps: values [B, T, ...], valid [B, T]."""
    weight = valid.to(values.dtype).reshape(*valid.shape, *[1] * (values.dim() - 2))
    per_step = values[0, 0].numel()
    return (values * weight).sum() / (weight.sum() * per_step).clamp(min=1.0)


class LibraModel(nn.Module):
    """Semantic Planner and Action Refiner.

    p(fine, coarse | o, l) = p(coarse | o_t0, l) p(fine | coarse, o_t1)   (paper, factorisation)
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__()
        self.config, self.bins = config, bins
        self.planner = SemanticPlanner(
            make_backbone(config.planner.backbone, cameras, config.image_size),
            config.planner,
            horizon=config.macro_horizon,
            bins=bins,
            state_size=state_size,
        )
        shared = config.refiner.encoder.kind == "shared"
        self.refiner = ActionRefiner(
            BorrowedVision(self.planner.backbone)
            if shared
            else make_encoder(config.refiner.encoder, cameras, config.image_size),
            config.refiner,
            chunk=config.chunk,
            bins=bins,
            state_size=state_size,
        )
        self.denoiser = make_denoiser(config.refiner.denoising, config.refiner.train_steps)

    def plan(self, seen: Moment) -> Tensor:
        return self.planner(seen.images, seen.state, seen.instructions).softmax(dim=-1)

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        predict = self.refiner.look(seen.images, seen.state, coarse)
        predict = joined(self.denoiser, predict, join)
        return self.denoiser.sample(predict, noise, self.config.refiner.sample_steps)

    def loss(
        self,
        batch: Batch,
        *,
        predicted_intents: bool,
        weights: tuple[float, float],
        draws: int,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Joint loss: weights[0] x cross-entropy of the planner + weights[1] x denoising MSE.

        Args:
            predicted_intents: condition the refiner on the planner's prediction instead of the
                true coarse actions (the curriculum's second phase); no gradient passes.
            draws: noise draws per encoded image: the encoders dominate the cost, so they are free.
        """
        seen = batch.planned
        logits = self.planner(seen.images, seen.state, seen.instructions)
        cross_entropy = F.cross_entropy(
            logits.movedim(-1, 1), batch.coarse, reduction="none"
        )  # [B, L, D]
        planner_loss = masked_mean(cross_entropy, batch.coarse_valid)

        chosen = logits.argmax(dim=-1) if predicted_intents else batch.coarse
        steps = batch.offset[:, None] + torch.arange(self.config.chunk, device=logits.device)
        rows = torch.arange(len(steps), device=logits.device)[:, None]
        intents = F.one_hot(chosen[rows, steps], logits.shape[-1]).to(logits.dtype)

        predict = self.refiner.look(batch.current.images, batch.current.state, intents, draws=draws)
        refiner_loss = denoising_loss(self.denoiser, predict, batch, draws, generator)
        with torch.no_grad():
            log_bins = torch.tensor(self.bins, device=logits.device).log()
            hits = (logits.argmax(dim=-1) == batch.coarse).to(logits.dtype)
            log = {
                "planner_loss": planner_loss.detach(),
                "planner_loss_normalised": masked_mean(
                    cross_entropy / log_bins, batch.coarse_valid
                ),
                "bin_accuracy": masked_mean(hits, batch.coarse_valid),
                "refiner_loss": refiner_loss.detach(),
            }
        return weights[0] * planner_loss + weights[1] * refiner_loss, log


def denoising_loss(
    denoiser: Denoiser,
    predict: Predict,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Mean squared error of the denoising target over valid steps."""
    actions = batch.actions.repeat_interleave(draws, dim=0)
    valid = batch.actions_valid.repeat_interleave(draws, dim=0)
    noisy, level, target = denoiser.corrupt(actions, generator)
    return masked_mean((predict(noisy, level) - target) ** 2, valid)


class MonolithicModel(nn.Module):
    """Libra-Base: the same backbone, then a diffusion transformer over its tokens.

    No coarse actions, no intents, no encoder of its own: every chunk costs a pass through
    everything. Presets size it so that its parameters equal the dual system's.
    """

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__()
        self.config, self.bins = config, bins
        planner, refiner = config.planner, config.refiner
        self.backbone = make_backbone(planner.backbone, cameras, config.image_size)
        width = self.backbone.width
        self.state = nn.Linear(state_size, width)
        self.blocks = nn.ModuleList(Block(width, planner.heads) for _ in range(planner.layers))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, refiner.width)
        self.condition = nn.Linear(state_size, refiner.width)
        self.transformer = DiffusionTransformer(
            len(bins), config.chunk, refiner.width, refiner.layers, refiner.heads, refiner.ratio
        )
        self.denoiser = make_denoiser(refiner.denoising, refiner.train_steps)

    def plan(self, seen: Moment) -> Tensor:
        """There is no plan: uniform weights, at no cost."""
        weights = torch.zeros(
            len(seen.state), self.config.macro_horizon, len(self.bins), max(self.bins)
        )
        for dimension, count in enumerate(self.bins):
            weights[:, :, dimension, :count] = 1.0 / count
        return weights

    def look(self, seen: Moment, draws: int = 1) -> Predict:
        tokens = Tokens.join(
            self.backbone(seen.images, seen.instructions),
            Tokens.dense(self.state(seen.state)[:, None]),
        )
        x, mask = tokens
        for block in self.blocks:
            x = block(x, mask)
        x, mask = self.also_seen(seen, Tokens(self.project(self.norm(x)), mask))
        read = self.transformer.read(x)
        condition = self.condition(seen.state)
        if draws > 1:
            condition = condition.repeat_interleave(draws, dim=0)
        return lambda noisy, level: self.transformer(noisy, level, 0.0, condition, read, mask)

    def also_seen(self, seen: Moment, context: Tokens) -> Tokens:
        """What the transformer reads, out of the backbone's context."""
        return context

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        predict = joined(self.denoiser, self.look(seen), join)
        return self.denoiser.sample(predict, noise, self.config.refiner.sample_steps)

    def loss(
        self,
        batch: Batch,
        *,
        predicted_intents: bool,
        weights: tuple[float, float],
        draws: int,
        generator: torch.Generator | None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        loss = denoising_loss(
            self.denoiser, self.look(batch.current, draws), batch, draws, generator
        )
        return loss, {"refiner_loss": loss.detach()}


class EncoderMonolith(MonolithicModel):
    """Libra-VE: the monolith, whose transformer also reads a visual encoder of its own."""

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        self.encoder = make_encoder(config.refiner.encoder, cameras, config.image_size)
        self.see = nn.Linear(self.encoder.width, config.refiner.width)

    def also_seen(self, seen: Moment, context: Tokens) -> Tokens:
        visual = self.encoder(seen.images)
        return Tokens.join(context, Tokens(self.see(visual.values), visual.mask))


def make_model(
    config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
) -> LibraModel | MonolithicModel:
    """Builds the network a configuration asks for."""
    build = {
        "libra": LibraModel,
        "monolithic": MonolithicModel,
        "monolithic_ve": EncoderMonolith,
    }
    return build[config.kind](config, bins=bins, cameras=cameras, state_size=state_size)
