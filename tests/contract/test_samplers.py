"""Every sampler keeps every promise: order on an exact Gaussian, purity, independence, the caller's loop."""

import math

import pytest
import torch

from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS, TABLE, final
from diffuscope.diffusion.samplers.lms import adams_weights
from diffuscope.errors import InputError

STD = 0.5
LEVELS = (14.6, 6.0, 2.0, 0.7, 0.2, 0.0)
DRAWING = [name for name, info in TABLE.items() if info.draws_noise]
each_sampler = pytest.mark.parametrize("name", SAMPLERS)


def gaussian(x, sigma):
    """Exact denoiser for data ~ N(0, STD^2)."""
    return x * STD**2 / (STD**2 + sigma**2)


def run(name, x, sigmas=LEVELS, seeds=None, **options):
    noise = PerImageNoise(range(len(x)) if seeds is None else seeds)
    return SAMPLERS[name](gaussian, x, sigmas, noise=noise, **options)


def start(images=3, dtype=torch.float32):
    return torch.randn(images, 2, 3, 4, generator=torch.Generator().manual_seed(7), dtype=dtype) * LEVELS[0]


def error(name, steps, **options):
    """Distance from the exact solution of the probability-flow equation, levels even in log sigma."""
    sigmas = [10.0 * (0.1 / 10) ** (i / steps) for i in range(steps + 1)]
    x = torch.full((1, 1, 1, 1), 10.0, dtype=torch.float64)
    exact = 10.0 * math.sqrt((STD**2 + sigmas[-1] ** 2) / (STD**2 + sigmas[0] ** 2))
    return abs(final(SAMPLERS[name](gaussian, x, sigmas, **options)).item() - exact)


def test_table_and_samplers_name_the_same():
    assert list(SAMPLERS) == list(TABLE)


# DDPM has no deterministic part of its own: its limit is a distribution, tested by its variance.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "ddpm"])
def test_converges_at_its_order(name):
    options = {"eta": 0.0} if name == "euler_ancestral" else {}
    steps = 1024 if name == "lms" else 128  # before that, the error of order 4 hides that of the first step
    order = math.log2(error(name, steps, **options) / error(name, 2 * steps, **options))
    assert order == pytest.approx(TABLE[name].order, abs=0.05)


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_samplers_end_with_the_variance_of_the_data(name):
    sigmas = [10.0 * (0.01 / 10) ** (i / 200) for i in range(201)]
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(1)) * math.hypot(10, STD)
    sample = final(run(name, x, sigmas))
    assert sample.std().item() == pytest.approx(math.hypot(STD, sigmas[-1]), rel=0.03)
    correlation = torch.corrcoef(torch.stack((sample.flatten(), x.flatten())))[0, 1].item()
    assert correlation == pytest.approx(0, abs=0.05)  # the start noise is replaced, not kept


