"""Noise schedules: the levels a network was trained on, and those that one run visits."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import get_args

import torch
from torch import Tensor

from diffuscope.config import LARGEST, LEVELS, SPACINGS, TIME_SPACINGS, FinalSigma, ScheduleConfig, TimeSpacing
from diffuscope.diffusion.samplers.contract import Sampler
from diffuscope.diffusion.samplers.table import SamplerInfo, find
from diffuscope.diffusion.timesteps import edm_time, sigma_to_t, t_to_log_sigma
from diffuscope.errors import InputError
from diffuscope.sampler_table import Timesteps
from diffuscope.types import Levels

ZERO_SNR_ALPHA = 2.0**-24
"""Instead of 0 at the end of a schedule with zero terminal SNR, so that its last sigma is 4096 and not infinite."""

_MAX_COSINE_BETA = 0.999
_KARRAS_RHO = 7.0
_BETA_SHAPE = 0.6  # both parameters, as in diffusers and ComfyUI
_SERIES_TERMS = 60
_NEWTON_STEPS = 8
_DISTILLED_STEPS = 50
_ROUNDING = 1e-9


class Schedule:
    """The noise levels of a network: sigma^2 = (1 - abar) / abar, with abar the cumulative product of 1 - beta.

    Tables are computed in float64. Those of diffusers are float32: for the betas of Stable Diffusion its abar is off
    by up to 1e-6 relative and its sigma by 1.3e-5, most at the first timestep, where 1 - abar cancels (3e-4 for the
    cosine schedule). To follow another table to the bit, pass it as ``alphas_cumprod``.

    Attributes:
        config: what the schedule was made from.
        alphas_cumprod: [T] float64, decreasing.
        sigmas: [T] float64, increasing: the noise level of each training timestep.
    """

    def __init__(self, config: ScheduleConfig, alphas_cumprod: Tensor | None = None) -> None:
        """Compute the tables of ``config``, or take ``alphas_cumprod`` [T] instead.

        Raises:
            InputError: ``alphas_cumprod`` has another shape.
        """
        if alphas_cumprod is None:
            alphas_cumprod = _alphas_cumprod(config)
        elif alphas_cumprod.shape != (config.train_steps,):
            raise InputError("alphas_cumprod", alphas_cumprod, f"one value per training timestep, {config.train_steps}")
        self.config = config
        self.alphas_cumprod = alphas_cumprod.to("cpu", torch.float64)
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._sigmas: list[float] = self.sigmas.tolist()
        self._log_sigmas = tuple(math.log(sigma) for sigma in self._sigmas)

    def t_to_sigma(self, t: float) -> float:
        """Noise level of a training timestep, linear in sigma between whole ones, as in diffusers.

        Raises:
            InputError: ``t`` is outside the trained range.
        """
        last = self.config.train_steps - 1
        if not 0 <= t <= last:
            raise InputError("t", t, f"a timestep from 0 to {last}")
        low = min(int(t), last - 1) if last else 0
        high = min(low + 1, last)
        return self._sigmas[low] + (t - low) * (self._sigmas[high] - self._sigmas[low])

    def sigma_to_t(self, sigma: float) -> float:
        """Training timestep of a noise level, linear in log sigma between whole ones, clamped to the trained range.

        At whole timesteps it inverts ``t_to_sigma``; between them the two differ (Stable Diffusion: by < 0.05).
        """
        return sigma_to_t(self._log_sigmas, sigma)

    def levels(
        self,
        num_inference_steps: int | None,
        *,
        sampler: str | Sampler = "euler",
        sigmas: str | Sequence[float] = "model",
        final_sigma: FinalSigma | None = None,
    ) -> Levels:
        """The noise levels of one run, as the sampler's reference implementation picks them.

        Args:
            num_inference_steps: 1 to the number of training timesteps. None where ``sigmas`` is a list.
            sampler: any name that ``samplers.find`` knows, or a function. A fused name ("DPM++ 2M Karras") sets the
                spacing too.
            sigmas: a spacing: "model" (as the config says), or "linspace", "leading" or "trailing" timesteps (Lin et
                al. 2024, Table 2), "karras" (Karras et al. 2022, equation 5, rho 7), "exponential" (even in log
                sigma), "beta" (quantiles of the beta distribution: Lee et al. 2024), "sgm_uniform" (even timesteps
                that stop short of the lowest). Or the levels themselves, strictly decreasing, the last at least 0.
            final_sigma: "zero", or "sigma_min", the lowest trained level. None is the default of the sampler's
                reference. Where the spacing itself reaches "sigma_min" there is no further step to it.

        Raises:
            InputError: an argument is out of range or does not fit the others.
        """
        info, fused = find(sampler)
        if not isinstance(sigmas, str):
            return self._given_levels(num_inference_steps, sigmas, final_sigma, info)
        if sigmas not in SPACINGS:
            raise InputError("sigmas", sigmas, f"a list of noise levels, or one of {', '.join(SPACINGS)}")
        if final_sigma not in (None, *get_args(FinalSigma)):
            raise InputError("final_sigma", final_sigma, "'zero', 'sigma_min', or None for the sampler's default")
        steps, train_steps = num_inference_steps, self.config.train_steps
        if steps is None or not 1 <= steps <= train_steps:
            raise InputError("num_inference_steps", steps, f"a whole number from 1 to {train_steps}")
        spacing = fused if sigmas == "model" and fused is not None else sigmas
        if spacing == "model" and self.config.betas == "edm":
            spacing = "karras"
        listed = next((name for name in TIME_SPACINGS if name == spacing), None)
        times_spacing: TimeSpacing = listed or info.spacing or self.config.spacing
        path, times = self._path(steps, spacing, times_spacing, info)
        lowest, end = self._sigmas[0], info.final_sigma if final_sigma is None else final_sigma
        if end == "sigma_min" and path[-1] <= lowest * (1 + _ROUNDING):  # there already: one level more above it
            if steps == train_steps:
                raise InputError("num_inference_steps", steps, f"fewer than {train_steps}, to end at sigma_min")
            path, times = self._path(steps + 1, spacing, times_spacing, info)
        else:
            as_configured = end == "config" and not self.config.ddim_ends_at_zero and path[-1] > lowest
            path = [*path, lowest if end == "sigma_min" or as_configured else 0.0]
            times = None if times is None else [*times, 0.0]
        if any(sigma <= after for sigma, after in pairwise(path)):
            raise InputError("num_inference_steps", steps, "fewer steps", "Neighbouring noise levels are equal")
        return self._finished(path, times, info, times_spacing)

    def _given_levels(
        self, steps: int | None, sigmas: Sequence[float], final_sigma: FinalSigma | None, info: SamplerInfo
    ) -> Levels:
        """Levels that the caller listed."""
        if final_sigma is not None:
            raise InputError("final_sigma", final_sigma, "None with a list of noise levels", "The last one is the end")
        if steps is not None and steps != len(sigmas) - 1:
            raise InputError("num_inference_steps", steps, f"None, or {len(sigmas) - 1} for {len(sigmas)} noise levels")
        levels = [float(sigma) for sigma in sigmas]
        falling = all(a > b for a, b in pairwise(levels))
        if len(levels) < 2 or not falling or not 0 <= levels[-1] < levels[0] <= LARGEST:
            raise InputError("sigmas", sigmas, LEVELS)
        return self._finished(levels, None, info, self.config.spacing)

    def _path(
        self, steps: int, spacing: str, times_spacing: TimeSpacing, info: SamplerInfo
    ) -> tuple[list[float], list[float] | None]:
        """``steps`` levels above the end, and their timesteps if these were chosen first."""
        if spacing == "sgm_uniform":
            last = self.config.train_steps - 1
            times = [last * (steps - i) / steps for i in range(steps)]
            return [math.exp(t_to_log_sigma(self._log_sigmas, time)) for time in times], times
        ramped = spacing in ("karras", "exponential", "beta")
        high, low = self._sigmas[-1], self._sigmas[0]
        if not (ramped and (info.variance_preserving or self.config.betas == "edm")):
            kind: Timesteps = "whole" if info.distilled and spacing in TIME_SPACINGS else info.timesteps
            times = _spaced_times(self.config, times_spacing, steps, kind)
            if times[-1] < 0 or times[0] > self.config.train_steps - 1:
                raise InputError("num_inference_steps", steps, "fewer steps", "Timesteps exceed the trained range")
            sigmas = [self.t_to_sigma(time) for time in times]
            if not ramped:
                return sigmas, times
            high, low = sigmas[0], sigmas[-1]
        if spacing == "beta":
            return [low + (high - low) * beta_quantile(1 - i / max(steps - 1, 1)) for i in range(steps)], None
        return _ramp(high, low, steps, 1 / _KARRAS_RHO if spacing == "karras" else 0.0), None

    def _finished(
        self, sigmas: list[float], times: list[float] | None, info: SamplerInfo, times_spacing: TimeSpacing
    ) -> Levels:
        """Levels with the start and end scale of the sampler's reference."""
        data = self.config.sigma_data if self.config.betas == "edm" else None
        if data is not None:
            times, start_scale = [edm_time(sigma, data) for sigma in sigmas], math.hypot(sigmas[0] * data, 1) / data
        else:
            unit_start = info.variance_preserving or times_spacing == "leading"
            start_scale = math.hypot(sigmas[0], 1) if unit_start else sigmas[0]
        return Levels(
            sigmas=tuple(sigmas),
            timesteps=tuple(map(self.sigma_to_t, sigmas) if times is None else times),
            start_scale=start_scale,
            end_scale=1 / math.hypot(sigmas[-1], 1) if info.variance_preserving else 1.0,
            log_sigmas=self._log_sigmas,
            sigma_data=data,
        )


