"""Our samplers against the released schedulers of diffusers, in float64, after every step.

Same network function, same noise, the reference's own float32 tables.
"""

from dataclasses import replace
from itertools import pairwise

import diffusers
import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser, x0_from
from diffuscope.diffusion.samplers import SAMPLERS, TABLE
from diffuscope.diffusion.schedules import ZERO_SNR_ALPHA, Schedule, tail
from diffuscope.errors import InputError
from parity.quirks import QUIRKS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # the reference's own

TOLERANCE = 1e-5
"""Largest difference by largest value. The references keep sigmas, and in part latents, in float32."""

CLASSES = {name: TABLE[name].aliases[0] for name in SAMPLERS}
FRACTIONAL = ("euler", "heun", "lms")  # those whose reference knows further spacings by the same rule
THEIR_PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
SHAPE = (2, 4, 3, 3)


def network(x, time):
    """A smooth function of latents and time that mixes positions; stands for a U-Net."""
    return torch.tanh(x.roll(1, -1)) * 0.5 + x * 0.4 + 0.3 * torch.cos(time.double() / 150)


def draws(count):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def reference(name, config, spacing="model", **options):
    if name in ("ddim", "ddpm"):
        options |= {"clip_sample": False}
    if name == "ddim":
        options |= {"set_alpha_to_one": config.ddim_ends_at_zero}
    if config.zero_snr:
        options |= {"rescale_betas_zero_snr": True}
    if spacing != "model":
        options |= {f"use_{spacing}_sigmas": True}
    return getattr(diffusers, CLASSES[name])(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule={"cosine": "squaredcos_cap_v2"}.get(config.betas, config.betas),
        prediction_type=THEIR_PREDICTION[config.prediction],
        timestep_spacing=config.spacing,
        steps_offset=config.steps_offset,
        **options,
    )


def feed_noise(monkeypatch, noises):
    """Hand the reference our noise, in order."""
    left = iter(noises)
    for module in ("euler_ancestral_discrete", "ddpm", "ddim"):
        monkeypatch.setattr(
            f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *_, **__: next(left).clone()
        )


def their_run(name, scheduler, x, times=None, **options):
    """Latents after each step, and the times asked; Heun's second halves are left out."""
    times = scheduler.timesteps if times is None else times
    out = []
    for i, time in enumerate(times):
        output = network(scheduler.scale_model_input(x, time), time)
        x = scheduler.step(output, time, x, **options).prev_sample
        if name != "heun" or i % 2 == 1 or i == len(times) - 1:
            out.append(x)
    return out


def our_run(name, levels, config, x, noises, **options):
    """Latents after each step in the reference's variables."""
    left = iter(noises)
    denoise = denoiser(network, levels, config.prediction)
    steps = SAMPLERS[name](denoise, x, levels.sigmas, noise=lambda *_: next(left), **options)
    unit = TABLE[name].variance_preserving
    return [step.x / (step.sigma**2 + 1) ** 0.5 if unit else step.x for step in steps]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]
    assert max(errors) <= TOLERANCE, errors


def compare(name, config, steps, monkeypatch, spacing="model", **options):
    scheduler = reference(name, config, spacing)
    scheduler.set_timesteps(steps)
    start, *noises = draws(steps + 1)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler=name, spacing=spacing)
    if name == "dpmpp_2m" and spacing != "model":
        levels = replace(levels, times=(*scheduler.timesteps.tolist(), 0.0))  # see quirks
    feed_noise(monkeypatch, noises)
    theirs = their_run(name, scheduler, start * scheduler.init_noise_sigma, **options)
    ours = our_run(name, levels, config, start * levels.start_scale, noises, **options)
    assert_same(ours, theirs)
    return levels, scheduler


def is_no_path(name, spacing, steps):
    return name == "ddim" and spacing == "linspace" and steps > 1


CASES = [
    (name, spacing, steps)
    for name in SAMPLERS
    for spacing in ("linspace", "leading", "trailing")
    for steps in (1, 5, 20, 50)
    if not is_no_path(name, spacing, steps)
]


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize(("name", "spacing", "steps"), CASES)
def test_each_step_equals_the_reference(name, spacing, steps, prediction, monkeypatch):
    config = ScheduleConfig(spacing=spacing, prediction=prediction)
    levels, scheduler = compare(name, config, steps, monkeypatch)
    times = scheduler.timesteps[:1].tolist() + scheduler.timesteps[1 :: 2 if name == "heun" else 1].tolist()
    assert levels.times[:-1] == pytest.approx(times, abs=1e-4)
    end = levels.sigmas[-1] ** 2 + 1
    assert levels.end_scale == (end**-0.5 if TABLE[name].variance_preserving else 1)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize("steps", [1, 5, 20, 50])
@pytest.mark.parametrize("name", [*FRACTIONAL, "dpmpp_2m"])
def test_named_spacings_equal_the_reference(name, steps, spacing, prediction, monkeypatch):
    compare(name, ScheduleConfig(spacing="leading", prediction=prediction), steps, monkeypatch, spacing)


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_other_betas_equal_the_reference(name, betas, monkeypatch):
    compare(name, ScheduleConfig(betas=betas, spacing="leading", prediction="v"), 20, monkeypatch)


