"""On Gaussian data every trajectory is known: a latent keeps its place among all latents of its angle."""

import math

import pytest
import torch

from diffuscope.diffusion.prediction import training_target, x0_from
from diffuscope.distill import objectives as o

# Forward-mode derivatives load torch's decompositions, which torch itself compiles with what it deprecates.
pytestmark = pytest.mark.filterwarnings("default:.torch.jit.script. is deprecated:DeprecationWarning")

SPREAD = 0.5
"""Standard deviation of the data, in every dimension."""


def variance(phi):
    return (phi.cos() * SPREAD) ** 2 + phi.sin() ** 2


def velocity(z, phi):
    """The v-prediction of a perfect network: E[noise cos - x0 sin | z]."""
    return z * phi.sin() * phi.cos() * (1 - SPREAD**2) / variance(phi)


def lowered(z, phi, end):
    """Where the trajectory through ``z`` is at ``end``."""
    return z * (variance(end) / variance(phi)).sqrt()


def flow_map(z, phi, end):
    span = phi - end
    near = span.abs() < 1e-9
    return torch.where(near, velocity(z, phi), o.velocity_between(z, lowered(z, phi, end), span.where(~near, span + 1)))


@pytest.fixture
def z():
    return torch.randn(6, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def angles(*values):
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


ALONG = angles(0.1, 0.4, 0.7, 1.0, 1.3, math.pi / 2)


def test_velocity_and_clean_latents_are_those_of_the_v_prediction(z):
    noise = torch.randn_like(z)
    sigma = angles(0.01, 0.3, 1.0, 4.0, 90.0, 4096.0)
    phi = o.angle_of(sigma)
    noisy = phi.cos() * z + phi.sin() * noise
    v = training_target("v", z, noise, sigma)
    torch.testing.assert_close(v, phi.cos() * noise - phi.sin() * z)
    torch.testing.assert_close(o.rotate(noisy, v, phi), z)
    torch.testing.assert_close(o.rotate(noisy, v, phi), x0_from("v", v, noisy / phi.cos(), sigma))


def test_a_rotation_keeps_to_the_plane_of_x0_and_noise(z):
    """With the true velocity of one pair, a step of any length ends exactly on its circle."""
    noise = torch.randn_like(z)
    end = ALONG / 3
    at = ALONG.cos() * z + ALONG.sin() * noise
    v = ALONG.cos() * noise - ALONG.sin() * z
    lower = o.rotate(at, v, ALONG - end)
    torch.testing.assert_close(lower, end.cos() * z + end.sin() * noise)
    torch.testing.assert_close(o.velocity_between(at, lower, ALONG - end), v)


def test_guidance_leads_away_from_the_unconditional(z):
    torch.testing.assert_close(o.guided(z, torch.zeros_like(z), 2.5), 2.5 * z)
    torch.testing.assert_close(o.guided(z, torch.ones_like(z), 1.0), z)


def test_two_steps_in_one_end_where_the_two_ended(z):
    phis = (ALONG, ALONG / 2, torch.zeros_like(ALONG))
    target = o.several_steps(velocity, z, phis)
    states = o.sample(velocity, z, phis)
    torch.testing.assert_close(o.rotate(z, target, ALONG), states[-1])
    one = o.several_steps(velocity, z, (ALONG, ALONG / 2))
    torch.testing.assert_close(one, velocity(z, ALONG))


def test_two_steps_in_one_is_the_target_of_the_paper(z):
    """Salimans & Ho 2022, algorithm 2: x = (z'' - (sigma''/sigma) z) / (alpha'' - (sigma''/sigma) alpha)."""
    end = ALONG / 4
    phis = (ALONG, ALONG / 2, end)
    lower = o.sample(velocity, z, phis)[-1]
    share = end.sin() / ALONG.sin()
    x = (lower - share * z) / (end.cos() - share * ALONG.cos())
    torch.testing.assert_close(o.rotate(z, o.several_steps(velocity, z, phis), ALONG), x)


def test_many_steps_in_one_approach_the_trajectory(z):
    end = ALONG / 4
    errors = []
    for count in (4, 8, 16):
        phis = [ALONG + (end - ALONG) * i / count for i in range(count + 1)]
        lower = o.rotate(z, o.several_steps(velocity, z, phis), ALONG - end)
        errors.append((lower - lowered(z, ALONG, end)).abs().max())
    assert errors[2] < 0.6 * errors[1] < 0.4 * errors[0]
    assert errors[2] < 0.05


def test_weights_are_those_of_the_error_of_x0():
    phi = ALONG
    snr = (phi.cos() / phi.sin()).square()
    error_of_x0 = phi.sin().square()
    torch.testing.assert_close(o.loss_weight(phi, "snr+1"), (snr + 1) * error_of_x0)
    torch.testing.assert_close(o.loss_weight(phi, "truncated"), snr.clamp(min=1) * error_of_x0)


def test_half_steps_of_the_true_flow_map_are_its_whole_step(z):
    end = ALONG / 3
    torch.testing.assert_close(o.shortcut_target(flow_map, z, ALONG, end), flow_map(z, ALONG, end))


@pytest.mark.parametrize("step", [0.0, 1e-4])
@pytest.mark.parametrize("end", [0.0, 0.5])
def test_the_true_flow_map_is_a_fixed_point(z, end, step):
    """And another map is not."""
    end = ALONG * end
    u = velocity(z, ALONG)
    target = o.flow_map_target(flow_map, u, z, ALONG, end, step=step)
    torch.testing.assert_close(target, flow_map(z, ALONG, end), rtol=1e-6, atol=1e-6)
    wrong = o.flow_map_target(lambda z, phi, end: flow_map(z, phi, end) + 0.1 * phi * z, u, z, ALONG, end, step=step)
    assert ((wrong - flow_map(z, ALONG, end) - 0.1 * ALONG * z).abs().mean((1, 2, 3)) > 0.05).all()


def test_the_derivatives_agree(z):
    def crooked(z, phi, end):
        return (z * phi.cos() + z.flip(1) * end.sin()).tanh()

    u, end = velocity(z, ALONG), ALONG / 3
    exact = o.flow_map_target(crooked, u, z, ALONG, end, ratio=0.7)
    difference = o.flow_map_target(crooked, u, z, ALONG, end, ratio=0.7, step=1e-4)
    torch.testing.assert_close(exact, difference, rtol=1e-5, atol=1e-5)


def test_without_a_span_a_flow_map_moves_towards_the_velocity(z):
    u = velocity(z, ALONG)
    target = o.flow_map_target(lambda z, *_: torch.zeros_like(z), u, z, ALONG, ALONG)
    length = u.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(target, u / (length + 0.1))


def test_matching_moves_a_distribution_onto_the_other():
    """Gaussians: the student's samples have another mean and spread than the teacher's; descent makes them equal."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(512, 1, 1, 1, dtype=torch.float64, generator=generator)
    mean, spread = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    phi = torch.tensor(0.8, dtype=torch.float64)

    def estimate(at, mean, spread):
        gain = phi.cos() * spread**2 / ((phi.cos() * spread) ** 2 + phi.sin() ** 2)
        return mean + gain * (at - phi.cos() * mean)

    for _ in range(400):
        x0 = mean + spread * noise
        at = phi.cos() * x0 + phi.sin() * torch.randn(x0.shape, dtype=torch.float64, generator=generator)
        own = estimate(at, x0.mean(), x0.std())
        direction = o.matching_direction(x0, own, estimate(at, 1.0, torch.tensor(0.5, dtype=torch.float64)))
        mean = mean + 0.05 * direction.mean()
        spread = spread + 0.05 * (direction * noise).mean()
    assert mean.item() == pytest.approx(1.0, abs=0.1)
    assert abs(spread.item()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_the_true_flow_map_is_consistent(z, part):
    """With a solver step of no length or along the true trajectory, and only then."""
    after = ALONG * part
    u = o.velocity_between(z, lowered(z, ALONG, after), ALONG - after)
    end = torch.zeros_like(ALONG)
    torch.testing.assert_close(o.consistency_target(flow_map, u, z, ALONG, after), flow_map(z, ALONG, end))
    wrong = o.consistency_target(flow_map, u + 0.5, z, ALONG, after)
    assert (part == 0.999) == torch.allclose(wrong, flow_map(z, ALONG, end), atol=1e-2)


@pytest.mark.parametrize("order", [1, 2])
def test_a_runs_error_falls_with_the_order_of_its_steps(z, order):
    def error(steps):
        # Unequal spans too, as those of a schedule are.
        phis = list((torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 1.2 * 1.5).unbind())
        end = o.sample(velocity, z, phis, order)[-1]
        return (end - lowered(z, phis[0], phis[-1])).abs().max().item()

    rate = math.log2(error(40) / error(80))
    assert abs(rate - order) < 0.15
