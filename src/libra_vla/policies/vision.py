"""The small visual encoder that trains from scratch on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from libra_vla.errors import LibraError
from libra_vla.policies.layers import Tokens


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with group normalisation, [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SpatialSoftmax(nn.Module):
    """Expected image position of each feature channel (Levine et al. 2016).

    Small policies localise with it far more precisely than the token grid's spacing.
    """

    def __init__(self, channels: int, points: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, points, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, 2 x points], coordinates in [-1, 1]."""
        weights = self.maps(x).flatten(2).softmax(dim=-1).unflatten(-1, x.shape[-2:])
        rows = torch.linspace(-1.0, 1.0, x.shape[-2], device=x.device)
        columns = torch.linspace(-1.0, 1.0, x.shape[-1], device=x.device)
        row = (weights.sum(dim=-1) * rows).sum(dim=-1)
        column = (weights.sum(dim=-2) * columns).sum(dim=-1)
        return torch.cat([row, column], dim=-1)


class Modulation(nn.Module):
    """Scales and shifts feature channels by what is asked for (FiLM, Perez et al. 2018).

    What an image is searched for then depends on the instruction. It begins as the identity.
    """

    def __init__(self, asked: int, channels: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(asked, asked), nn.SiLU(), nn.Linear(asked, 2 * channels)
        )
        for parameter in self.network[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, asked: Tensor) -> Tensor:
        """Features [B, C, h, w] and a vector for each of them [B, W] -> [B, C, h, w]."""
        scale, shift = self.network(asked)[..., None, None].chunk(2, dim=1)
        return x * (1.0 + scale) + shift


class SmallVision(nn.Module):
    """Convolutions over each camera, 1/16 resolution tokens and one token of key points.

    The convolutions are shared by all cameras; a learned embedding tells cameras apart.

    Args:
        cameras: number of cameras C; 0 gives no tokens (a policy without images).
        image_size: side of the square input, a multiple of 16.
        width: token width W.
        asked: size of a vector that modulates the convolutions; 0 for none.
        blocks: residual ones; each reaches three times as far as the one before.
        shrink: looks at the means of so many by so many pixels.

    Attributes:
        tokens: how many it gives.
        channels: C' of its feature maps.

    Raises:
        LibraError: another image size.
    """

    POINTS = 32
    channels = 64

    def __init__(
        self,
        cameras: int,
        image_size: int,
        width: int,
        asked: int = 0,
        blocks: int = 1,
        shrink: int = 1,
    ) -> None:
        super().__init__()
        if image_size % (16 * shrink):
            raise LibraError(f"image_size is {image_size}: expected a multiple of {16 * shrink}")
        image_size //= shrink
        self.cameras, self.width, self.shrink = cameras, width, shrink
        self.tokens = cameras * ((image_size // 16) ** 2 + 1)
        if cameras == 0:
            return
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=4),
            nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            *(ResidualBlock(64, 3**block) for block in range(blocks)),
            nn.SiLU(),
        )
        self.modulation = Modulation(asked, 64) if asked else None
        self.down = nn.Conv2d(64, width, 3, stride=2, padding=1)
        self.points = SpatialSoftmax(64, self.POINTS)
        self.point_token = nn.Linear(2 * self.POINTS, width)
        grid = (image_size // 16) ** 2
        self.position = nn.Parameter(torch.randn(grid + 1, width) * 0.02)
        self.camera = nn.Parameter(torch.randn(cameras, 1, width) * 0.02)

    def forward(self, images: Tensor, asked: Tensor | None = None) -> Tokens:
        """[B, C, 3, h, w] in [0, 1], and what is asked for [B, A] -> C x ((h/16)^2 + 1) tokens."""
        if self.cameras == 0:
            return Tokens.dense(images.new_zeros(len(images), 0, self.width))
        return self.read(self.features(images, asked))

    def features(self, images: Tensor, asked: Tensor | None = None) -> Tensor:
        """As above -> feature maps [B, C, C', h / 8, w / 8]."""
        # Channels-last convolutions are about a third faster on CPUs.
        flat = (images.flatten(0, 1) * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
        if self.shrink > 1:
            flat = F.avg_pool2d(flat, self.shrink)
        features = flat
        for layer in self.stem:
            if isinstance(layer, ResidualBlock) and self.modulation and asked is not None:
                features = self.modulation(features, asked.repeat_interleave(self.cameras, dim=0))
            features = layer(features)
        return features.unflatten(0, (len(images), -1))

    def read(self, features: Tensor) -> Tokens:
        """Feature maps -> tokens."""
        batch, features = len(features), features.flatten(0, 1)
        grid = F.silu(self.down(features)).flatten(2).transpose(1, 2)
        points = self.point_token(self.points(features))
        tokens = torch.cat([grid, points[:, None]], dim=1) + self.position
        return Tokens.dense((tokens.unflatten(0, (batch, -1)) + self.camera).flatten(1, 2))
