"""All actions of a chunk in one pass, by regression, as in OpenVLA-OFT (Kim et al. 2025)."""

import torch
from torch import Tensor, nn

from libra_vla.config import PolicyConfig
from libra_vla.policies.baselines.monolith import Monolith, refuse_join
from libra_vla.policies.batch import Batch, Moment
from libra_vla.policies.denoising import Join
from libra_vla.policies.layers import Tokens
from libra_vla.policies.losses import Objective, masked_mean


class ParallelPolicy(Monolith):
    """H action queries behind the backbone's tokens, bidirectional blocks, L1 loss."""

    def __init__(
        self, config: PolicyConfig, *, bins: tuple[int, ...], cameras: int, state_size: int
    ) -> None:
        super().__init__(config, bins=bins, cameras=cameras, state_size=state_size)
        width = self.width
        self.queries = nn.Parameter(torch.randn(config.chunk, width) * 0.02)
        self.out = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, len(bins)))

    def actions(self, seen: Moment) -> Tensor:
        """Normalised actions [B, H, D]."""
        queries = Tokens.dense(self.queries.expand(len(seen.state), -1, -1))
        x, mask = Tokens.join(self.read(seen), queries)
        *inner, last = self.layers()
        for block in inner:
            x = block(x, mask)
        return self.out(self.norm(last(x, mask, last=len(self.queries))))

    def refine(
        self, seen: Moment, coarse: Tensor, noise: Tensor, join: Join | None = None
    ) -> Tensor:
        refuse_join(join)
        return self.actions(seen)

    def loss(self, batch: Batch, objective: Objective) -> tuple[Tensor, dict[str, Tensor]]:
        error = (self.actions(batch.current).float() - batch.actions).abs()
        loss = masked_mean(error, batch.actions_valid)
        return loss, {"refiner_loss": loss.detach()}