@pytest.mark.parametrize("steps", [1, 5, 20, 50])
@pytest.mark.parametrize("name", ["euler", "euler_ancestral", "dpmpp_2m"])
def test_zero_terminal_snr_equals_the_reference(name, steps, monkeypatch):
    config = ScheduleConfig(spacing="trailing", prediction="v", zero_snr=True)
    levels, _ = compare(name, config, steps, monkeypatch)
    assert levels.sigmas[0] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 5, 20, 50])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_that_ends_above_zero(steps, eta, monkeypatch):
    config = ScheduleConfig(ddim_ends_at_zero=False)
    levels, _ = compare("ddim", config, steps, monkeypatch, eta=eta)
    assert levels.sigmas[-1] > 0
    assert levels.end_scale < 1


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.58, 0.8, 1.0])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lms"])
def test_image_to_image_equals_the_reference(name, strength, monkeypatch):
    """Steps are left out at the start as the reference's pipeline does; ``add_noise`` gives the start."""
    config, steps = ScheduleConfig(), 50
    scheduler = reference(name, config)
    scheduler.set_timesteps(steps)
    levels = tail(Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler=name), strength)
    first = (steps - min(int(steps * strength), steps)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    times = scheduler.timesteps[first:]
    image, start, *noises = draws(steps + 2)
    feed_noise(monkeypatch, noises)
    theirs = their_run(name, scheduler, scheduler.add_noise(image, start, times[:1]), times)
    assert_same(our_run(name, levels, config, image + start * levels.start_scale, noises), theirs)


@pytest.mark.parametrize(
    ("betas", "signal", "sigma"), [("scaled_linear", 1e-6, 2e-5), ("linear", 1e-6, 2e-5), ("cosine", 2e-5, 5e-4)]
)
def test_float32_tables_are_near_ours(betas, signal, sigma):
    config = ScheduleConfig(betas=betas)
    theirs = reference("euler", config).alphas_cumprod
    ours = Schedule(config)
    assert (ours.alphas_cumprod / theirs - 1).abs().max() < signal
    assert (ours.sigmas / Schedule(config, theirs).sigmas - 1).abs().max() < sigma


# Quirks: evidence that the reference does what quirks.py says.


def test_every_quirk_has_its_test():
    assert {quirk.test for quirk in QUIRKS} <= set(globals())


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
    assert Schedule(config).levels(steps, sampler="ddim").times[:-1] == tuple(scheduler.timesteps.tolist())


def test_ddim_makes_an_empty_last_step():
    config = ScheduleConfig(spacing="linspace", ddim_ends_at_zero=False)
    scheduler = reference("ddim", config)
    scheduler.set_timesteps(20)
    x = draws(1)[0]
    torch.testing.assert_close(scheduler.step(network(x, torch.tensor(0)), 0, x).prev_sample, x)
    assert Schedule(config).levels(20, sampler="ddim").sigmas[-1] == 0


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_ddim_starts_at_infinite_sigma(name, monkeypatch):
    """With the stand-in for zero that the other schedulers use they equal ours."""
    config = ScheduleConfig(spacing="trailing", prediction="v", zero_snr=True)
    scheduler = reference(name, config)
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(20)
    scheduler.alphas_cumprod[-1] = ZERO_SNR_ALPHA
    start, *noises = draws(21)
    feed_noise(monkeypatch, noises)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(20, sampler=name)
    theirs = their_run(name, scheduler, start)
    assert_same(our_run(name, levels, config, start * levels.start_scale, noises), theirs)


@pytest.mark.parametrize(("spacing", "whole"), [("karras", round), ("exponential", int)])
def test_dpm_solver_tells_whole_times(spacing, whole):
    config = ScheduleConfig()
    scheduler = reference("dpmpp_2m", config, spacing)
    scheduler.set_timesteps(20)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(20, sampler="dpmpp_2m", spacing=spacing)
    assert scheduler.sigmas.tolist() == pytest.approx(levels.sigmas, rel=1e-5)
    inner = levels.times[1:-2]  # at the ends rounding errors decide
    assert scheduler.timesteps.tolist()[1:-1] == [whole(time) for time in inner]
    assert max(abs(time - whole(time)) for time in inner) > 0.3


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
    levels = tail(Schedule(config, scheduler.alphas_cumprod).levels(20, sampler="lms"), 0.5)
    step = next(SAMPLERS["lms"](lambda x, sigma: x0_from("epsilon", noise, x, sigma), x, levels.sigmas))
    torch.testing.assert_close(step.x - x, noise * interval)


@pytest.mark.parametrize("steps", [61, 103, 121])
def test_trailing_yields_a_time_too_many(steps):
    config = ScheduleConfig(spacing="trailing")
    for name in SAMPLERS:
        scheduler = reference(name, config)
        scheduler.set_timesteps(steps)
        assert scheduler.timesteps[-1] == -1
        levels = Schedule(config).levels(steps, sampler=name)
        assert len(levels.sigmas) == steps + 1


def test_leading_leaves_the_trained_range():
    config = ScheduleConfig()
    scheduler = reference("ddim", config)
    scheduler.set_timesteps(1000)
    with pytest.raises(IndexError):
        scheduler.step(draws(1)[0], scheduler.timesteps[0], draws(1)[0])
    with pytest.raises(InputError, match="fewer steps"):
        Schedule(config).levels(1000, sampler="ddim")
