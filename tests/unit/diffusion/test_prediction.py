import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser, scale_input, training_target, x0_from
from diffuscope.diffusion.schedules import Schedule

KINDS = ("epsilon", "v", "x0")
SIGMAS = (0.0292, 1.0, 14.6, 4096.0)
X0, NOISE = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_training_target_gives_back_the_clean_latents(kind, sigma):
    x0, noise = X0.double(), NOISE.double()
    x = x0 + sigma * noise
    torch.testing.assert_close(
        x0_from(kind, training_target(kind, x0, noise, sigma), x, sigma), x0, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("kind", KINDS)
def test_sigma_may_be_one_per_image(kind):
    sigma = torch.tensor([0.5, 4096.0, 14.0]).view(3, 1, 1, 1)
    x = X0 + sigma * NOISE
    target = training_target(kind, X0, NOISE, sigma)
    x0 = x0_from(kind, target, x, sigma)
    for i, each in enumerate(sigma.flatten().tolist()):
        torch.testing.assert_close(target[i], training_target(kind, X0[i], NOISE[i], each))
        torch.testing.assert_close(x0[i], x0_from(kind, target[i], x[i], each))
        torch.testing.assert_close(scale_input(x, sigma)[i], scale_input(x[i], each))


def test_v_does_not_cancel_at_zero_terminal_snr():
    """Where all signal is gone v is minus the clean latents, to float32's own precision."""
    x = X0 + 4096.0 * NOISE
    torch.testing.assert_close(x0_from("v", -X0, x, 4096.0), X0 + NOISE / 4096, rtol=1e-5, atol=1e-6)


def test_the_network_sees_unit_variance():
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0)) * 4096
    assert scale_input(x, 4096.0).std().item() == pytest.approx(1, abs=0.02)


def test_the_network_is_told_the_exact_time_and_the_scaled_latents():
    schedule = Schedule(ScheduleConfig(spacing="linspace"))
    levels = schedule.levels(15)
    seen = []

    def predict(x, time):
        seen.append((x, time))
        return torch.zeros_like(x, dtype=torch.bfloat16)

    denoise = denoiser(predict, levels, "epsilon")
    for sigma in levels.sigmas[:-1]:
        assert denoise(X0, sigma).dtype == torch.float32
    assert [time.item() for _, time in seen] == pytest.approx(levels.timesteps[:-1], rel=1e-6)
    assert all(time.shape == () and time.dtype == torch.float32 for _, time in seen)
    assert torch.equal(seen[3][0], scale_input(X0, levels.sigmas[3]))
    between = 2.345
    denoise(X0.double(), between)
    assert seen[-1][1].dtype == torch.float64
    assert seen[-1][1].item() == schedule.sigma_to_t(between)
