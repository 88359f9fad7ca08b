"""The dual system: planner and refiner with their joint loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.backbones import BorrowedVision, make_backbone, make_encoder
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join, joined, make_denoiser
from libra_vla.policies.losses import Objective, denoising_loss, displaced, masked_mean
from libra_vla.policies.planner import SemanticPlanner
from libra_vla.policies.refiner import ActionRefiner


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

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        """Joint loss: weights[0] x cross-entropy of the planner + weights[1] x denoising MSE.

        With a weight of 0 a half is left as it is: a planner plans without being graded, and a
        refiner, which costs as much, is not asked.
        """
        planner_weight, refiner_weight = objective.weights
        with torch.set_grad_enabled(torch.is_grad_enabled() and planner_weight > 0.0):
            logits, cross_entropy, log = self._planning(batch)
        loss = planner_weight * cross_entropy
        if refiner_weight > 0.0:
            refiner_loss = self._refining(batch, logits.detach(), objective)
            loss = loss + refiner_weight * refiner_loss
            log["refiner_loss"] = refiner_loss.detach()
        return loss, log

    def _planning(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Logits [B, L, D, N_max], their mean cross-entropy, and what to log of them."""
        seen = batch.planned
        logits = self.planner(seen.images, seen.state, seen.instructions, seen.places).float()
        cross_entropy = F.cross_entropy(
            logits.movedim(-1, 1), batch.coarse, reduction="none"
        )  # [B, L, D]
        loss = masked_mean(cross_entropy, batch.coarse_valid)
        with torch.no_grad():
            log_bins = torch.tensor(self.bins, device=logits.device).log()
            hits = (logits.argmax(dim=-1) == batch.coarse).to(logits.dtype)
            log = {
                "planner_loss": loss.detach(),
                "planner_loss_normalised": masked_mean(
                    cross_entropy / log_bins, batch.coarse_valid
                ),
                "bin_accuracy": masked_mean(hits, batch.coarse_valid),
            }
        return logits, loss, log

    def _refining(self, batch: Batch, logits: Tensor, objective: Objective) -> Tensor:
        """Denoising loss with the true intents, or with those of the planner's logits."""
        if objective.predicted_intents and self.config.intents == "soft":
            told = logits.softmax(dim=-1)
        else:
            chosen = logits.argmax(dim=-1) if objective.predicted_intents else batch.coarse
            chosen = displaced(chosen, self.bins, objective)
            told = F.one_hot(chosen, logits.shape[-1]).to(logits.dtype)
        steps = batch.offset[:, None] + torch.arange(self.config.chunk, device=logits.device)
        rows = torch.arange(len(steps), device=logits.device)[:, None]
        now = batch.current
        predict = self.refiner.look(now.images, now.state, told[rows, steps], draws=objective.draws)
        return denoising_loss(self.denoiser, predict, batch, objective)
