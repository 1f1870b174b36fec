"""Evidence that the references do what ``quirks.py`` says, and that ours does what it says there."""

from itertools import pairwise

import diffusers
import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser, x0_from
from diffuscope.diffusion.samplers import SAMPLERS, TABLE, final
from diffuscope.diffusion.schedules import Schedule, img2img_levels
from parity import k_diffusion, test_quirks_of_defaults
from parity.quirks import QUIRKS
from parity.schedulers import (
    RAMPS,
    REFERENCES,
    compare,
    draws,
    feed_noise,
    network,
    reference,
    sd,
    their_run,
)
from refusals import refused

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the reference's own


def test_every_quirk_has_its_test():
    assert {quirk.test for quirk in QUIRKS} <= {*globals(), *vars(test_quirks_of_defaults)}


@pytest.mark.parametrize(("spacing", "steps"), [("linspace", 20), ("trailing", 30)])
def test_ddim_leaves_its_own_path(spacing, steps):
    """With an exact network for data at one point, every path of noise levels keeps to x0 + sigma * noise."""
    config = ScheduleConfig(spacing=spacing)
    scheduler = reference("ddim", config)
    scheduler.set_timesteps(steps)
    pairs = pairwise(scheduler.timesteps.tolist())
    time, after = next((time, after) for time, after in pairs if time - after != 1000 // steps)
    noise = draws(1)[0]
    x = scheduler.step(noise, time, noise * (1 - scheduler.alphas_cumprod[time]) ** 0.5).prev_sample
    reached = (x / noise).mean() ** 2
    assert reached == pytest.approx(1 - scheduler.alphas_cumprod[time - 1000 // steps].item(), rel=1e-5)
    assert abs(reached - (1 - scheduler.alphas_cumprod[after])) > 1e-4
    assert Schedule(config).levels(steps, sampler="ddim").timesteps[:-1] == tuple(scheduler.timesteps.tolist())


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_an_empty_last_step_at_the_lowest_level(name, spacing):
    config = ScheduleConfig(spacing=spacing, steps_offset=0, ddim_ends_at_zero=False)
    scheduler = reference(name, config)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[-1] == 0
    x = draws(1)[0]
    torch.testing.assert_close(scheduler.step(network(x, torch.tensor(0)), 0, x).prev_sample, x)
    assert Schedule(config).levels(20, sampler=name).sigmas[-1] == 0


@pytest.mark.parametrize("name", ["ddim", "ddpm", "lcm", "tcd"])
def test_the_first_level_is_infinite(name):
    """With the stand-in for zero that the other schedulers use they equal ours: ``reference`` puts it there."""
    class_name, options = REFERENCES[name]
    scheduler = getattr(diffusers, class_name)(rescale_betas_zero_snr=True, **options)
    assert scheduler.alphas_cumprod[-1] == 0
    config = sd("v", spacing="trailing", zero_snr=True)
    assert max(compare(name, config, 20).errors) < 1e-5


@pytest.mark.parametrize(("spacing", "whole"), [("karras", round), ("exponential", int), ("beta", int)])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2s", "unipc"])
def test_multistep_solvers_tell_whole_times(name, spacing, whole):
    config = ScheduleConfig()
    scheduler = reference(name, config, spacing)
    scheduler.set_timesteps(20)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(20, sampler=name, sigmas=spacing)
    assert scheduler.sigmas.tolist() == pytest.approx(levels.sigmas, rel=1e-5)
    inner = levels.timesteps[1:-2]  # at the ends rounding errors decide
    assert scheduler.timesteps.tolist()[1:-1] == [whole(time) for time in inner]
    assert max(abs(time - whole(time)) for time in inner) > 0.3


@pytest.mark.parametrize("name", ["kdpm2", "kdpm2_ancestral"])
def test_kdpm2_tells_whole_times_at_listed_levels(name):
    config = ScheduleConfig()
    scheduler = reference(name, config, "karras")
    scheduler.set_timesteps(20)
    times = Schedule(config, scheduler.alphas_cumprod).levels(20, sampler=name, sigmas="karras").timesteps[:-1]
    assert scheduler.timesteps[::2].tolist() == [round(time) for time in times]
    middles = scheduler.timesteps[1::2]
    assert (middles - middles.round()).abs().max() > 0.3


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "deis", "dpmpp_2s"])
def test_a_time_listed_twice_ends_in_an_error(name):
    scheduler = reference(name, ScheduleConfig(), "beta")
    scheduler.set_timesteps(50)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    x = draws(1)[0]
    with pytest.raises((IndexError, AssertionError)):
        their_run(name, scheduler, x)
    assert len(Schedule(ScheduleConfig()).levels(50, sampler=name, sigmas="beta").sigmas) == 51


@pytest.mark.parametrize("spacing", RAMPS)
@pytest.mark.parametrize("name", ["deis", "unipc", "dpmpp_2m", "dpmpp_2s"])
def test_the_last_step_leads_nowhere(name, spacing):
    """Our levels of n steps are the reference's of n + 1 without it."""
    config = ScheduleConfig()
    scheduler = reference(name, config, spacing, **({} if name == "deis" else {"final_sigmas_type": "sigma_min"}))
    scheduler.set_timesteps(21)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2]
    schedule = Schedule(config, scheduler.alphas_cumprod)
    levels = schedule.levels(20, sampler=name, sigmas=spacing, final_sigma="sigma_min")
    assert scheduler.sigmas.tolist()[:-1] == pytest.approx(levels.sigmas, rel=1e-5)