@each_sampler
def test_counts_its_calls(name):
    calls = []

    def counting(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    steps = list(SAMPLERS[name](counting, start(), LEVELS, noise=PerImageNoise(range(3))))
    assert [step.index for step in steps] == list(range(len(LEVELS) - 1))
    assert [step.sigma for step in steps] == list(LEVELS[1:])
    to_zero = 1  # the step to level 0 has no second call
    assert len(calls) == TABLE[name].calls * (len(LEVELS) - 1 - to_zero) + to_zero
    assert set(calls) == set(LEVELS[:-1])


@each_sampler
def test_one_step_works_and_ends_at_the_estimate(name):
    x = start()
    [step] = run(name, x, (LEVELS[0], 0.0))
    assert torch.equal(step.x0, gaussian(x, LEVELS[0]))
    torch.testing.assert_close(step.x, step.x0, rtol=1e-5, atol=1e-6)


@each_sampler
def test_no_levels_is_an_error(name):
    with pytest.raises(InputError, match="at least two noise levels"):
        final(run(name, start(), (1.0,)))


@each_sampler
def test_does_not_touch_input_levels_or_global_generator(name):
    x, sigmas = start(), list(LEVELS)
    before, state = x.clone(), torch.get_rng_state()
    final(run(name, x, sigmas))
    assert torch.equal(x, before)
    assert sigmas == list(LEVELS)
    assert torch.equal(torch.get_rng_state(), state)


@each_sampler
def test_same_seed_same_bytes(name):
    assert torch.equal(final(run(name, start())), final(run(name, start())))


@pytest.mark.parametrize("name", DRAWING)
def test_another_seed_another_sample(name):
    assert not torch.equal(final(run(name, start())), final(run(name, start(), seeds=[3, 4, 5])))


@each_sampler
def test_image_does_not_depend_on_batch_mates(name):
    x = start()
    together = final(run(name, x, seeds=[5, 6, 7]))
    assert torch.equal(final(run(name, x[1:2], seeds=[6])), together[1:2])


@each_sampler
def test_two_runs_can_be_interleaved(name):
    """A sampler keeps no state outside its generator."""
    pairs = list(zip(run(name, start()), run(name, start()), strict=True))
    assert torch.equal(pairs[-1][0].x, pairs[-1][1].x)
    assert torch.equal(pairs[-1][0].x, final(run(name, start())))


@each_sampler
def test_continues_from_an_assigned_x(name):
    """The next estimate is computed from what the caller left in ``step.x``."""
    replaced = torch.full((3, 2, 3, 4), 4.0)
    for step in run(name, start()):
        if step.index == 1:
            step.x = replaced
        if step.index == 2:
            assert torch.equal(step.x0, gaussian(replaced, LEVELS[2]))
            return
    pytest.fail("the sampler stopped early")


@each_sampler
def test_yielded_values_stay_as_they_were(name):
    kept = [(step, step.x.clone(), step.x0.clone()) for step in run(name, start())]
    assert all(torch.equal(step.x, x) and torch.equal(step.x0, x0) for step, x, x0 in kept)


@each_sampler
def test_float32_holds_at_zero_terminal_snr(name):
    """From sigma 4096 the result in float32 is that of float64."""
    sigmas = (4096.0, 90.0, 20.0, 5.0, 1.0, 0.3, 0.0)
    x = start() * (4096 / LEVELS[0])
    single = final(run(name, x, sigmas)).double()
    double = final(run(name, x.double(), sigmas))
    assert (single - double).abs().max() <= 1e-4 * double.abs().max()


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_without_noise_is_an_error_at_the_call(name):
    with pytest.raises(InputError, match="pass noise"):
        SAMPLERS[name](gaussian, start(), LEVELS)


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_impossible_eta_is_an_error(eta):
    with pytest.raises(InputError, match="eta"):
        SAMPLERS["ddim"](gaussian, start(), LEVELS, eta=eta)


@pytest.mark.parametrize("order", [0, 5])
def test_impossible_order_is_an_error(order):
    with pytest.raises(InputError, match="order"):
        SAMPLERS["lms"](gaussian, start(), LEVELS, order=order)


def test_ddpm_is_ddim_and_euler_ancestral_at_eta_one():
    ddpm = final(run("ddpm", start()))
    assert torch.equal(ddpm, final(run("ddim", start(), eta=1.0)))
    assert torch.equal(ddpm, final(run("euler_ancestral", start(), eta=1.0)))


def test_without_fresh_noise_they_are_euler():
    euler = final(run("euler", start()))
    assert torch.equal(euler, final(run("ddim", start())))
    assert torch.equal(euler, final(run("euler_ancestral", start(), eta=0.0)))
    torch.testing.assert_close(euler, final(run("lms", start(), order=1)))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_adams_weights_integrate_polynomials(count):
    """Exactly those of degree below the number of nodes."""
    nodes, end = [9.0, 11.0, 14.0, 14.6][:count], 7.5
    weights = adams_weights(nodes, end)
    for power in range(count):
        exact = (end ** (power + 1) - nodes[0] ** (power + 1)) / (power + 1)
        assert sum(w * n**power for w, n in zip(weights, nodes, strict=True)) == pytest.approx(exact)
