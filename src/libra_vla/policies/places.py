"""Where things are: told by the planner on its way to a plan, and read by its head (not in the
paper)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_vla.policies.layers import Tokens

UNIT = 0.1
"""Metres that count as 1 to the network."""
EXACT = 0.1
"""Error, in units, from which on the loss grows linearly: 1 cm."""
SCALES = (0.02, 0.08, 0.3)
"""Metres over which a place is read: a centimetre counts near the hand, and a decimetre far off."""
POSE = 6
"""Numbers of proprioception that say where the hand is: metres [3], then an axis times an angle."""
DROPPED = 0.2
"""Share of what is seen that is left out in training, lest pictures are learned by heart."""
UNSEEN = 0.5
"""Share of the training samples that are planned without pictures, from places alone: what holds
in the scenes of demonstrations holds in others, too."""


class PlaceHead(nn.Module):
    """Tells K places, each from the hand, and hands them on as K tokens.

    Each camera says twice where a thing is: in the world, for a camera that stands still, and seen
    from the hand, for one that moves with it; and how sure it is of either. Geometry does the rest:
    what a picture does not show, the way from one frame to the other, need not be learned.

    Args:
        places: K.
        cameras: C.
        camera_tokens: V, image tokens of each camera.
        width: W of all tokens.
        hidden: width of the networks in between.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, places: int, cameras: int, camera_tokens: int, width: int, hidden: int = 256
    ) -> None:
        super().__init__()
        self.places, self.image_tokens = places, cameras * camera_tokens
        self.cameras = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(DROPPED),
                nn.Linear((camera_tokens + 1) * width, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, places * 2 * 4),
            )
            for _ in range(cameras)
        )
        self.read = nn.Sequential(
            nn.Linear(3 * len(SCALES), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.which = nn.Parameter(torch.randn(places, width) * 0.02)
        self.register_buffer("mean", torch.zeros(POSE), persistent=False)
        self.register_buffer("std", torch.ones(POSE), persistent=False)

    def standardised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """How proprioception was standardised, per number: the hand's pose is read off it."""
        self.mean.copy_(torch.tensor(mean[:POSE]))
        self.std.copy_(torch.tensor(std[:POSE]))

    def forward(self, context: Tokens, state: Tensor) -> Tensor:
        """Where the things are.

        Args:
            context: tokens of the cameras, one after the other, then those of the instruction,
                [B, T, W].
            state: standardised proprioception [B, S]; see `POSE`.

        Returns:
            Metres from the hand along the world's axes, [B, K, 3].
        """
        images, words = context.values.tensor_split([self.image_tokens], dim=1)
        present = context.mask[:, self.image_tokens :, None].to(words.dtype)
        asked = (words * present).sum(dim=1) / present.sum(dim=1).clamp(min=1.0)
        told = [
            camera(torch.cat([tokens.flatten(1), asked], dim=-1))
            for camera, tokens in zip(
                self.cameras, images.chunk(len(self.cameras), dim=1), strict=True
            )
        ]
        # [B, C, K, which frame, x y z and how sure]
        told = torch.stack(told, dim=1).unflatten(-1, (self.places, 2, 4)).float()
        pose = state[:, :POSE].float() * self.std + self.mean
        world, seen = told[..., 0, :3], told[..., 1, :3]
        from_hand = world - pose[:, None, None, :3] / UNIT
        turned = torch.einsum("bij,bckj->bcki", rotations(pose[:, 3:]), seen)
        sure = told[..., 3].permute(0, 2, 1, 3).flatten(2).softmax(dim=-1)  # [B, K, C x 2]
        every = torch.stack([from_hand, turned], dim=3).transpose(1, 2).flatten(2, 3)
        return (sure[..., None] * every).sum(dim=2) * UNIT

    def sometimes_unseen(self, context: Tokens) -> Tokens:
        """In training the context without its image tokens, for a share `UNSEEN` of the batch."""
        if not self.training:
            return context
        seen = torch.rand(len(context.mask), 1, device=context.mask.device) >= UNSEEN
        images, words = context.mask.tensor_split([self.image_tokens], dim=1)
        return Tokens(context.values, torch.cat([images & seen, words], dim=1))

    def tokens(self, places: Tensor) -> Tokens:
        """Places [B, K, 3] (m) as tokens [B, K, W]."""
        near, middle, far = (places / scale for scale in SCALES)
        read = self.read(torch.cat([near.tanh(), middle.tanh(), far], dim=-1))
        return Tokens.dense(read + self.which)


def rotations(turns: Tensor) -> Tensor:
    """Axis times angle [B, 3] (rad) -> rotations [B, 3, 3]."""
    angle = turns.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    x, y, z = (turns / angle).unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    own = torch.eye(3, device=turns.device)
    return own + angle.sin() * cross + (1.0 - angle.cos()) * cross @ cross


def place_loss(told: Tensor, places: Tensor) -> Tensor:
    """Mean error of places [B, K, 3] (m): squared where it is small, absolute where it is large."""
    return F.smooth_l1_loss(told / UNIT, places / UNIT, beta=EXACT)