def test_bh1_to_zero_is_not_a_number():
    config = ScheduleConfig()
    scheduler = reference("unipc", config, solver_type="bh1")
    scheduler.set_timesteps(5)
    x = draws(1)[0]
    assert their_run("unipc", scheduler, x)[-1].isnan().all()
    levels = Schedule(config).levels(5, sampler="unipc")
    *_, last = SAMPLERS["unipc"](denoiser(network, levels, "epsilon"), x, levels.sigmas, variant="bh1")
    assert last.x.isfinite().all()


def test_third_order_sde_of_dpm_solver_has_a_wrong_sign():
    """The weight of the estimates' second difference must vanish with the step's width; there it nears -1, as -1/2
    stands where +1/2 belongs.
    """
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    sigmas = torch.tensor([2.0, 1.98, 1.9602, 1.940598], dtype=torch.float64)  # even in log sigma, widths 0.01
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, algorithm_type="sde-dpmsolver++")
    scheduler.sigmas, scheduler._step_index = sigmas, 2
    # Estimates 2, 1, 0, newest first, and latents at 2: a straight line, to whose end a narrow step nearly leads.
    # Then the same but for the oldest: that changes the second difference, and the first by no more than its half.
    signal = (1 / (sigmas[2] ** 2 + 1)).sqrt()
    bent, straight = (  # the reference's
        scheduler.multistep_dpm_solver_third_order_update(
            [old, one, 2 * one], sample=2 * one * signal, noise=zero
        ).item()
        for old in (one, zero)
    )
    assert abs(bent - straight) > 0.1

    def ours(old):
        estimates, reached = iter((old, one, 2 * one)), zero
        solve = SAMPLERS["dpmpp_3m_sde"]
        for step in solve(lambda *_: next(estimates), zero, sigmas.tolist(), noise=lambda *_: zero):
            reached, step.x = step.x.item(), 2 * one
        return reached

    assert abs(ours(one) - ours(zero)) < 0.01


def test_pndm_leaves_its_own_path():
    """As DDIM does: from each listed time it steps by 1000 // steps. The Runge-Kutta start does not help."""
    scheduler = reference("f_pndm", ScheduleConfig(spacing="linspace"))
    scheduler.set_timesteps(20)
    assert (scheduler.timesteps[12] - scheduler.timesteps[13]).item() != 1000 // 20
    scheduler = reference("pndm", ScheduleConfig(spacing="linspace"))
    scheduler.set_timesteps(20)
    time, after = scheduler.timesteps[:2].tolist()
    assert time - after != 50
    noise = draws(1)[0]
    x = scheduler.step(noise, time, noise * (1 - scheduler.alphas_cumprod[time]) ** 0.5).prev_sample
    reached = (x / noise).mean() ** 2
    assert reached == pytest.approx(1 - scheduler.alphas_cumprod[time - 50].item(), rel=1e-5)


def test_pndm_mixes_velocities_of_several_levels():
    """For data at one point the exact network keeps every solver on its path; there only where it predicts noise."""
    noise, worst = draws(1)[0], {}
    for prediction in ("epsilon", "v"):
        config = sd(prediction)
        scheduler = reference("pndm", config)
        scheduler.set_timesteps(10)
        x = noise
        for time in scheduler.timesteps:
            signal = scheduler.alphas_cumprod[time].double()
            x0 = torch.full_like(noise, 0.7)
            e = (x - signal.sqrt() * x0) / (1 - signal).sqrt()
            output = e if prediction == "epsilon" else signal.sqrt() * e - (1 - signal).sqrt() * x0
            x = scheduler.step(output, time, x).prev_sample
        worst[prediction] = (x - 0.7).abs().max().item()
    assert worst["epsilon"] < 1e-5
    assert worst["v"] > 1e-2
    levels = Schedule(sd("v")).levels(10, sampler="pndm")
    *_, last = SAMPLERS["pndm"](lambda x, _: torch.full_like(x, 0.7), noise * levels.start_scale, levels.sigmas)
    torch.testing.assert_close(last.x, torch.full_like(noise, 0.7))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_runge_kutta_start_wants_four_steps(steps):
    with pytest.raises(ValueError, match="broadcast"):
        reference("f_pndm", ScheduleConfig()).set_timesteps(steps)
    levels, asked = Schedule(ScheduleConfig()).levels(steps, sampler="f_pndm"), []
    made = list(SAMPLERS["f_pndm"](lambda x, s: asked.append(s) or x * 0.5, draws(1)[0], levels.sigmas))
    assert len(made) == steps
    assert len(asked) == steps + 3 * (steps - 1)  # all but the step to level 0


