"""Every sampler keeps every promise: order on an exact Gaussian, purity, independence, the caller's loop."""

import math
from inspect import signature

import pytest
import torch

from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from diffuscope.diffusion.samplers import SAMPLERS, TABLE, final
from diffuscope.diffusion.samplers.lms import adams_weights
from refusals import refused

STD = 0.5
LEVELS = (14.6, 6.0, 2.0, 0.7, 0.2, 0.0)
DRAWING = [name for name, info in TABLE.items() if info.noise != "none"]
TWO_CALLS = ("heun", "kdpm2", "kdpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "restart")
LATE = {"lms": 1024, "unipc": 512}
"""Steps from which on the order shows: before, the errors of a higher order hide those of the first steps."""
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


def test_the_runge_kutta_start_keeps_order_four_on_even_levels():
    """Where steps are of one width, as PNDM's weights have it, the errors of Heun's start come to outweigh the rest."""

    def error_on_even_levels(name, steps):
        sigmas = [10.0 - 6.0 * i / steps for i in range(steps + 1)]
        x = torch.full((1, 1, 1, 1), 10.0, dtype=torch.float64)
        exact = 10.0 * math.sqrt((STD**2 + sigmas[-1] ** 2) / (STD**2 + sigmas[0] ** 2))
        return abs(final(SAMPLERS[name](gaussian, x, sigmas)).item() - exact)

    orders = {
        name: math.log2(error_on_even_levels(name, 256) / error_on_even_levels(name, 512))
        for name in ("pndm", "f_pndm")
    }
    assert orders["f_pndm"] == pytest.approx(4, abs=0.05)
    assert orders["pndm"] < 3.7


# DDPM and LCM have no deterministic part of their own: their limit is a distribution, tested by its variance.
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("ddpm", "lcm")])
def test_converges_at_its_order(name):
    options = {"times": 0} if name == "restart" else {"eta": 0.0} if name in DRAWING else {}
    steps = LATE.get(name, 128)
    order = math.log2(error(name, steps, **options) / error(name, 2 * steps, **options))
    assert order == pytest.approx(TABLE[name].order, abs=0.05)


@pytest.mark.parametrize("name", [name for name in DRAWING if not TABLE[name].distilled])
def test_drawing_samplers_end_with_the_variance_of_the_data(name):
    sigmas = [10.0 * (0.01 / 10) ** (i / 200) for i in range(201)]
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(1)) * math.hypot(10, STD)
    sample = final(run(name, x, sigmas))
    assert sample.std().item() == pytest.approx(math.hypot(STD, sigmas[-1]), rel=0.03)
    correlation = torch.corrcoef(torch.stack((sample.flatten(), x.flatten())))[0, 1].item()
    kept = STD / math.hypot(2, STD) if name == "restart" else 0  # what stands at its high level beside fresh noise
    assert correlation == pytest.approx(kept, abs=0.05)


@each_sampler
def test_counts_its_calls(name):
    calls = []

    def counting(x, sigma):
        calls.append(sigma)
        return gaussian(x, sigma)

    steps = list(SAMPLERS[name](counting, start(), LEVELS, noise=PerImageNoise(range(3))))
    assert [step.index for step in steps] == list(range(len(LEVELS) - 1))
    assert [step.sigma for step in steps] == list(LEVELS[1:])
    usual = 2 if name in TWO_CALLS else 1
    further = {"pndm": 1, "f_pndm": 3 * 3, "restart": 4}.get(name, 0)  # restart: from 0.2 back to 2.0
    assert TABLE[name].calls == usual
    assert len(calls) == usual * (len(LEVELS) - 2) + 1 + further  # the step to level 0 has no second call
    assert set(LEVELS[:-1]) <= set(calls)
    assert min(calls) >= LEVELS[-2]


@each_sampler
def test_one_step_works_and_ends_at_the_estimate(name):
    x = start()
    [step] = run(name, x, (LEVELS[0], 0.0))
    assert torch.equal(step.x0, gaussian(x, LEVELS[0]))
    torch.testing.assert_close(step.x, step.x0, rtol=1e-5, atol=1e-6)


@each_sampler
def test_no_levels_is_an_error(name):
    with refused("sigmas"):
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


@pytest.mark.parametrize(
    "sigmas",  # the emoji model's for 4 and 12 steps
    [(4096.0, 5.4, 1.8, 0.7, 0.0), (4096.0, 22.6, 9.5, 5.4, 3.5, 2.4, 1.8, 1.3, 1.0, 0.7, 0.5, 0.3, 0.0)],
    ids=len,
)
@each_sampler
def test_pure_noise_becomes_data(name, sigmas):
    """From an infinite level, of which 4096 takes the place, a step that compares slopes would go anywhere."""
    x = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(1)) * sigmas[0]

    def denoise(x, sigma):
        """Exact for pictures of one brightness, drawn from N(0, 1), and details ~ N(0, STD^2)."""
        mean = x.mean((1, 2, 3), keepdim=True)
        return mean / (1 + sigma**2 / x[0].numel()) + gaussian(x - mean, sigma)

    made = final(SAMPLERS[name](denoise, x, sigmas, noise=PerImageNoise(range(len(x)))))
    brightness = made.mean((1, 2, 3), keepdim=True)
    assert brightness.abs().max() < 3
    assert 0.2 < (made - brightness).std() < 0.75