def img2img_levels(levels: Levels, strength: float) -> Levels:
    """The last int(steps * strength) steps of a run, for image-to-image, as in diffusers.

    A run over them starts at ``image + noise * start_scale``: the start scale is the first sigma itself.

    Raises:
        InputError: ``strength`` is outside (0, 1], or so small that no step is left.
    """
    if not 0 < strength <= 1:
        raise InputError("strength", strength, "a number above 0 and at most 1", "Near 0 keeps the image, 1 ignores it")
    steps = len(levels.sigmas) - 1
    kept = min(int(steps * strength), steps)
    if kept == 0:
        raise InputError("strength", strength, f"at least {1 / steps:.3g} with {steps} steps", "No step would be left")
    sigmas = levels.sigmas[steps - kept :]
    return replace(levels, sigmas=sigmas, timesteps=levels.timesteps[steps - kept :], start_scale=sigmas[0])


def slice_levels(
    levels: Levels,
    schedule: ScheduleConfig,
    *,
    denoising_start: float = 0.0,
    denoising_end: float = 1.0,
    variance_preserving: bool,
) -> Levels:
    """The levels between two shares of the training timesteps, for a model that continues where another stopped.

    Shares are counted from pure noise. A run to 0.8 and one from 0.8, over the same levels, meet at one level and
    visit each step once (Podell et al. 2023, section 2.5; Balaji et al. 2022, section 4). Latents in between are
    those of the sampler's reference: ``x_start = latents * start_scale`` undoes ``x_end * end_scale``.

    Args:
        levels: of the whole run.
        schedule: of the model, for its number of training timesteps.
        denoising_start: share at which the slice starts; 0 is the start of ``levels``.
        denoising_end: share before which the slice ends; 1 is the end of ``levels``.
        variance_preserving: as in the sampler's row of the table.

    Raises:
        InputError: no step lies between the two.
    """
    name, share = ("denoising_start", denoising_start) if denoising_start > 0 else ("denoising_end", denoising_end)
    if schedule.betas == "edm":
        raise InputError(name, share, "None, since the levels of this model have no shares of training timesteps")
    first, last = 0, len(levels.sigmas) - 1
    if denoising_start > 0:
        first = _steps_before(levels, schedule, denoising_start)
    if denoising_end < 1:
        last = _steps_before(levels, schedule, denoising_end)
    if first >= last:
        raise InputError(name, share, f"a share that leaves one of {len(levels.sigmas) - 1} steps", "Use more steps")
    sigmas = levels.sigmas[first : last + 1]
    scales = [math.hypot(sigma, 1) if variance_preserving else 1.0 for sigma in (sigmas[0], sigmas[-1])]
    return replace(
        levels,
        sigmas=sigmas,
        timesteps=levels.timesteps[first : last + 1],
        start_scale=levels.start_scale if denoising_start == 0 else scales[0],
        end_scale=1 / scales[1],
    )


