"""k-diffusion's samplers, from the released package: its sampling module alone, without what it draws in."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser
from diffuscope.diffusion.samplers import SAMPLERS
from diffuscope.diffusion.schedules import Schedule
from parity.schedulers import RAMPS, STEPS, TIMES, draws, network, relative_errors

TOLERANCE = 1e-5
SPACINGS = (*TIMES, *RAMPS)

FUNCTIONS = {
    "euler": "sample_euler",
    "euler_ancestral": "sample_euler_ancestral",
    "heun": "sample_heun",
    "lms": "sample_lms",
    "dpmpp_2m": "sample_dpmpp_2m",
    "kdpm2": "sample_dpm_2",
    "kdpm2_ancestral": "sample_dpm_2_ancestral",
    "dpmpp_2s_ancestral": "sample_dpmpp_2s_ancestral",
    "dpmpp_sde": "sample_dpmpp_sde",
    "dpmpp_2m_sde": "sample_dpmpp_2m_sde",
    "dpmpp_2m_sde_heun": "sample_dpmpp_2m_sde",
    "dpmpp_3m_sde": "sample_dpmpp_3m_sde",
}
TAKES_NOISE = {name for name in FUNCTIONS if "ancestral" in name or "sde" in name}
EULER_FROM_NOISE = ("heun", "kdpm2", "kdpm2_ancestral")
CHURNING = ("euler", "heun", "kdpm2")


def steps_of(name, zero_snr=False):
    """Numbers of steps to compare; see quirks for why some of the reference cannot make one, and some no more."""
    if zero_snr and name in EULER_FROM_NOISE:
        return STEPS[:1]
    return STEPS[1:] if "m_sde" in name else STEPS


@cache
def sampling() -> ModuleType:
    """``k_diffusion.sampling``. The package's own start would import image tools and a tracker that nothing here uses;
    of its ``utils`` the samplers call ``append_dims`` alone.
    """
    found = importlib.util.find_spec("k_diffusion")
    assert found is not None
    assert found.origin is not None
    package, utils = ModuleType("released_k_diffusion"), ModuleType("released_k_diffusion.utils")
    package.__path__ = [str(Path(found.origin).parent)]
    utils.append_dims = lambda x, count: x[(...,) + (None,) * (count - x.ndim)]
    package.utils = utils
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    return importlib.import_module("released_k_diffusion.sampling")


def their_run(name, denoise, x, sigmas, noises, **options):
    """Latents after each step."""
    left = iter(noises)
    seen = []
    if name in TAKES_NOISE:
        options["noise_sampler"] = lambda *_: next(left).clone()
    if name.endswith("_heun"):
        options["solver_type"] = "heun"
    with pytest.MonkeyPatch.context() as patch:
        if name in CHURNING:  # draws in each step, whether it churns or not
            patch.setattr(torch, "randn_like", lambda _: next(left).clone())
        end = getattr(sampling(), FUNCTIONS[name])(
            lambda x, sigma: denoise(x, sigma[0].item()),
            x,
            torch.tensor(sigmas, dtype=torch.float64),
            callback=lambda info: seen.append(info["x"]),
            disable=True,
            **options,
        )
    return [*seen[1:], end]


def compare(name, prediction, steps, spacing, zero_snr=False, **options):
    """max |ours - theirs| / max |theirs| after each step; after the last alone where it churns."""
    config = ScheduleConfig(prediction=prediction, spacing="trailing" if zero_snr else "leading", zero_snr=zero_snr)
    levels = Schedule(config).levels(steps, sampler=name, sigmas=spacing)
    start, *noises = draws(2 * steps + 1)
    denoise = denoiser(network, levels, prediction)
    x = start * levels.start_scale
    theirs = their_run(name, denoise, x, levels.sigmas, noises, **options)
    left = iter(noises)

    def noise(like, sigma, sigma_next):
        return noises[levels.sigmas.index(sigma)] if name in CHURNING else next(left)

    ours = [step.x for step in SAMPLERS[name](denoise, x, levels.sigmas, noise=noise, **options)]
    if options.get("s_churn"):
        ours, theirs = ours[-1:], theirs[-1:]  # in between the reference shows latents that have churned
    return relative_errors(ours, theirs)