def test_half_of_an_odd_step_is_told_as_another_time():
    scheduler = reference("f_pndm", ScheduleConfig())
    scheduler.set_timesteps(40)
    first, told = scheduler.timesteps[:2].tolist()
    noise = draws(1)[0]
    x = scheduler.step(noise, first, noise * (1 - scheduler.alphas_cumprod[first]) ** 0.5).prev_sample
    reached = ((x / noise).mean() ** 2).item()
    assert first - told == 13
    assert reached == pytest.approx(1 - scheduler.alphas_cumprod[first - 12].item(), rel=1e-5)
    levels, asked = Schedule(ScheduleConfig()).levels(40, sampler="f_pndm"), []
    next(SAMPLERS["f_pndm"](lambda x, s: asked.append(s) or x, noise, levels.sigmas, log_sigmas=levels.log_sigmas))
    middle = Schedule(ScheduleConfig()).sigma_to_t(asked[1])
    assert middle == pytest.approx((levels.timesteps[0] + levels.timesteps[1]) / 2)
    assert middle == pytest.approx(first - 12.5)


def test_the_runge_kutta_start_is_that_of_the_whole_run():
    scheduler = reference("f_pndm", ScheduleConfig())
    scheduler.set_timesteps(20)
    noise, begin = draws(1)[0], scheduler.timesteps[0]
    time = scheduler.timesteps[17]
    x = scheduler.step(noise, time, noise * (1 - scheduler.alphas_cumprod[time]) ** 0.5).prev_sample
    before, after = (scheduler.alphas_cumprod[t].double() for t in (begin, time - 25))
    sigmas = [((1 - signal) / signal).sqrt() for signal in (before, after)]
    start = noise * (1 - scheduler.alphas_cumprod[time]) ** 0.5
    moved = (start / before.sqrt() + noise * (sigmas[1] - sigmas[0])) * after.sqrt()  # Euler's step from ``begin``
    torch.testing.assert_close(x, moved, rtol=1e-4, atol=1e-4)


def test_pndm_in_the_middle_skips_a_level():
    """Image-to-image cuts the list of times, but the repeated one stays at its start: the third estimate is made at
    a level that the latents have not reached.
    """
    scheduler = reference("pndm", ScheduleConfig())
    scheduler.set_timesteps(20)
    times = scheduler.timesteps[10:].tolist()
    noise = draws(1)[0]
    x = noise * (1 - scheduler.alphas_cumprod[times[0]]) ** 0.5
    for time in times[:2]:
        x = scheduler.step(noise, time, x).prev_sample
    reached = ((x / noise).mean() ** 2).item()
    assert reached == pytest.approx(1 - scheduler.alphas_cumprod[times[1]].item(), rel=1e-5)
    assert times[2] < times[1]  # and yet the network is asked at times[2] next


def test_groups_are_counted_from_the_whole_runs_start():
    scheduler = reference("dpmpp_2s", ScheduleConfig())
    scheduler.set_timesteps(20)
    assert scheduler.order_list[:4] == [1, 2, 1, 2]
    scheduler.set_begin_index(5)
    x = draws(1)[0]
    scheduler.step(x, scheduler.timesteps[5], x)
    assert scheduler.order_list[scheduler.step_index] == 1  # a second step of first order, not the first's correction


def test_a_run_cut_short_counts_as_long():
    scheduler = reference("deis", ScheduleConfig())
    scheduler.set_timesteps(50)
    scheduler.set_begin_index(45)
    assert len(scheduler.timesteps) >= 15  # what its rule for short runs asks


