"""Our samplers against the released ones of diffusers and k-diffusion, in float64, after every step.

Same network function, same noise, the reference's own float32 tables.
"""

import re
from pathlib import Path

import diffusers
import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser
from diffuscope.diffusion.samplers import SAMPLERS, TABLE
from diffuscope.diffusion.schedules import Schedule, img2img_levels
from diffuscope.diffusion.thresholding import thresholded
from parity import k_diffusion, schedulers
from parity.quirks import QUIRKS
from parity.schedulers import (
    PNDM,
    RAMPS,
    REFERENCES,
    RUNGE_KUTTA_CALLS,
    STEPS,
    TOLERANCE,
    TWO_CALLS,
    assert_same,
    compare,
    draws,
    feed_noise,
    is_no_path,
    network,
    our_run,
    predictions,
    reference,
    relative_errors,
    sd,
    spacings,
    takes,
    their_run,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the reference's own

ZERO_SNR = [name for name in REFERENCES if takes(name, "rescale_betas_zero_snr")]
CUT_SHORT = [
    (name, strength)
    for name in REFERENCES
    for strength in (0.05, 0.3, 0.58, 0.8, 1.0)
    if name not in ("lms", *PNDM, "dpmpp_2s", "lcm", "tcd") and not (name in ("deis", "dpmpp_3m") and strength < 0.3)
]
"""Samplers and strengths of image-to-image; see quirks for those that are not here."""

WITH_FINAL = [name for name in REFERENCES if takes(name, "final_sigmas_type")]


@pytest.mark.parametrize(("name", "spacing"), [(name, spacing) for name in REFERENCES for spacing in spacings(name)])
def test_each_step_equals_diffusers(name, spacing):
    for prediction in predictions(name):
        for steps in STEPS:
            if is_no_path(name, spacing, steps):
                continue
            errors, levels, scheduler = compare(name, sd(prediction), steps, spacing)
            assert max(errors) <= TOLERANCE, (prediction, steps, errors)
            end = levels.sigmas[-1] ** 2 + 1
            assert levels.end_scale == (end**-0.5 if TABLE[name].variance_preserving else 1)
            if spacing not in RAMPS:
                firsts = scheduler.timesteps.tolist()
                firsts = firsts[:1] + firsts[1 :: 2 if name in TWO_CALLS else 1][name == "pndm" and steps > 1 :]
                if name in ("kdpm2", "kdpm2_ancestral", "dpmpp_sde"):
                    firsts = scheduler.timesteps[::2].tolist()
                if name == "f_pndm":
                    firsts = scheduler.timesteps[:RUNGE_KUTTA_CALLS:4].tolist()
                    firsts += scheduler.timesteps[RUNGE_KUTTA_CALLS:].tolist()
                assert levels.timesteps[:-1] == pytest.approx(firsts, abs=1e-4)


@pytest.mark.parametrize("spacing", [*k_diffusion.SPACINGS, "zero_snr"])
@pytest.mark.parametrize("name", k_diffusion.FUNCTIONS)
def test_each_step_equals_k_diffusion(name, spacing):
    zero_snr = spacing == "zero_snr"
    for prediction in ("v",) if zero_snr else ("epsilon", "v"):
        wanted = k_diffusion.steps_of(name, zero_snr)
        for steps in wanted if name not in REFERENCES else set(wanted) - {50}:
            errors = k_diffusion.compare(name, prediction, steps, "model" if zero_snr else spacing, zero_snr)
            assert max(errors) <= TOLERANCE, (prediction, steps, errors)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", sorted(k_diffusion.TAKES_NOISE))
def test_eta_is_that_of_k_diffusion(name, eta):
    assert max(k_diffusion.compare(name, "v", 20, "karras", eta=eta)) <= TOLERANCE


@pytest.mark.parametrize("name", k_diffusion.CHURNING)
@pytest.mark.parametrize("steps", [1, 5, 20, 50])
def test_churn_is_that_of_k_diffusion(name, steps):
    churn = {"s_churn": 5.0, "s_tmin": 0.1, "s_tmax": 10.0, "s_noise": 1.003}
    assert max(k_diffusion.compare(name, "epsilon", steps, "karras", **churn)) <= TOLERANCE


@pytest.mark.parametrize("betas", ["linear", "cosine"])
@pytest.mark.parametrize("name", [name for name in REFERENCES if name not in PNDM])
def test_other_betas_equal_the_reference(name, betas):
    assert max(compare(name, sd("v", betas=betas), 20).errors) <= TOLERANCE


@pytest.mark.parametrize("name", ZERO_SNR)
def test_zero_terminal_snr_equals_the_reference(name):
    for steps in STEPS:
        errors, levels, _ = compare(name, sd("v", spacing="trailing", zero_snr=True), steps)
        assert max(errors) <= TOLERANCE, (steps, errors)
        assert levels.sigmas[0] == pytest.approx(4096, rel=1e-6)


@pytest.mark.parametrize("steps", STEPS)
def test_lms_from_pure_noise_equals_the_reference(steps):
    """Its class cannot rescale betas, but takes a table: that of a model with zero terminal SNR."""
    config = sd("v", spacing="trailing", zero_snr=True)
    schedule = Schedule(config)
    scheduler = diffusers.LMSDiscreteScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    scheduler.alphas_cumprod = schedule.alphas_cumprod.float()
    scheduler.set_timesteps(steps)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler="lms")
    start = draws(1)[0] * levels.start_scale
    assert_same(our_run("lms", levels, config, start, []), their_run("lms", scheduler, start))


