"""Two ways to turn noise into actions: DDPM with noise prediction (the paper) and rectified flow.

Both speak of a noise level in [0, 1]: 1 is pure noise, 0 is the action (openpi's convention).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from libra_vla.errors import LibraError, unknown

Method = Literal["flow", "ddpm"]
Predict = Callable[[Tensor, Tensor], Tensor]
"""(noisy [B, H, D], level [B]) -> prediction [B, H, D]."""


class Denoiser(Protocol):
    """A noise process: what the network is trained to predict, and how samples are drawn."""

    def corrupt(
        self, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (noisy [B, H, D], level [B], the target the network should predict)."""
        ...

    def sample(self, predict: Predict, noise: Tensor, steps: int) -> Tensor:
        """Returns actions [B, H, D], starting from unit Gaussian `noise`, in `steps` steps."""
        ...

    def mixture(self, level: float) -> tuple[float, float]:
        """Returns (a, s), so that noisy = a x actions + s x noise."""
        ...

    def actions_of(self, noisy: Tensor, prediction: Tensor, level: float) -> Tensor:
        """Returns the actions that a prediction amounts to, [B, H, D]."""
        ...

    def prediction_of(self, noisy: Tensor, actions: Tensor, level: float) -> Tensor:
        """Returns the prediction that amounts to `actions`, [B, H, D]."""
        ...


