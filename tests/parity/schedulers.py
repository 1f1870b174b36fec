"""Running our samplers and the released ones side by side, in float64, with one network function and one noise.

The references keep their own float32 tables; ours are made from these.
"""

from copy import deepcopy
from dataclasses import replace
from functools import lru_cache
from inspect import signature
from typing import Any, NamedTuple

import diffusers
import pytest
import torch

from diffuscope.config import ScheduleConfig
from diffuscope.diffusion.prediction import denoiser
from diffuscope.diffusion.samplers import SAMPLERS, TABLE
from diffuscope.diffusion.schedules import ZERO_SNR_ALPHA, Schedule
from diffuscope.types import Levels

TOLERANCE = 1e-5
"""Largest difference by largest value. The references keep sigmas, and in part latents, in float32."""

STEPS = (1, 5, 20, 50)
TIMES = ("linspace", "leading", "trailing")
RAMPS = ("karras", "exponential", "beta")
SHAPE = (2, 4, 3, 3)

SDE = {"algorithm_type": "sde-dpmsolver++"}
REFERENCES: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "kdpm2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "f_pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    "dpmpp_sde": ("DPMSolverSDEScheduler", {}),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m_sde_heun": ("DPMSolverMultistepScheduler", {**SDE, "solver_type": "heun"}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
}
"""Our name -> the class of diffusers and the options with which it is that sampler."""

TWO_CALLS = ("heun", "kdpm2", "kdpm2_ancestral", "dpmpp_sde")
PNDM = ("pndm", "f_pndm")
RUNGE_KUTTA_CALLS = 12
"""Those of the three steps of four calls that F-PNDM starts with."""
THEIR_PREDICTION = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
DRAWING_MODULES = (
    *("euler_discrete", "euler_ancestral_discrete", "ddpm", "ddim", "k_dpm_2_ancestral_discrete"),
    *("dpmsolver_multistep", "lcm", "tcd"),
)


class Compared(NamedTuple):
    """What came of a comparison."""

    errors: list[float]
    """max |ours - theirs| / max |theirs| after each step."""
    levels: Levels
    scheduler: Any


def network(x, time):
    """A smooth function of latents and time that mixes positions; stands for a U-Net."""
    return torch.tanh(x.roll(1, -1)) * 0.5 + x * 0.4 + 0.3 * torch.cos(time.double() / 150)


def draws(count):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def takes(name, option):
    """Whether the reference has that option."""
    return option in signature(getattr(diffusers, REFERENCES[name][0]).__init__).parameters


def reference(name, config, spacing="model", final=None, **options):
    """A new scheduler of the reference; some take long to make, so that they are copied."""
    return deepcopy(_made(name, config, spacing, final, tuple(options.items())))


@lru_cache(maxsize=8)
def _made(name, config, spacing, final, options):
    class_name, own = REFERENCES[name]
    scheduler = getattr(diffusers, class_name)
    wanted = {
        "num_train_timesteps": config.train_steps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": {"cosine": "squaredcos_cap_v2"}.get(config.betas, config.betas),
        "prediction_type": THEIR_PREDICTION[config.prediction],
        "timestep_spacing": config.spacing,
        "steps_offset": config.steps_offset,
        "set_alpha_to_one": config.ddim_ends_at_zero,
    }
    wanted = {key: value for key, value in wanted.items() if takes(name, key)}
    if config.zero_snr:
        wanted["rescale_betas_zero_snr"] = True
    if spacing in RAMPS:
        wanted[f"use_{spacing}_sigmas"] = True
    if final is not None:
        wanted["final_sigmas_type"] = final
    made = scheduler(**wanted, **own, **dict(options))
    if config.zero_snr and made.alphas_cumprod[-1] == 0:
        made.alphas_cumprod[-1] = ZERO_SNR_ALPHA  # see quirks: infinite otherwise
    return made


def spacings(name):
    """Those that the reference knows."""
    if TABLE[name].distilled:
        return ("model",)
    times = ("linspace",) if TABLE[name].spacing else TIMES
    return (*times, *(ramp for ramp in RAMPS if takes(name, f"use_{ramp}_sigmas")))


def is_no_path(name, spacing, steps):
    """See quirks: the reference does not go through the times that it lists, or cannot make so few steps."""
    return (name in ("ddim", *PNDM) and spacing == "linspace" and steps > 1) or (name == "f_pndm" and steps < 4)


