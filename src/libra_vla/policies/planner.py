"""Semantic Planner (System 2): where to go, as bins of a whole macro-horizon in one pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from libra_vla.config import PlannerConfig
from libra_vla.errors import LibraError
from libra_vla.policies.backbones import Backbone, SmallBackbone
from libra_vla.policies.layers import Block, Tokens
from libra_vla.policies.places import POSE, KeyPoints, PlaceHead, Places, Told, misjudged


class CoarseActionHead(nn.Module):
    """Parallel Coarse-Action Head (paper, section on the Semantic Planner).

    L learned action queries are appended to the image and language tokens; all attend to each
    other in both directions, and each query yields the bins of one control step.

    Args:
        context_width: W of the backbone's tokens.
        horizon: L, queries.
        bins: N per action dimension.
        width, layers, heads: of the transformer.
    """

    places: Tensor

    def __init__(
        self,
        context_width: int,
        horizon: int,
        bins: Sequence[int],
        width: int,
        layers: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.project = nn.Identity() if context_width == width else nn.Linear(context_width, width)
        self.queries = nn.Parameter(torch.randn(horizon, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.bins = tuple(bins)
        self.out = nn.Linear(width, sum(bins))
        # Where each logit goes in [D, N_max]: dimensions may differ in their number of bins.
        places = [d * max(bins) + n for d, count in enumerate(self.bins) for n in range(count)]
        self.register_buffer("places", torch.tensor(places), persistent=False)

    def forward(self, context: Tokens) -> Tensor:
        """Returns logits [B, L, D, N_max]; bins that a dimension lacks get the lowest number."""
        horizon = len(self.queries)
        queries = Tokens.dense(self.queries.expand(len(context.values), -1, -1))
        x, mask = Tokens.join(Tokens(self.project(context.values), context.mask), queries)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, last=horizon)
        flat = self.out(self.norm(x))
        shape = (len(self.bins), max(self.bins))
        logits = flat.new_full((*flat.shape[:2], shape[0] * shape[1]), torch.finfo(flat.dtype).min)
        return logits.index_copy(-1, self.places, flat).unflatten(-1, shape)


class SemanticPlanner(nn.Module):
    """A backbone and the coarse-action head; in between, if it is to, it tells where things are.

    Raises:
        LibraError: it is to tell places, and has no small backbone, camera or pose of the hand.
    """

    def __init__(
        self,
        backbone: Backbone,
        config: PlannerConfig,
        *,
        horizon: int,
        bins: Sequence[int],
        state_size: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.state = nn.Linear(state_size, backbone.width) if config.use_state else None
        self.places = _place_head(backbone, config, state_size)
        self.head = CoarseActionHead(
            backbone.width, horizon, bins, config.width, config.layers, config.heads
        )

    def forward(
        self,
        images: Tensor,
        state: Tensor,
        instructions: Sequence[str],
        places: Tensor | None = None,
    ) -> Tensor:
        """Returns logits over bins.

        Args:
            images: [B, C, 3, h, w] in [0, 1].
            state: standardised proprioception [B, S].
            instructions: B texts.
            places: what a planner without pictures learns from while it is trained: where the
                things are that the instructions are about, metres from the hand [B, K, 3].

        Returns:
            [B, L, D, N_max].
        """
        if isinstance(self.places, KeyPoints):
            return self._plan_unseen(self.places, images, state, instructions, places)
        seen = self.backbone(images, instructions)
        own = [] if self.state is None else [Tokens.dense(self.state(state)[:, None])]
        if not isinstance(self.places, PlaceHead):
            return self.head(Tokens.join(seen, *own))
        # A plan's loss must not reach them: they are places, whatever would be of use to it.
        told = self.places.tokens(self.places(seen, state).asked.detach())
        return self.head(Tokens.join(self.places.sometimes_unseen(seen), *own, told))

    def _plan_unseen(
        self,
        head: KeyPoints,
        images: Tensor,
        state: Tensor,
        instructions: Sequence[str],
        places: Tensor | None,
    ) -> Tensor:
        """A plan by places alone: by what is told of them, or in training by the truth, somewhat
        misjudged."""
        if self.training and places is not None:
            places = misjudged(places)
        else:
            places = self.locate(images, state, instructions).asked.detach()
        own = [] if self.state is None else [Tokens.dense(self.state(state)[:, None])]
        assert isinstance(self.backbone, SmallBackbone)
        return self.head(Tokens.join(self.backbone.words(instructions), *own, head.tokens(places)))

    def learn_only_to_look(self, *, plans: bool = True) -> None:
        """From now on it learns to tell places, and plans by them as before; one that cannot plan
        yet learns what words mean, too.

        Args:
            plans: whether it has learned to plan.

        Raises:
            LibraError: its plans depend on more of what it sees than on places.
        """
        if not isinstance(self.places, KeyPoints):
            raise LibraError(
                "this planner does not plan by places alone, so it cannot learn to look without "
                "planning otherwise: make planner_weight more than 0"
            )
        assert isinstance(self.backbone, SmallBackbone)
        words = self.backbone.words.parameters() if plans else ()
        for parameter in [*words, *self._of_plans()]:
            parameter.requires_grad_(False)

    def learn_only_to_plan(self) -> None:
        """From now on it learns to plan; one that plans by places alone tells them as before."""
        if isinstance(self.places, KeyPoints):
            self.requires_grad_(False)
            for parameter in self._of_plans():
                parameter.requires_grad_(True)

    def _of_plans(self) -> list[nn.Parameter]:
        """What turns places, proprioception and words into a plan."""
        assert self.places is not None
        parts = [part for part in (self.head, self.state, self.places.read) if part is not None]
        return [self.places.which, *(p for part in parts for p in part.parameters())]

    def locate(self, images: Tensor, state: Tensor, instructions: Sequence[str]) -> Told:
        """Where things are, and which of them the instructions are about.

        Args: as above.
        """
        if isinstance(self.places, KeyPoints):
            assert isinstance(self.backbone, SmallBackbone)
            words = self.backbone.words(instructions)
            reading = self.backbone.reading
            guide = None if reading is None else reading(words)
            return self.places(self.backbone.features(images, words), words, state, reading=guide)
        assert self.places is not None, "this planner tells no places"
        return self.places(self.backbone(images, instructions), state)


def _place_head(backbone: Backbone, config: PlannerConfig, state_size: int) -> Places | None:
    if not config.things:
        return None
    if not isinstance(backbone, SmallBackbone) or backbone.vision.cameras == 0:
        raise LibraError("a planner that tells places needs the backbone 'small', and a camera")
    if state_size < POSE:
        raise LibraError(
            f"proprioception has {state_size} numbers: a planner that tells places reads off the "
            f"first {POSE} where the hand is, in metres and as an axis times an angle"
        )
    vision, things = backbone.vision, len(config.things)
    if not config.sees:
        return KeyPoints(
            things,
            config.asked,
            vision.cameras,
            vision.channels,
            backbone.width,
            guided=backbone.reading is not None,
        )
    return PlaceHead(
        things,
        config.asked,
        vision.cameras,
        vision.tokens // vision.cameras,
        backbone.width,
    )
