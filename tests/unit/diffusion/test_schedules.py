import math
from itertools import pairwise, product

import pytest
import torch
from scipy.special import betaincinv

from diffuscope.config import SPACINGS, TIME_SPACINGS, ScheduleConfig
from diffuscope.diffusion.samplers import SAMPLERS, TABLE
from diffuscope.diffusion.schedules import Schedule, beta_quantile, img2img_levels
from refusals import refused

SD = Schedule(ScheduleConfig())
SCHEDULES = {name: Schedule(ScheduleConfig(spacing=name)) for name in TIME_SPACINGS}


@pytest.mark.parametrize("betas", ["scaled_linear", "linear", "cosine"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_tables_rise_and_are_float64(betas, zero_snr):
    schedule = Schedule(ScheduleConfig(betas=betas, zero_snr=zero_snr))
    assert schedule.sigmas.shape == (1000,)
    assert schedule.sigmas.dtype == schedule.alphas_cumprod.dtype == torch.float64
    assert (schedule.sigmas.diff() > 0).all()
    torch.testing.assert_close(schedule.alphas_cumprod, 1 / (schedule.sigmas**2 + 1), rtol=1e-12, atol=0)


def test_zero_snr_keeps_the_first_level_and_ends_at_4096():
    zero = Schedule(ScheduleConfig(zero_snr=True))
    assert zero.sigmas[0].item() == pytest.approx(SD.sigmas[0].item(), rel=1e-12)
    assert zero.sigmas[-1].item() == pytest.approx(4096, rel=1e-6)
    assert zero.sigmas[-2] < 4096 / 1.5


def test_a_given_table_is_followed():
    table = SD.alphas_cumprod.float()
    assert torch.equal(Schedule(ScheduleConfig(), table).alphas_cumprod, table.double())
    with refused("alphas_cumprod"):
        Schedule(ScheduleConfig(), table[:10])


@pytest.mark.parametrize("time", [0, 1, 17, 500, 998, 999])
def test_time_and_sigma_invert_each_other_at_whole_times(time):
    assert SD.t_to_sigma(time) == SD.sigmas[time].item()
    assert SD.sigma_to_t(SD.t_to_sigma(time)) == pytest.approx(time, abs=1e-9)


@pytest.mark.parametrize("time", [0.5, 1.5, 100.25, 927.6429])
def test_between_whole_times_the_interpolations_nearly_agree(time):
    assert SD.sigma_to_t(SD.t_to_sigma(time)) == pytest.approx(time, abs=0.05)


def test_time_is_clamped_to_the_trained_range():
    assert SD.sigma_to_t(0.0) == SD.sigma_to_t(1e-3) == 0
    assert SD.sigma_to_t(1e3) == 999


@pytest.mark.parametrize("time", [-1, 999.5, math.nan])
def test_sigma_outside_the_trained_range_is_an_error(time):
    with refused("t"):
        SD.t_to_sigma(time)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("trained", TIME_SPACINGS)
def test_levels_are_a_path(sampler, trained):
    info = TABLE[sampler]
    for spacing, steps in product(SPACINGS, (1, 2, 3, 7, 30, 61, 100, 499)):
        steps = min(steps, 50) if info.distilled else steps
        levels = SCHEDULES[trained].levels(steps, sampler=sampler, sigmas=spacing, final_sigma="zero")
        assert len(levels.sigmas) == len(levels.timesteps) == steps + 1
        assert all(a > b for a, b in pairwise(levels.sigmas))
        assert all(a >= b for a, b in pairwise(levels.timesteps))
        assert levels.sigmas[-1] == levels.timesteps[-1] == 0
        assert levels.end_scale == 1
        times_like = spacing if spacing in TIME_SPACINGS else info.spacing or trained
        unit = info.variance_preserving or times_like == "leading"
        assert levels.start_scale == (math.hypot(1, levels.sigmas[0]) if unit else levels.sigmas[0])


def test_trailing_starts_at_the_last_time():
    for sampler in SAMPLERS:
        if TABLE[sampler].spacing is None and not TABLE[sampler].distilled:
            assert SCHEDULES["trailing"].levels(4, sampler=sampler).timesteps == (999, 749, 499, 249, 0)
        assert SD.levels(4, sampler=sampler, sigmas="trailing").timesteps == (999, 749, 499, 249, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_run_can_end_at_the_lowest_trained_level(sampler):
    unit = TABLE[sampler].variance_preserving
    for spacing, steps in product(SPACINGS, (1, 2, 7, 49)):
        levels = SCHEDULES["linspace"].levels(steps, sampler=sampler, sigmas=spacing, final_sigma="sigma_min")
        assert len(levels.sigmas) == steps + 1
        assert levels.sigmas[-1] == pytest.approx(SD.sigmas[0].item(), rel=1e-9)
        assert all(a > b for a, b in pairwise(levels.sigmas))
        assert levels.end_scale == pytest.approx(1 / math.hypot(1, levels.sigmas[-1]) if unit else 1)


@pytest.mark.parametrize("sampler", ["deis", "tcd"])
def test_some_end_at_the_lowest_trained_level_by_themselves(sampler):
    assert SD.levels(9, sampler=sampler) == SD.levels(9, sampler=sampler, final_sigma="sigma_min")
    assert SD.levels(9, sampler=sampler).timesteps[-1] == 0


@pytest.mark.parametrize("spacing", TIME_SPACINGS)
def test_a_spacing_of_times_overrides_the_model(spacing):
    assert SD.levels(9, sigmas=spacing) == SCHEDULES[spacing].levels(9)


def test_beta_has_more_levels_at_both_ends():
    sigmas = SCHEDULES["linspace"].levels(11, sigmas="beta").sigmas
    low, high = SD.sigmas[0].item(), SD.sigmas[-1].item()
    assert (sigmas[0], sigmas[-2]) == pytest.approx((high, low))
    assert sigmas[5] == pytest.approx((low + high) / 2)
    assert sigmas[0] - sigmas[1] < (high - low) / 10 > sigmas[-3] - sigmas[-2]


@pytest.mark.parametrize("shape", [0.4, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("share", [0, 1e-9, 0.01, 0.2, 0.5, 0.83, 1])
def test_quantiles_of_the_beta_distribution(share, shape):
    assert beta_quantile(share, shape) == pytest.approx(betaincinv(shape, shape, share), rel=1e-9, abs=1e-14)


def test_sgm_uniform_is_even_in_time_and_stops_short():
    levels = SD.levels(4, sigmas="sgm_uniform")
    assert levels.timesteps == (999, 749.25, 499.5, 249.75, 0)
    assert [SD.sigma_to_t(sigma) for sigma in levels.sigmas] == pytest.approx(levels.timesteps)


def test_a_distilled_network_knows_fifty_times():
    assert SD.levels(4, sampler="lcm").timesteps == (999, 759, 499, 259, 0)
    assert len(SD.levels(50, sampler="lcm").timesteps) == 51
    assert len(SD.levels(60, sampler="lcm", sigmas="karras").timesteps) == 61


def test_exponential_is_even_in_log_sigma():
    sigmas = SD.levels(9, sampler="dpmpp_2m", sigmas="exponential").sigmas
    ratios = [b / a for a, b in pairwise(sigmas[:-1])]
    assert ratios == pytest.approx([ratios[0]] * 8)
    assert (sigmas[0], sigmas[-2]) == pytest.approx((SD.sigmas[-1].item(), SD.sigmas[0].item()))


def test_a_fused_name_sets_the_spacing():
    assert SD.levels(9, sampler="DPM++ 2M Karras") == SD.levels(9, sampler="dpmpp_2m", sigmas="karras")


@pytest.mark.parametrize("steps", [None, 3])
def test_given_levels(steps):
    levels = SD.levels(steps, sampler="ddim", sigmas=[10, 3.0, 1, 0.5])
    assert levels.sigmas == (10.0, 3.0, 1.0, 0.5)
    assert levels.timesteps == tuple(SD.sigma_to_t(sigma) for sigma in levels.sigmas)
    assert levels.end_scale == pytest.approx(1 / math.sqrt(1.25))
    assert SD.levels(steps, sigmas=[10, 3.0, 1, 0.5]).end_scale == 1


@pytest.mark.parametrize(
    ("steps", "options", "argument"),
    [
        *((steps, {}, "num_inference_steps") for steps in (0, -3, 1001, None, 1000)),
        (1000, {"sampler": "dpmpp_2m"}, "num_inference_steps"),
        (51, {"sampler": "lcm"}, "num_inference_steps"),
        (1000, {"sigmas": "trailing", "final_sigma": "sigma_min"}, "num_inference_steps"),
        (3, {"sigmas": [2.0, 1.0]}, "num_inference_steps"),
        (20, {"sigmas": "karas"}, "sigmas"),
        (20, {"final_sigma": "one"}, "final_sigma"),
        (None, {"sigmas": [2.0, 1.0], "final_sigma": "zero"}, "final_sigma"),
        (20, {"sampler": "eulr"}, "sampler"),
        *((None, {"sigmas": given}, "sigmas") for given in ([1.0], [], [1.0, 2.0], [1.0, 1.0], [1.0, -0.1])),
        *((None, {"sigmas": given}, "sigmas") for given in ([math.inf, 1.0], [1.0, math.nan])),
    ],
)
def test_impossible_levels_are_an_error(steps, options, argument):
    with refused(argument, options.get(argument, steps)):
        SD.levels(steps, **options)


@pytest.mark.parametrize(("strength", "kept"), [(1.0, 50), (0.8, 40), (0.58, 28), (0.02, 1)])
def test_img2img_keeps_the_last_steps(strength, kept):
    levels = SD.levels(50, sampler="ddim")
    short = img2img_levels(levels, strength)
    assert short.sigmas == levels.sigmas[50 - kept :]
    assert short.timesteps == levels.timesteps[50 - kept :]
    assert short.start_scale == short.sigmas[0]
    assert (short.end_scale, short.log_sigmas) == (levels.end_scale, levels.log_sigmas)


@pytest.mark.parametrize("strength", [0, -0.1, 1.01, math.nan, 0.01])
def test_impossible_strength_is_an_error(strength):
    with refused("strength"):
        img2img_levels(SD.levels(50), strength)
