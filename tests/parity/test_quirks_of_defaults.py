"""The same evidence as in ``test_quirks.py``: of ends, of first levels, and of what holds where a call says nothing."""

import inspect

import diffusers
import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.samplers import SAMPLERS, TABLE, options
from diffuscope.diffusion.schedules import Schedule
from diffuscope.request import Request
from parity.schedulers import compare, draws, feed_noise, network, reference, sd, their_run

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # the reference's own


def test_euler_lists_the_lowest_level_twice():
    scheduler = reference("euler", ScheduleConfig(spacing="linspace"), final="sigma_min")
    scheduler.set_timesteps(20)
    assert scheduler.sigmas[-1] == scheduler.sigmas[-2]
    sigmas = Schedule(ScheduleConfig(spacing="linspace")).levels(20, sampler="euler", final_sigma="sigma_min").sigmas
    assert sigmas[-1] < sigmas[-2]


@pytest.mark.parametrize(("name", "changes"), [("unipc", True), ("dpmpp_2m", False), ("deis", False)])
def test_only_the_last_call_of_unipc_changes_its_result(name, changes):
    options = {} if name == "deis" else {"final_sigmas_type": "sigma_min"}
    scheduler = reference(name, ScheduleConfig(), "exponential", **options)
    scheduler.set_timesteps(12)
    *_, before, after = their_run(name, scheduler, draws(1)[0])
    assert ((after - before).abs().max().item() > 1e-4) is changes


@pytest.mark.parametrize("name", ["heun", "kdpm2", "kdpm2_ancestral"])
def test_cosine_betas_begin_at_pure_noise(name):
    config = sd("v", betas="cosine", spacing="linspace")
    errors, levels, _ = compare(name, config, 20)
    assert levels.sigmas[0] > 1000
    assert errors[0] > 1e-3
    calls = []
    noise = draws(1)[0]
    for step in SAMPLERS[name](lambda x, s: calls.append(s) or x * 0.5, noise, levels.sigmas, noise=lambda *_: noise):
        if step.index == 0:
            assert calls == [levels.sigmas[0]]


def test_the_pipelines_eta_hides_that_of_tcd():
    eta = inspect.signature(diffusers.TCDScheduler.step).parameters["eta"].default
    assert eta == options(SAMPLERS["tcd"])["eta"].default == 0.3
    for pipe in (diffusers.StableDiffusionPipeline, diffusers.StableDiffusionXLPipeline):
        assert inspect.signature(pipe.__call__).parameters["eta"].default == 0.0


def test_the_sde_solver_draws_afresh():
    scheduler = reference("dpmpp_2m_sde", ScheduleConfig())
    scheduler.set_timesteps(5)
    start, *noises = draws(6)
    left = iter(noises)
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, left)
        their_run("dpmpp_2m_sde", scheduler, start)
    assert next(left, None) is None  # one in each step
    assert TABLE["dpmpp_2m_sde"].noise == "brownian"


def test_default_strengths():
    pipes = {"Img2Img": (0.8, 0.3), "Inpaint": (1.0, 0.9999)}
    for kind, wanted in pipes.items():
        for family, strength in zip(("StableDiffusion", "StableDiffusionXL"), wanted, strict=True):
            call = getattr(diffusers, f"{family}{kind}Pipeline").__call__
            assert inspect.signature(call).parameters["strength"].default == strength
    assert Request("a").strength == 0.8


def test_kdpm2_puts_an_image_back_at_another_level():
    scheduler = reference("kdpm2", ScheduleConfig())
    scheduler.set_timesteps(20)
    scheduler.set_begin_index(0)
    x = draws(1)[0] * scheduler.init_noise_sigma
    scheduler.step(network(x, scheduler.timesteps[0]), scheduler.timesteps[0], x)  # to the middle
    put_back = scheduler.add_noise(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), scheduler.timesteps[1:2]).item()
    levels = Schedule(ScheduleConfig(), scheduler.alphas_cumprod).levels(20, sampler="kdpm2").sigmas
    middle = (levels[0] * levels[1]) ** 0.5
    assert scheduler.sigmas_interpol[1].item() == pytest.approx(middle, rel=1e-4)
    assert put_back == pytest.approx(levels[1], rel=1e-4)