@pytest.mark.parametrize("name", WITH_FINAL)
def test_an_end_at_the_lowest_level_equals_the_reference(name):
    for prediction in predictions(name):
        for steps in (2, 4, 6, 18, 20) if name == "dpmpp_2s" else STEPS:
            spacing = "linspace" if name == "dpmpp_2s" else "trailing"
            errors = compare(name, sd(prediction), steps, spacing, "sigma_min").errors
            assert max(errors) <= TOLERANCE, (prediction, steps, errors)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("unipc", {"order": 1}, {"solver_order": 1}),
        ("unipc", {"order": 3}, {"solver_order": 3}),
        ("deis", {"order": 1}, {"solver_order": 1}),
        ("deis", {"order": 3}, {"solver_order": 3}),
        ("dpmpp_2s", {"order": 1}, {"solver_order": 1}),
        ("dpmpp_2s", {"order": 3}, {"solver_order": 3}),
        ("dpmpp_2m", {"solver": "heun"}, {"solver_type": "heun"}),
    ],
)
def test_options_equal_those_of_the_reference(name, ours, theirs):
    for prediction in predictions(name):
        for steps in (1, 2, 3, 5, 14, 20, 21, 22):
            errors = compare(name, sd(prediction), steps, ours=ours, theirs=theirs).errors
            assert max(errors) <= TOLERANCE, (prediction, steps, errors)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_bh1_equals_the_reference(order):
    """At an end above zero; see quirks."""
    theirs = {"solver_type": "bh1", "solver_order": order}
    for steps in STEPS:
        compared = compare("unipc", sd("v"), steps, "trailing", "sigma_min", {"variant": "bh1", "order": order}, theirs)
        assert max(compared.errors) <= TOLERANCE, (steps, compared.errors)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_ipndm_equals_the_reference_on_our_levels(steps, prediction):
    """Its own begin at an infinite sigma (see quirks), so its tables are filled with ours."""
    config = sd(prediction)
    levels = Schedule(config).levels(steps, sampler="ipndm")
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(steps)
    sigmas = torch.tensor(levels.sigmas, dtype=torch.float64)
    scheduler.betas, scheduler.alphas = sigmas / (sigmas**2 + 1).sqrt(), 1 / (sigmas**2 + 1).sqrt()
    start, theirs = draws(1)[0], []
    x = start
    for i, time in enumerate(levels.timesteps[:-1]):
        output = network(x, torch.tensor(time))
        if prediction == "epsilon":  # the reference reads every output as v
            output = (output - scheduler.betas[i] * x) / scheduler.alphas[i]
        x = scheduler.step(output, scheduler.timesteps[i], x).prev_sample
        theirs.append(x * (levels.sigmas[i + 1] ** 2 + 1) ** 0.5)
    ours = our_run("ipndm", levels, config, start * (levels.sigmas[0] ** 2 + 1) ** 0.5, [])
    assert max(relative_errors(ours, theirs)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "steps"), [(name, steps) for name in ("ddim", *PNDM) for steps in STEPS if (name, steps) != ("f_pndm", 1)]
)
def test_an_end_above_zero_as_configured(name, steps):
    errors, levels, _ = compare(name, sd("epsilon", ddim_ends_at_zero=False), steps)
    assert max(errors) <= TOLERANCE
    assert levels.sigmas[-1] > 0
    assert levels.end_scale < 1


