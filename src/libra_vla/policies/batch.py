"""What a model is trained on."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moment:
    """What a batch of B robots sees at one time.

    Attributes:
        images: [B, C, 3, h, w] in [0, 1].
        state: standardised proprioception [B, S].
        instructions: B texts.
        places: where the things are that these are about, metres from the hand [B, K, 3]; None
            where a planner does not learn from that.
    """

    images: Tensor
    state: Tensor
    instructions: tuple[str, ...]
    places: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Two moments, since the planner's image is older than the refiner's, and what followed.

    Attributes:
        planned: what the planner saw, at time t0.
        current: what the refiner sees, at time t1 = t0 + offset.
        offset: steps between them, [B], in 0 .. (M - 1) x H.
        coarse: bins from t0 on, int64 [B, L, D].
        coarse_valid: bool [B, L], False beyond the end of the episode.
        actions: normalised actions from t1 on, [B, H, D].
        actions_valid: bool [B, H].
    """

    planned: Moment
    current: Moment
    offset: Tensor
    coarse: Tensor
    coarse_valid: Tensor
    actions: Tensor
    actions_valid: Tensor