def _steps_before(levels: Levels, schedule: ScheduleConfig, share: float) -> int:
    """Number of steps that begin in the first ``share`` of the training timesteps, as diffusers counts."""
    cutoff = round(schedule.train_steps - share * schedule.train_steps)
    return sum(time >= cutoff for time in levels.timesteps[:-1])


def _alphas_cumprod(config: ScheduleConfig) -> Tensor:
    """[T] float64: share of the clean signal's power at each training timestep."""
    steps = config.train_steps
    if config.betas == "edm":
        rising = _ramp(config.sigma_max, config.sigma_min, steps, 1 / _KARRAS_RHO)[::-1]
        return 1 / (torch.tensor(rising, dtype=torch.float64).square() + 1)
    if config.betas == "scaled_linear":  # Rombach et al. 2022: linear in the root
        betas = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=torch.float64) ** 2
    elif config.betas == "linear":  # Ho et al. 2020
        betas = torch.linspace(config.beta_start, config.beta_end, steps, dtype=torch.float64)
    else:  # Nichol & Dhariwal 2021, equation 17
        angles = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * (math.pi / 2)
        signal = angles.cos() ** 2
        betas = (1 - signal[1:] / signal[:-1]).clamp(max=_MAX_COSINE_BETA)
    alphas_cumprod = (1 - betas).cumprod(0)
    return _to_zero_snr(alphas_cumprod) if config.zero_snr else alphas_cumprod