@pytest.mark.parametrize("steps", [4, 5, 10, 20, 25, 50, 100])
@pytest.mark.parametrize("name", PNDM)
def test_pndm_of_an_exact_gaussian_equals_the_reference(monkeypatch, name, steps):
    """The network that knows the noise of data ~ N(0, 0.5^2), in the reference's variables: e = (sigma x) / (...)."""
    config = sd("epsilon")
    signal = reference(name, config).alphas_cumprod.double()

    def exact(x, time):
        place = round(float(time))
        assert abs(float(time) - place) < 1e-9  # the middles of even strides are whole times
        left = signal[place]
        return x * (1 - left).sqrt() / (1 - left + left * 0.25)

    monkeypatch.setattr(schedulers, "network", exact)
    assert max(compare(name, config, steps).errors) <= TOLERANCE


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_eta_equals_the_reference(eta):
    for steps in STEPS:
        assert_ddim(steps, {"eta": eta}, {"eta": eta})


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_tcd_with_eta_equals_the_reference(eta):
    for steps in STEPS:
        assert_ddim(steps, {"eta": eta}, {"eta": eta}, name="tcd")


@pytest.mark.parametrize(
    ("name", "their_step"),
    [("ddim", {"use_clipped_model_output": True}), ("dpmpp_2m", {}), ("unipc", {}), ("deis", {})],
)
def test_thresholding_equals_the_reference(name, their_step):
    theirs = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}
    assert_ddim(20, {}, their_step, name, theirs, lambda denoise: thresholded(denoise, ratio=0.9, max_value=1.5))


def assert_ddim(steps, ours, their_step, name="ddim", theirs=None, change=None):
    """As ``compare``, with options of the reference's step, and with a changed Denoiser of ours."""
    config = sd("epsilon")
    scheduler = reference(name, config, **(theirs or {}))
    scheduler.set_timesteps(steps)
    start, *noises = draws(steps + 1)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler=name)
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, noises)
        reached = their_run(name, scheduler, start, **their_step)
    denoise = denoiser(network, levels, config.prediction)
    denoise = denoise if change is None else change(denoise)
    left = iter(noises)
    if TABLE[name].takes_log_sigmas:
        ours = {**ours, "log_sigmas": levels.log_sigmas}
    steps_made = SAMPLERS[name](denoise, start * levels.start_scale, levels.sigmas, noise=lambda *_: next(left), **ours)
    assert_same([step.x / (step.sigma**2 + 1) ** 0.5 for step in steps_made], reached)


@pytest.mark.parametrize(("name", "strength"), CUT_SHORT)
def test_image_to_image_equals_the_reference(name, strength):
    """Steps are left out at the start as the reference's pipeline does; ``add_noise`` gives the start."""
    config, steps = ScheduleConfig(), 50
    scheduler = reference(name, config)
    scheduler.set_timesteps(steps)
    levels = img2img_levels(Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler=name), strength)
    first = (steps - min(int(steps * strength), steps)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    times = scheduler.timesteps[first:]
    image, start, *noises = draws(2 * steps + 2)
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, noises, scheduler)
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


def test_the_published_page_holds_every_sampler_and_is_green():
    """``python benchmarks/parity_samplers.py`` writes it."""
    page = (Path(__file__).parents[2] / "docs/reference/parity-samplers.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^### (\w+): \w+\(", page, re.MULTILINE)) == set(REFERENCES)
    assert set(re.findall(r"^### (\w+): sample_", page, re.MULTILINE)) == set(k_diffusion.FUNCTIONS)
    errors = [float(cell) for cell in re.findall(r"\| (\d(?:\.\d+)?e[+-]\d+) ", page)]
    assert len(errors) > 800
    assert max(errors) <= TOLERANCE
    assert all(quirk.reference in page for quirk in QUIRKS)
