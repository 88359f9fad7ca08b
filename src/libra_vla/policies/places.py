"""Where things are: told by the planner on its way to a plan, and read by its head (not in the
paper)."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

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
OFF = 0.006
"""Metres by which the places are off, on average, that a planner without pictures learns from."""
NEAR = 0.3
"""Share of an error far off that is taken for as large where the hand is."""
DROPPED = 0.2
"""Share of what is seen that is left out in training, lest pictures are learned by heart."""
BLOT = 0.75
"""Standard deviation, in cells of a map, of what it is to show of a thing."""
PICTURED = 0.2
"""Weight of where in the pictures things are, beside of where they are."""
HEARD = 0.05
"""How sure a vote is taken to be at least where its camera has the thing in the picture."""
CERTAIN = 10.0
"""How many times as steep as a network tells them the logits are of what an instruction is about:
the mean of its words is a small number, and it is to be known long before where things are."""
UNSEEN = 0.5
"""Share of the training samples that are planned without pictures, from places alone: what holds
in the scenes of demonstrations holds in others, too."""


@dataclass(frozen=True)
class Told:
    """What a planner tells of places.

    Attributes:
        places: of all P things, metres from the hand along the world's axes, [B, P, 3].
        which: logits over them, of the K that the instruction is about, [B, K, P].
        maps: logits of where in each camera's picture they are, if it looks for them there,
            [B, C, P, h, w].
        votes: of each camera in both frames, of which `places` are the mean, [B, P, C x 2, 3].
        sure: weights of that mean, [B, P, C x 2].
    """

    places: Tensor
    which: Tensor
    maps: Tensor | None = None
    votes: Tensor | None = None
    sure: Tensor | None = None

    @property
    def asked(self) -> Tensor:
        """Where the things are that the instruction is about, [B, K, 3]."""
        # No matrix product, which autocast would compute in bfloat16.
        return (self.which.softmax(dim=-1)[..., None] * self.places[:, None]).sum(dim=2)


@dataclass(frozen=True)
class Truth:
    """Where things are, for a batch of stills.

    Attributes:
        places: metres from the hand, [B, P, 3]; anything for what is not there.
        present: which of them are, bool [B, P].
        asked: what the instruction is about, as indices of things, int64 [B, K].
        pictured: where in each camera's picture they are, row and column from -1 to 1, NaN where
            they are in none or nobody knows, [B, C, P, 2].
    """

    places: Tensor
    present: Tensor
    asked: Tensor
    pictured: Tensor

    @property
    def of_asked(self) -> Tensor:
        """Where the things are that the instruction is about, [B, K, 3]."""
        return self.places.take_along_dim(self.asked[..., None], dim=1)


class Places(nn.Module):
    """Tells where P things are, and which K of them the instruction is about; these go on as K
    tokens.

    Each camera says twice where a thing is: in the world, for a camera that stands still, and seen
    from the hand, for one that moves with it; and how sure it is of either. Geometry does the rest:
    what a picture does not show, the way from one frame to the other, need not be learned.

    Args:
        things: P.
        asked: K.
        width: W of all tokens.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, things: int, asked: int, width: int) -> None:
        super().__init__()
        self.things, self.asked = things, asked
        self.about = nn.Linear(width, asked * things)
        self.read = nn.Sequential(
            nn.Linear(3 * len(SCALES), width), nn.SiLU(), nn.Linear(width, width)
        )
        self.which = nn.Parameter(torch.randn(asked, width) * 0.02)
        self.register_buffer("mean", torch.zeros(POSE), persistent=False)
        self.register_buffer("std", torch.ones(POSE), persistent=False)

    def standardised_by(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """How proprioception was standardised, per number: the hand's pose is read off it."""
        self.mean.copy_(torch.tensor(mean[:POSE]))
        self.std.copy_(torch.tensor(std[:POSE]))

    def combined(self, told: Tensor, asked: Tensor, state: Tensor) -> Told:
        """Where the things are, by all cameras.

        Args:
            told: by each camera of each thing in both frames x, y, z and how sure it is,
                [B, C, P, 2, 4].
            asked: mean of the instruction's words [B, W].
            state: standardised proprioception [B, S]; see `POSE`.
        """
        pose = state[:, :POSE] * self.std + self.mean
        world, seen = told[..., 0, :3], told[..., 1, :3]
        from_hand = world - pose[:, None, None, :3] / UNIT
        turned = torch.einsum("bij,bckj->bcki", rotations(pose[:, 3:]), seen)
        sure = told[..., 3].permute(0, 2, 1, 3).flatten(2).softmax(dim=-1)  # [B, P, C x 2]
        every = UNIT * torch.stack([from_hand, turned], dim=3).transpose(1, 2).flatten(2, 3)
        which = CERTAIN * self.about(asked).unflatten(-1, (self.asked, self.things))
        return Told((sure[..., None] * every).sum(dim=2), which, votes=every, sure=sure)

    def tokens(self, places: Tensor) -> Tokens:
        """Places [B, K, 3] (m) as tokens [B, K, W]."""
        near, middle, far = (places / scale for scale in SCALES)
        read = self.read(torch.cat([near.tanh(), middle.tanh(), far], dim=-1))
        return Tokens.dense(read + self.which)


class PlaceHead(Places):
    """Reads places off all image tokens of a camera at once.

    Args:
        things, asked, width: as above.
        cameras: C.
        camera_tokens: V, image tokens of each camera.
        hidden: width of the networks in between.
    """

    def __init__(
        self,
        things: int,
        asked: int,
        cameras: int,
        camera_tokens: int,
        width: int,
        hidden: int = 256,
    ) -> None:
        super().__init__(things, asked, width)
        self.image_tokens = cameras * camera_tokens
        self.cameras = nn.ModuleList(
            nn.Sequential(
                nn.Dropout(DROPPED),
                nn.Linear((camera_tokens + 1) * width, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, things * 2 * 4),
            )
            for _ in range(cameras)
        )

    def forward(self, context: Tokens, state: Tensor) -> Told:
        """Where the things are.

        Args:
            context: tokens of the cameras, one after the other, then those of the instruction,
                [B, T, W].
            state: standardised proprioception [B, S]; see `POSE`.
        """
        with _in_float32(state.device):
            return self._tell(Tokens(context.values.float(), context.mask), state.float())

    def _tell(self, context: Tokens, state: Tensor) -> Told:
        images, words = context.values.tensor_split([self.image_tokens], dim=1)
        asked = Tokens(words, context.mask[:, self.image_tokens :]).mean()
        told = [
            camera(torch.cat([tokens.flatten(1), asked], dim=-1))
            for camera, tokens in zip(
                self.cameras, images.chunk(len(self.cameras), dim=1), strict=True
            )
        ]
        told = torch.stack(told, dim=1).unflatten(-1, (self.things, 2, 4))
        return self.combined(told, asked, state)

    def sometimes_unseen(self, context: Tokens) -> Tokens:
        """In training the context without its image tokens, for a share `UNSEEN` of the batch."""
        if not self.training:
            return context
        seen = torch.rand(len(context.mask), 1, device=context.mask.device) >= UNSEEN
        images, words = context.mask.tensor_split([self.image_tokens], dim=1)
        return Tokens(context.values, torch.cat([images & seen, words], dim=1))


class Expectation(nn.Module):
    """Where in a camera's picture to look for each thing, by what is asked for and by the hand's
    pose: a second-order polynomial of row and column, which is the logarithm of a Gaussian.

    Convolutions see what a thing looks like, and of two alike not which is meant. It begins with
    looking anywhere.

    Args:
        things: P.
        width: W of what is asked for.
        hidden: width of the network in between.
    """

    TERMS, STEEP = 5, 4.0
    """Coefficients for each thing, and how many times as steep as the network tells them."""

    def __init__(self, things: int, width: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width + POSE, hidden), nn.SiLU(), nn.Linear(hidden, things * self.TERMS)
        )
        for parameter in self.network[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, asked: Tensor, pose: Tensor, grid: Tensor) -> Tensor:
        """What is asked for [B, W], pose [B, 6] and rows and columns [h x w, 2] -> logits
        [B, P, h x w]."""
        y, x = grid.unbind(dim=1)
        terms = torch.stack([y, x, y * y, x * x, y * x])
        told = self.network(torch.cat([asked, pose], dim=1)).unflatten(1, (-1, self.TERMS))
        return self.STEEP * told @ terms