def test_churn_is_not_told_to_the_network():
    """The reference scales for and tells the level below the churned one; v is turned into an estimate there too."""
    scheduler = reference("euler", sd("v"))
    scheduler.set_timesteps(20)
    x, noise = draws(2)
    x = x * 14.0
    time = scheduler.timesteps[0]
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, [noise])
        scheduler.scale_model_input(x, time)
        made = scheduler.step(torch.zeros_like(x), time, x, s_churn=20.0)
    sigma = scheduler.sigmas[0].item()
    raised = sigma * 2**0.5
    churned = x + noise * (raised**2 - sigma**2) ** 0.5
    torch.testing.assert_close(made.pred_original_sample.double(), churned / (sigma**2 + 1), rtol=1e-5, atol=1e-5)
    asked = []
    next(SAMPLERS["euler"](lambda x, s: asked.append(s) or x, x, (sigma, 1.0), noise=lambda *_: noise, s_churn=20.0))
    assert asked == pytest.approx([raised])


def test_ipndm_starts_at_infinite_sigma():
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(20)
    assert scheduler.alphas[0] == 0
    assert Schedule(ScheduleConfig()).levels(20, sampler="ipndm").sigmas[0] < 15


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde"])
def test_k_diffusion_cannot_make_one_step(name):
    with pytest.raises(UnboundLocalError):
        k_diffusion.compare(name, "v", 1, "linspace")
    levels = Schedule(sd("v")).levels(1, sampler=name)
    [step] = SAMPLERS[name](denoiser(network, levels, "v"), draws(1)[0], levels.sigmas, noise=lambda *_: None)
    assert torch.equal(step.x, step.x0)


@pytest.mark.parametrize("name", ["heun", "kdpm2", "kdpm2_ancestral"])
def test_slopes_from_pure_noise_lead_away(name):
    """Pictures of one brightness each, drawn from N(0, 1), with the exact network for them."""

    def denoise(x, sigma):
        return (x.mean((1, 2, 3), keepdim=True) / (1 + sigma**2 / x[0].numel())).expand_as(x)

    sigmas = Schedule(sd("v", spacing="trailing", zero_snr=True)).levels(4, sampler=name).sigmas
    start, *noises = torch.randn(13, 4, 4, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    theirs = k_diffusion.their_run(name, denoise, start * sigmas[0], sigmas, noises)[-1]
    assert theirs.abs().max() > 5
    left = iter(noises)
    ours = final(SAMPLERS[name](denoise, start * sigmas[0], sigmas, noise=lambda *_: next(left)))
    assert ours.abs().max() < 3


def test_thresholds_leave_the_direction():
    """DDIM limits the clean estimate but keeps the noise that belongs to the unlimited one."""
    scheduler = reference("ddim", sd("epsilon"), thresholding=True)
    scheduler.set_timesteps(20)
    time, x, noise = scheduler.timesteps[10], *draws(2)
    before, after = (scheduler.alphas_cumprod[t].double() for t in (time, time - 50))
    made = scheduler.step(noise, time, x)
    kept = after.sqrt() * made.pred_original_sample + (1 - after).sqrt() * noise
    torch.testing.assert_close(made.prev_sample, kept, rtol=1e-5, atol=1e-5)
    implied = (x - before.sqrt() * made.pred_original_sample) / (1 - before).sqrt()
    assert (implied - noise).abs().max() > 0.1


def test_lms_starts_wrongly_in_the_middle():
    config = ScheduleConfig()
    scheduler = reference("lms", config)
    scheduler.set_timesteps(20)
    scheduler.set_begin_index(10)
    x, noise = draws(2)
    scheduler.scale_model_input(x, scheduler.timesteps[10])
    moved = scheduler.step(noise, scheduler.timesteps[10], x).prev_sample - x
    interval = (scheduler.sigmas[11] - scheduler.sigmas[10]).item()
    assert abs((moved / noise).mean().item() / interval - 1) > 0.5
    levels = img2img_levels(Schedule(config, scheduler.alphas_cumprod).levels(20, sampler="lms"), 0.5)
    step = next(SAMPLERS["lms"](lambda x, sigma: x0_from("epsilon", noise, x, sigma), x, levels.sigmas))
    torch.testing.assert_close(step.x - x, noise * interval)


@pytest.mark.parametrize("steps", [61, 103, 121])
def test_trailing_yields_a_time_too_many(steps):
    config = ScheduleConfig(spacing="trailing")
    for name in REFERENCES:
        if TABLE[name].spacing is None and not TABLE[name].distilled:
            scheduler = reference(name, config)
            scheduler.set_timesteps(steps)
            assert scheduler.timesteps.min() == -1
            levels = Schedule(config).levels(steps, sampler=name)
            assert len(levels.sigmas) == steps + 1


def test_leading_leaves_the_trained_range():
    config = ScheduleConfig()
    scheduler = reference("ddim", config)
    scheduler.set_timesteps(1000)
    with pytest.raises(IndexError):
        scheduler.step(draws(1)[0], scheduler.timesteps[0], draws(1)[0])
    with refused("num_inference_steps", 1000):
        Schedule(config).levels(1000, sampler="ddim")
