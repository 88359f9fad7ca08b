"""Both noise processes, against closed forms and against diffusers' schedulers."""

import pytest
import torch
from torch import Tensor

from libra_vla.errors import LibraError
from libra_vla.policies.denoising import DDPM, Join, RectifiedFlow, joined, make_denoiser

SHAPE = (4, 5, 7)


def normal(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def a_network(noisy: Tensor, level: Tensor) -> Tensor:
    """Some smooth function of both inputs that is no perfect predictor."""
    return 0.9 * noisy + 0.2 * torch.sin(3.0 * noisy + 5.0 * level[:, None, None])


def test_flow_corrupts_along_a_straight_line():
    actions = normal(0).tanh()
    noisy, level, velocity = RectifiedFlow().corrupt(actions, torch.Generator().manual_seed(1))
    t = level[:, None, None]
    assert ((level >= 0) & (level < 1)).all()
    assert torch.allclose(noisy - t * velocity, actions, atol=1e-6)
    assert torch.allclose(noisy + (1 - t) * velocity - actions, velocity, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_flow_with_the_true_velocity_arrives_at_the_action(steps: int):
    actions, noise = normal(0).tanh(), normal(1)
    sampled = RectifiedFlow().sample(lambda x, level: noise - actions, noise, steps)
    assert torch.allclose(sampled, actions, atol=1e-6)


def test_flow_in_one_step_is_the_noise_minus_its_velocity():
    noise = normal(1)
    sampled = RectifiedFlow().sample(a_network, noise, 1)
    assert torch.equal(sampled, noise - a_network(noise, torch.ones(len(noise))))


def test_ddpm_corrupts_with_unit_variance_and_returns_its_noise():
    ddpm, actions = DDPM(100), normal(0).tanh()
    noisy, level, noise = ddpm.corrupt(actions, torch.Generator().manual_seed(1))
    step = (level * 100).round().long()
    signal = ddpm.signal[step][:, None, None]
    assert torch.allclose(noisy, signal.sqrt() * actions + (1 - signal).sqrt() * noise)
    assert torch.allclose(level, step / 100), "a level the sampler will ask for"
    assert (ddpm.signal.diff() < 0).all() and ddpm.signal[0] > 0.99 and ddpm.signal[-1] < 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 10, 100])
def test_ddpm_with_a_perfect_predictor_recovers_the_action(steps: int, eta: float):
    ddpm, actions = DDPM(100, eta=eta), normal(0).tanh()

    def perfect(noisy: Tensor, level: Tensor) -> Tensor:
        signal = ddpm.signal[(level * 100).round().long()][:, None, None]
        return (noisy - signal.sqrt() * actions) / (1 - signal).sqrt()

    assert torch.allclose(ddpm.sample(perfect, normal(1), steps), actions, atol=1e-4)


def test_ddpm_stays_within_the_action_range():
    assert DDPM(100).sample(a_network, 5.0 * normal(1), 10).abs().max() <= 1.0


@pytest.mark.parametrize("steps", [0, 101])
def test_ddpm_refuses_more_steps_than_it_was_trained_with(steps: int):
    with pytest.raises(LibraError, match="expected 1 to 100"):
        DDPM(100).sample(a_network, normal(1), steps)


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(LibraError, match="did you mean 'ddpm'"):
        make_denoiser("ddmp")


def test_a_model_on_the_meta_device_keeps_its_schedule():
    with torch.device("meta"):
        assert not DDPM(100).signal.is_meta


def test_the_weight_of_left_over_actions_falls_from_one_to_nothing():
    join = Join.onto(torch.ones(4, 7), frozen=2, chunk=6)
    share = torch.tensor([2 / 3, 1 / 3])
    expected = share * (share.exp() - 1) / (torch.e - 1)
    assert torch.allclose(join.weight, torch.tensor([1.0, 1.0, *expected, 0.0, 0.0]))
    assert join.known.shape == (1, 6, 7) and (join.known[0, 4:] == 0).all()


@pytest.mark.parametrize("denoiser", [RectifiedFlow(), DDPM(100)])
@pytest.mark.parametrize("level", [0.25, 0.5, 0.75])
def test_a_prediction_and_the_actions_it_amounts_to(denoiser, level: float):
    noisy, prediction = normal(0), normal(1)
    actions = denoiser.actions_of(noisy, prediction, level)
    assert torch.allclose(denoiser.prediction_of(noisy, actions, level), prediction, atol=1e-4)
    share, noise = denoiser.mixture(level)
    true = normal(2)
    mixed = share * true + noise * prediction
    target = prediction - true if isinstance(denoiser, RectifiedFlow) else prediction
    assert torch.allclose(denoiser.actions_of(mixed, target, level), true, atol=1e-4)