class KeyPoints(Places):
    """Looks for each thing in each camera's feature maps, and reads its place off where it was
    found and what is seen there.

    Args:
        things, asked, width: as above.
        cameras: C.
        channels: C' of the feature maps.
        guided: whether it is told by the instruction where to look, and about what.
        hidden: width of the networks in between.
    """

    NAMED = 32
    """Numbers by which a thing is known to the networks, which all things share."""

    def __init__(
        self,
        things: int,
        asked: int,
        cameras: int,
        channels: int,
        width: int,
        *,
        guided: bool = False,
        hidden: int = 128,
    ) -> None:
        super().__init__(things, asked, width)
        self.maps = nn.ModuleList(nn.Conv2d(channels, things, 1) for _ in range(cameras))
        self.named = nn.Parameter(torch.randn(things, self.NAMED) * 0.5)
        self.expected = nn.ModuleList(
            Expectation(things, width, hidden) for _ in range(cameras if guided else 0)
        )
        known = 3 + channels + self.NAMED + POSE + (width if guided else 0)
        self.cameras = nn.ModuleList(
            nn.Sequential(
                nn.Linear(known, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, 2 * 4),
            )
            for _ in range(cameras)
        )

    def forward(
        self, features: Tensor, words: Tokens, state: Tensor, reading: Tensor | None = None
    ) -> Told:
        """Where the things are.

        Args:
            features: maps of each camera [B, C, C', h, w].
            words: of the instruction [B, T, W].
            state: standardised proprioception [B, S]; see `POSE`.
            reading: of a guided one, what is asked for [B, W].
        """
        with _in_float32(state.device):
            features, state = features.float(), state.float()
            guide = None if reading is None else reading.float()
            told, maps = [], []
            for number, seen in enumerate(features.unbind(dim=1)):
                found, logits = self._found(number, seen, state[:, :POSE], guide)
                told.append(self.cameras[number](found))
                maps.append(logits.unflatten(-1, seen.shape[-2:]))
            asked = Tokens(words.values.float(), words.mask).mean()
            of_all = self.combined(torch.stack(told, dim=1).unflatten(-1, (2, 4)), asked, state)
            return replace(of_all, maps=torch.stack(maps, dim=1))

    def _found(
        self, camera: int, seen: Tensor, pose: Tensor, guide: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What one camera knows of each thing: where it is in the picture, how clearly, and what
        it looks like there, [B, P, ...]; and the logits of where it is, [B, P, h x w]."""
        grid = centres(*seen.shape[-2:], device=seen.device)
        logits = self.maps[camera](seen).flatten(2)
        if guide is not None:
            logits = logits + self.expected[camera](guide, pose, grid)
        weights = logits.softmax(dim=-1)  # [B, P, h x w]
        looks = weights @ seen.flatten(2).transpose(1, 2)
        clear = weights.square().sum(dim=-1, keepdim=True)
        named = self.named.expand(len(seen), -1, -1)
        told = [pose] if guide is None else [pose, guide]
        every = torch.cat(told, dim=1)[:, None].expand(-1, self.things, -1)
        return torch.cat([weights @ grid, clear, looks, named, every], dim=-1), logits


def centres(height: int, width: int, *, device: torch.device) -> Tensor:
    """Rows and columns of a map's cells, from -1 at the first to 1 at the last, [h x w, 2]."""
    rows = torch.linspace(-1.0, 1.0, height, device=device)
    columns = torch.linspace(-1.0, 1.0, width, device=device)
    return torch.stack([rows.repeat_interleave(width), columns.repeat(height)], dim=1)


def misjudged(places: Tensor) -> Tensor:
    """Places [B, K, 3] as they may be told of what is there: off by less where the hand is near."""
    off = OFF * torch.empty_like(places[..., :1]).exponential_()
    upright = places.new_tensor([1.0, 1.0, 0.5])
    return places + torch.randn_like(places) * upright * off * leeway(places)


def leeway(places: Tensor) -> Tensor:
    """How large an error is taken for the same, by how far from the hand it is made: from `NEAR`
    at the hand of places [..., 3] to 1 from two decimetres on, [..., 1]."""
    return NEAR + (1.0 - NEAR) * (places.norm(dim=-1, keepdim=True) / UNIT).tanh()


def _in_float32(device: torch.device) -> AbstractContextManager[object]:
    """Whatever the rest is computed in: in bfloat16 a metre is told to no better than 8 mm."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def rotations(turns: Tensor) -> Tensor:
    """Axis times angle [B, 3] (rad) -> rotations [B, 3, 3]."""
    angle = turns.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    x, y, z = (turns / angle).unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    own = torch.eye(3, device=turns.device)
    return own + angle.sin() * cross + (1.0 - angle.cos()) * cross @ cross


def place_loss(told: Told, truth: Truth) -> Tensor:
    """Mean error of places, squared where it is small and absolute where it is large, and where it
    is known the cross-entropy of where in the pictures they are, of what is asked for as much as of
    all that is there; and the cross-entropy of what that is."""
    wrong = misplaced(told, truth)
    asked = wrong.take_along_dim(truth.asked, dim=1).mean()
    which = F.cross_entropy(told.which.flatten(0, 1), truth.asked.flatten())
    loss = asked + wrong[truth.present].mean() + which
    if told.maps is None:
        return loss
    meant = truth.asked[:, None, :, None]
    looked = map_loss(told.maps, truth.pictured) + map_loss(
        told.maps.take_along_dim(meant[..., None], dim=2),
        truth.pictured.take_along_dim(meant, dim=2),
    )
    return loss + PICTURED * looked


def misplaced(told: Told, truth: Truth) -> Tensor:
    """Error of each place [B, P], squared where it is small and absolute where it is large; small
    and large are meant for a thing far off, and near the hand for less (`leeway`).

    Every vote is judged by itself, as far as it is sure, and a little more where its camera has the
    thing in the picture: that their mean is right would leave each of them wrong.
    """
    told_so = told.places[:, :, None] if told.votes is None else told.votes
    unit = UNIT * leeway(truth.places)[:, :, None]
    wanted = truth.places[:, :, None].expand_as(told_so)
    off = F.smooth_l1_loss(told_so / unit, wanted / unit, beta=EXACT, reduction="none").mean(dim=-1)
    if told.sure is None:
        return off[..., 0]
    in_sight = truth.pictured.isfinite().all(dim=-1).transpose(1, 2)  # [B, P, C]
    heard = told.sure + HEARD * in_sight.repeat_interleave(2, dim=-1)
    return (heard * off).sum(dim=-1)


def map_loss(maps: Tensor, pictured: Tensor) -> Tensor:
    """Mean cross-entropy of where in the pictures things are, over those that are in one.

    The target is a blot about the true place, whose mean is that place to a fraction of a cell.

    Args:
        maps: logits [B, C, P, h, w].
        pictured: rows and columns [B, C, P, 2]; see `Truth`.
    """
    there = pictured.isfinite().all(dim=-1)
    if not there.any():
        return maps.new_zeros(())
    height, width = maps.shape[-2:]
    blots = []
    for size, place in zip((height, width), pictured[there].unbind(dim=-1), strict=True):
        # A cell of n covers 2 / n of the picture from edge to edge.
        cells = (2.0 * torch.arange(size, device=maps.device) + 1.0) / size - 1.0
        off = (cells - place[:, None]) * size / (2.0 * BLOT)
        blots.append((-0.5 * off.square()).softmax(dim=1))
    target = (blots[0][:, :, None] * blots[1][:, None]).flatten(1)
    return -(target * maps[there].flatten(1).log_softmax(dim=1)).sum(dim=1).mean()