class RectifiedFlow:
    """Straight paths from actions to noise; the network predicts the velocity noise - action.

    x_t = (1 - t) x_0 + t e (Liu et al. 2023); Euler steps from t = 1 to t = 0.
    """

    def corrupt(
        self, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn(actions.shape, generator=generator, device=actions.device)
        level = torch.rand(len(actions), generator=generator, device=actions.device)
        t = level[:, None, None]
        return (1.0 - t) * actions + t * noise, level, noise - actions

    def sample(self, predict: Predict, noise: Tensor, steps: int) -> Tensor:
        x = noise
        levels = torch.linspace(1.0, 0.0, steps + 1).tolist()
        for now, after in pairwise(levels):
            x = x + (after - now) * predict(x, torch.full((len(x),), now, device=x.device))
        return x

    def mixture(self, level: float) -> tuple[float, float]:
        return 1.0 - level, level

    def actions_of(self, noisy: Tensor, prediction: Tensor, level: float) -> Tensor:
        return noisy - level * prediction

    def prediction_of(self, noisy: Tensor, actions: Tensor, level: float) -> Tensor:
        return (noisy - actions) / level


class DDPM:
    """Ho et al. 2020 with the squared-cosine schedule (Nichol & Dhariwal 2021), noise prediction.

    With `steps` equal to `train_steps` and `eta` 1 this is DDPM's ancestral sampler; fewer steps
    are DDIM's (Song et al. 2021), deterministic with `eta` 0. The predicted action is clipped to
    [-1, 1] at every step.
    """

    def __init__(self, train_steps: int = 100, eta: float = 0.0) -> None:
        self.train_steps, self.eta = train_steps, eta
        # On the CPU even when the model is built elsewhere: sampling reads single numbers of it.
        steps = torch.arange(train_steps + 1, dtype=torch.float64, device="cpu")
        progress = steps / train_steps
        signal = torch.cos((progress + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1.0 - signal[1:] / signal[:-1]).clamp(max=0.999)
        self.signal = torch.cumprod(1.0 - betas, dim=0).float()
        """Share of the variance that is still the action, per step, [train_steps]."""

    def corrupt(
        self, actions: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = actions.device
        noise = torch.randn(actions.shape, generator=generator, device=device)
        step = torch.randint(self.train_steps, (len(actions),), generator=generator, device=device)
        signal = self.signal.to(device)[step][:, None, None]
        noisy = signal.sqrt() * actions + (1.0 - signal).sqrt() * noise
        return noisy, step / self.train_steps, noise

    def sample(
        self, predict: Predict, noise: Tensor, steps: int, generator: torch.Generator | None = None
    ) -> Tensor:
        if not 1 <= steps <= self.train_steps:
            raise LibraError(
                f"{steps} denoising steps: expected 1 to {self.train_steps}, the number of noise "
                "levels of training"
            )
        stride = self.train_steps // steps
        x = noise
        for step in range((steps - 1) * stride, -1, -stride):
            level = torch.full((len(x),), step / self.train_steps, device=x.device)
            predicted_noise = predict(x, level)
            now = float(self.signal[step])
            before = float(self.signal[step - stride]) if step >= stride else 1.0
            action = (x - math.sqrt(1.0 - now) * predicted_noise) / math.sqrt(now)
            action = action.clamp(-1.0, 1.0)
            # Clipping the action changes which noise explains x.
            predicted_noise = (x - math.sqrt(now) * action) / math.sqrt(1.0 - now)
            variance = (1.0 - before) / (1.0 - now) * (1.0 - now / before) * self.eta**2
            x = (
                math.sqrt(before) * action
                + math.sqrt(max(1.0 - before - variance, 0.0)) * predicted_noise
            )
            if variance > 0.0:
                fresh = torch.randn(x.shape, generator=generator, device=x.device)
                x = x + math.sqrt(variance) * fresh
        return x

    def mixture(self, level: float) -> tuple[float, float]:
        signal = float(self.signal[round(level * self.train_steps)])
        return math.sqrt(signal), math.sqrt(1.0 - signal)

    def actions_of(self, noisy: Tensor, prediction: Tensor, level: float) -> Tensor:
        share, noise = self.mixture(level)
        return (noisy - noise * prediction) / share

    def prediction_of(self, noisy: Tensor, actions: Tensor, level: float) -> Tensor:
        share, noise = self.mixture(level)
        return (noisy - share * actions) / noise


@dataclass(frozen=True)
class Join:
    """What a chunk should agree with (real-time chunking).

    Attributes:
        known: normalised actions [B, H, D]; where the weight is 0 they do not matter.
        weight: [H], 1 where an action is settled.
    """

    known: Tensor
    weight: Tensor

    @classmethod
    def onto(cls, left_over: Tensor, frozen: int, chunk: int) -> "Join":
        """What the last chunk left over: actions [k, D] for the first k of `chunk` control steps.

        The weight is 1 for the `frozen` ones, then falls to 0 (Black et al. 2025, eq. 5).
        """
        k = len(left_over)
        row = torch.arange(chunk, device=left_over.device)
        share = ((k - row) / (k - frozen + 1)).clamp(0.0, 1.0)
        weight = torch.where(row < frozen, 1.0, share * torch.expm1(share) / (math.e - 1.0))
        known = torch.zeros(chunk, left_over.shape[1], device=left_over.device)
        known[:k] = left_over
        return cls(known[None], weight)


GUIDANCE = 5.0
"""Largest weight of the guidance, beta in Black et al. 2025."""


def joined(denoiser: Denoiser, predict: Predict, join: Join | None) -> Predict:
    """Returns a prediction that draws the sample towards what is known: in-painting by guidance.

    At each step the actions predicted so far are compared with the known ones, and the difference
    is led back through the network (pseudo-inverse guidance: Song et al. 2023; for flows and with
    the clipped weight: Black et al. 2025, "Real-time execution of action chunking flow policies").
    """
    if join is None:
        return predict

    def guided(noisy: Tensor, level: Tensor) -> Tensor:
        at = float(level[0])
        share, noise = denoiser.mixture(at)
        time = noise / (share + noise)  # where on a flow's straight path this mixture lies
        gain = min(GUIDANCE * time, ((1 - time) ** 2 + time**2) / max(1 - time, 1e-9))
        with torch.enable_grad():
            x = noisy.detach().requires_grad_()
            actions = denoiser.actions_of(x, predict(x, level), at)
            missing = (join.weight[:, None] * (join.known - actions)).detach()
            (pull,) = torch.autograd.grad(actions, x, missing)
        towards = actions.detach() + gain * (share + noise) * pull
        return denoiser.prediction_of(noisy, towards, at)

    return guided


def make_denoiser(method: str, train_steps: int = 100) -> Denoiser:
    """Returns the noise process of that name.

    Raises:
        LibraError: unknown method.
    """
    if method == "flow":
        return RectifiedFlow()
    if method == "ddpm":
        return DDPM(train_steps)
    raise unknown("denoising method", method, get_args(Method))