@pytest.mark.parametrize(("denoiser", "steps"), [(RectifiedFlow(), 5), (DDPM(100), 10)])
def test_inpainting_keeps_what_is_settled_and_goes_on_from_there(denoiser, steps: int):
    """Chunks that change slowly: Gaussian, so that the best prediction is known exactly."""
    row = torch.arange(6)
    covariance = 0.2 * torch.exp(-(row[:, None] - row).abs() / 6.0)

    def predict(noisy: Tensor, level: Tensor) -> Tensor:
        share, noise = denoiser.mixture(float(level[0]))
        mixed = share**2 * covariance + noise**2 * torch.eye(6)
        believed = share * covariance @ torch.linalg.solve(mixed, noisy)
        return denoiser.prediction_of(noisy, believed, float(level[0]))

    noise = torch.randn((200, 6, 1), generator=torch.Generator().manual_seed(0))
    join = Join.onto(torch.full((3, 1), 0.8), frozen=2, chunk=6)
    free = denoiser.sample(predict, noise, steps)
    held = denoiser.sample(joined(denoiser, predict, join), noise, steps)
    off = [(s[:, :2] - 0.8).abs().mean() for s in (free, held)]
    assert off[1] < 0.15 * off[0], "what is settled is kept"
    jump = [(s[:, 2] - 0.8).abs().mean() for s in (free, held)]
    assert jump[1] < 0.5 * jump[0], "and the rest begins there"
    assert joined(denoiser, predict, None) is predict


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


class TestAgainstDiffusers:
    """The reference implementation, run side by side with the same network and noise."""

    SCHEDULE = {  # noqa: RUF012
        "num_train_timesteps": 100,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "epsilon",
        "clip_sample": True,
    }

    def test_the_noise_schedule(self, diffusers):
        reference = diffusers.DDPMScheduler(**self.SCHEDULE)
        signal = DDPM(100).signal
        assert torch.allclose(reference.alphas_cumprod, signal, rtol=1e-3, atol=1e-7)
        step, actions, noise = torch.tensor([0, 40, 70, 99]), normal(0).tanh(), normal(1)
        level = signal[step][:, None, None]
        ours = level.sqrt() * actions + (1 - level).sqrt() * noise
        assert torch.allclose(reference.add_noise(actions, noise, step), ours, atol=1e-5)

    @pytest.mark.parametrize("steps", [1, 4, 7, 10, 100])
    def test_ddim(self, diffusers, steps: int):
        reference = diffusers.DDIMScheduler(**self.SCHEDULE)
        reference.set_timesteps(steps)
        x = normal(1)
        for t in reference.timesteps:
            predicted = a_network(x, torch.full((len(x),), t.item() / 100))
            x = reference.step(predicted, t, x, use_clipped_model_output=True).prev_sample
        assert torch.allclose(DDPM(100).sample(a_network, normal(1), steps), x, atol=1e-3)

    def test_ddpm_ancestral_sampling(self, diffusers):
        """Every step has the reference's mean and variance; noise is drawn in the same order."""
        reference = diffusers.DDPMScheduler(**self.SCHEDULE, variance_type="fixed_small")
        reference.set_timesteps(100)
        x, generator = normal(1), torch.Generator().manual_seed(7)
        for t in reference.timesteps:
            predicted = a_network(x, torch.full((len(x),), t.item() / 100))
            x = reference.step(predicted, t, x, generator=generator).prev_sample
        ours = DDPM(100, eta=1.0).sample(
            a_network, normal(1), 100, generator=torch.Generator().manual_seed(7)
        )
        assert torch.allclose(ours, x, atol=1e-3)

    @pytest.mark.parametrize("steps", [1, 4, 10])
    def test_rectified_flow(self, diffusers, steps: int):
        reference = diffusers.FlowMatchEulerDiscreteScheduler()
        reference.set_timesteps(sigmas=torch.linspace(1.0, 0.0, steps + 1)[:-1].tolist())
        x = normal(1)
        for t in reference.timesteps:
            level = torch.full((len(x),), t.item() / reference.config.num_train_timesteps)
            x = reference.step(a_network(x, level), t, x).prev_sample
        ours = RectifiedFlow().sample(a_network, normal(1), steps)
        assert torch.allclose(ours, x, atol=1e-5)