@pytest.mark.parametrize("name", DRAWING)
def test_drawing_without_noise_is_an_error_at_the_call(name):
    with refused("noise", None):
        SAMPLERS[name](gaussian, start(), LEVELS)


WITH_ETA = [name for name, sampler in SAMPLERS.items() if "eta" in signature(sampler).parameters]
WITH_ORDER = [name for name, sampler in SAMPLERS.items() if "order" in signature(sampler).parameters]
CHURNING = [name for name, sampler in SAMPLERS.items() if "s_churn" in signature(sampler).parameters]


@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", WITH_ETA)
def test_impossible_eta_is_an_error(name, eta):
    with refused("eta"):
        run(name, start(), eta=eta)


@pytest.mark.parametrize("name", WITH_ETA)
def test_eta_zero_needs_no_noise(name):
    alone = final(SAMPLERS[name](gaussian, start(), LEVELS, eta=0.0))
    assert torch.equal(alone, final(run(name, start(), eta=0.0)))  # which is handed noise


@pytest.mark.parametrize("order", [0, 5])
@pytest.mark.parametrize("name", WITH_ORDER)
def test_impossible_order_is_an_error(name, order):
    with refused("order", order):
        run(name, start(), order=order)


@pytest.mark.parametrize("name", [name for name in WITH_ORDER if name != "unipc"])  # which corrects even this
def test_order_one_is_euler(name):
    torch.testing.assert_close(final(run(name, start(), order=1)), final(run("euler", start())), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpmpp_2m", {"solver": "midpont"}),
        ("dpmpp_2m_sde", {"solver": "rk4"}),
        ("unipc", {"variant": "bh3"}),
        ("tcd", {"eta": 1.1}),
        ("restart", {"times": -1}),
        ("restart", {"low": 3.0}),
        ("euler", {"s_churn": -1.0}),
        ("heun", {"s_noise": math.nan}),
    ],
)
def test_impossible_options_are_an_error(name, options):
    (option,) = options
    with refused(option):
        run(name, start(), **options)


@pytest.mark.parametrize("name", CHURNING)
def test_churn_draws_noise_and_keeps_the_variance(name):
    with refused("noise", None):
        SAMPLERS[name](gaussian, start(), LEVELS, s_churn=1.0)
    sigmas = [10.0 * (0.01 / 10) ** (i / 200) for i in range(201)]
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(1)) * math.hypot(10, STD)
    sample = final(run(name, x, sigmas, s_churn=40.0))
    assert sample.std().item() == pytest.approx(math.hypot(STD, sigmas[-1]), rel=0.05)
    assert not torch.equal(sample, final(run(name, x, sigmas)))
    assert torch.equal(final(run(name, x, sigmas, s_churn=40.0, s_tmin=20.0)), final(run(name, x, sigmas)))


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_a_brownian_path_leads_to_one_sample_however_many_steps(name):
    """Strong convergence: with the path of a seed a finer grid changes the sample little, with another path much."""

    def sample(steps, seed):
        sigmas = [10.0 * (0.05 / 10) ** (i / steps) for i in range(steps + 1)]
        x = torch.full((1, 1, 8, 8), 10.0)
        return final(SAMPLERS[name](gaussian, x, sigmas, noise=BrownianNoise([seed], 10.0)))

    finer = (sample(160, 1) - sample(320, 1)).std()
    assert finer < 0.1 * (sample(160, 1) - sample(160, 2)).std()


def test_lcm_samples_the_data_where_the_network_is_a_consistency_function():
    """The exact one of a Gaussian takes each point to the end of its path."""
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(1)) * math.hypot(LEVELS[0], STD)

    def ends(x, sigma):
        return x * (STD / math.hypot(STD, sigma))

    sample = final(SAMPLERS["lcm"](ends, x, LEVELS, noise=PerImageNoise([0])))
    assert sample.std().item() == pytest.approx(STD, rel=0.03)


def test_restart_without_restarts_is_heun():
    assert torch.equal(final(run("restart", start(), times=0)), final(run("heun", start())))


def test_an_assigned_x_is_carried_through_a_group_and_a_correction():
    """Solvers that look back at a group's start, or correct a step afterwards, move by what was assigned."""
    for name in ("dpmpp_2s", "unipc"):
        ends = []
        for shift in (0.0, 1.0, 2.0):
            steps = run(name, start(dtype=torch.float64))
            for step in steps:
                if step.index == 0:
                    step.x = step.x + shift
                last = step.x
            ends.append(last)
        torch.testing.assert_close(ends[2] - ends[1], ends[1] - ends[0])  # the denoiser is linear
        assert (ends[1] - ends[0]).abs().min() > 1e-3


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