def predictions(name):
    return ("epsilon",) if name in PNDM else ("epsilon", "v")  # see quirks


def feed_noise(patch, noises, scheduler=None):
    """Hand the reference our noise, in order."""
    left = iter(noises)
    for module in DRAWING_MODULES:
        patch.setattr(f"diffusers.schedulers.scheduling_{module}.randn_tensor", lambda *_, **__: next(left).clone())
    if hasattr(scheduler, "noise_sampler"):
        scheduler.noise_sampler = lambda *_: next(left).clone()


def their_run(name, scheduler, x, times=None, **options):
    """Latents after each step; those inside of a step are left out."""
    times = scheduler.timesteps if times is None else times
    out = []
    for i, time in enumerate(times):
        output = network(scheduler.scale_model_input(x, time), time)
        x = scheduler.step(output, time, x, **options).prev_sample
        if not is_inside(name, i) or i == len(times) - 1:
            out.append(x)
    return out


def is_inside(name, i):
    """Whether the reference's call number ``i`` does not end a step."""
    if name == "f_pndm":
        return i < RUNGE_KUTTA_CALLS and i % 4 != 3
    return (name == "pndm" and i == 0) or (name in TWO_CALLS and i % 2 == 0)


def our_run(name, levels, config, x, noises, **options):
    """Latents after each step in the reference's variables."""
    left = iter(noises)
    denoise = denoiser(network, levels, config.prediction)
    if TABLE[name].takes_log_sigmas:
        options["log_sigmas"] = levels.log_sigmas
    steps = SAMPLERS[name](denoise, x, levels.sigmas, noise=lambda *_: next(left), **options)
    unit = TABLE[name].variance_preserving
    return [step.x / (step.sigma**2 + 1) ** 0.5 if unit else step.x for step in steps]


def relative_errors(ours, theirs):
    assert len(ours) == len(theirs)
    return [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True)]


def assert_same(ours, theirs):
    errors = relative_errors(ours, theirs)
    assert max(errors) <= TOLERANCE, errors


def tell_alike(name, scheduler, levels, spacing):
    """Levels and scheduler that tell the network the same, where the reference rounds its times (see quirks)."""
    if spacing in RAMPS and TABLE[name].variance_preserving:
        return replace(
            levels, timesteps=(*scheduler.timesteps.tolist()[: len(levels.sigmas) - 1], levels.timesteps[-1])
        )
    if spacing == "karras" and name in ("kdpm2", "kdpm2_ancestral"):
        scheduler.timesteps[::2] = torch.tensor(levels.timesteps[:-1])  # the times of the middles are exact there
    return levels


def compare(name, config, steps, spacing="model", final=None, ours=None, theirs=None):
    """Both runs. ``ours`` and ``theirs`` are further options: of our sampler, and of the reference's class."""
    if spacing in TIMES:
        config, spacing = replace(config, spacing=spacing), "model"
    scheduler = reference(name, config, spacing, final, **(theirs or {}))
    empty = name == "deis" and spacing in RAMPS  # see quirks: its last step leads nowhere
    scheduler.set_timesteps(steps + 1 if empty else steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # see quirks: a time that is listed twice
    if name == "deis":
        scheduler.sigmas = scheduler.sigmas.double()  # its weights lose five digits in float32
    start, *noises = draws(2 * steps + 1)
    levels = Schedule(config, scheduler.alphas_cumprod).levels(steps, sampler=name, sigmas=spacing, final_sigma=final)
    levels = tell_alike(name, scheduler, levels, spacing)
    with pytest.MonkeyPatch.context() as patch:
        feed_noise(patch, noises, scheduler)
        reached = their_run(name, scheduler, start * scheduler.init_noise_sigma)
    made = our_run(name, levels, config, start * levels.start_scale, noises, **(ours or {}))
    if empty:
        kept = steps if steps >= 15 else steps - 1  # a short run's order falls one step later there
        made, reached = made[: max(kept, 1)], reached[: max(kept, 1)]
    return Compared(relative_errors(made, reached), levels, scheduler)


def sd(prediction, **options):
    return ScheduleConfig(**{"spacing": "leading", "prediction": prediction, **options})