def _to_zero_snr(alphas_cumprod: Tensor) -> Tensor:
    """The same table, shifted and scaled to no signal at its end: Lin et al. 2024, Algorithm 1."""
    root = alphas_cumprod.sqrt()
    rescaled = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    rescaled[-1] = ZERO_SNR_ALPHA
    return rescaled


def _spaced_times(config: ScheduleConfig, spacing: TimeSpacing, steps: int, kind: Timesteps) -> list[float]:
    """Training timesteps in decreasing order: Lin et al. 2024, Table 2, computed as in diffusers."""
    if kind == "distilled":
        return _distilled_times(config.train_steps, steps)
    points = steps + 1 if kind == "drop_last" else steps
    falling = range(points - 1, points - 1 - steps, -1)
    if spacing == "trailing":
        stride = (config.train_steps - config.train_steps / steps) - config.train_steps  # rounded as numpy.arange does
        return [round(config.train_steps + i * stride) - 1.0 for i in range(steps)]
    if spacing == "leading":
        return [float(i * (config.train_steps // points) + config.steps_offset) for i in falling]
    last = config.train_steps - 1
    times = [min(i * (last / max(points - 1, 1)), float(last)) for i in falling]
    return times if kind == "fractional" else [float(round(time)) for time in times]


def _distilled_times(train_steps: int, steps: int) -> list[float]:
    """``steps`` of the 50 evenly spaced timesteps at which LCM's networks were distilled (Luo et al. 2023)."""
    trained = min(_DISTILLED_STEPS, train_steps)
    if steps > trained:
        raise InputError("num_inference_steps", steps, f"at most {trained}, for a sampler of distilled networks")
    stride = train_steps // trained
    return [(trained - i * trained // steps) * stride - 1.0 for i in range(steps)]


def _ramp(high: float, low: float, steps: int, power: float) -> list[float]:
    """``steps`` levels from ``high`` to ``low``, even in sigma^power; power 0 is even in log sigma."""
    shares = [i / max(steps - 1, 1) for i in range(steps)]
    if power == 0:
        return [high * (low / high) ** share for share in shares]
    return [(high**power + share * (low**power - high**power)) ** (1 / power) for share in shares]


@lru_cache(maxsize=4096)
def beta_quantile(share: float, shape: float = _BETA_SHAPE) -> float:
    """Quantile ``share`` (0 to 1) of the symmetric beta distribution with parameter ``shape`` (above 0).

    Newton's method in x^shape, where the cumulative distribution is nearly linear. Its series is that of the
    incomplete beta function (Abramowitz & Stegun 1964, 26.5.4), for the lower half, where it converges fast.
    """
    if share > 0.5:
        return 1 - beta_quantile(1 - share, shape)
    half = math.gamma(shape) ** 2 / math.gamma(2 * shape)
    line = share * half * shape
    for _ in range(_NEWTON_STEPS):
        x = line ** (1 / shape)
        series, term = 0.0, 1.0
        for n in range(_SERIES_TERMS):
            series += term / (shape + n)
            term *= x * (n + 1 - shape) / (n + 1)
        line -= (line * series - share * half) * shape * (1 - x) ** (1 - shape)
    return float(line ** (1 / shape))
