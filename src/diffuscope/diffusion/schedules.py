"""Noise levels: what a network was trained on, and which of them one run visits."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from diffuscope.config import SPACINGS, TIME_SPACINGS, FinalSigma, ScheduleConfig, TimeSpacing
from diffuscope.diffusion.clock import log_sigma_at, time_at
from diffuscope.diffusion.samplers.table import SamplerInfo, Timesteps, find
from diffuscope.errors import InputError
from diffuscope.types import Levels

ZERO_SNR_ALPHA = 2.0**-24
"""Stands for the zero of a schedule that ends in pure noise, so that its last sigma is 4096 and not infinite."""

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
    by up to 1e-6 relative and its sigma by 1.3e-5, most at the first time step, where 1 - abar cancels (3e-4 for the
    cosine schedule). To follow another table to the bit, give it as ``alphas_cumprod``.

    Attributes:
        config: what the schedule was made from.
        alphas_cumprod: [T] float64, falling.
        sigmas: [T] float64, rising: the noise level of each training time step.
    """

    def __init__(self, config: ScheduleConfig, alphas_cumprod: Tensor | None = None) -> None:
        """Make the tables of ``config``, or take ``alphas_cumprod`` [T] in place of the computed ones."""
        if alphas_cumprod is None:
            alphas_cumprod = _alphas_cumprod(config)
        elif alphas_cumprod.shape != (config.train_steps,):
            raise InputError(
                f"a table of shape {tuple(alphas_cumprod.shape)} for {config.train_steps} training time steps: "
                "give one value for each"
            )
        self.config = config
        self.alphas_cumprod = alphas_cumprod.to("cpu", torch.float64)
        self.sigmas = ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()
        self._sigmas: list[float] = self.sigmas.tolist()
        self._log_sigmas = tuple(math.log(sigma) for sigma in self._sigmas)

    def sigma_of(self, time: float) -> float:
        """Noise level at a training time, linear in sigma between whole times, as diffusers has it.

        Raises:
            InputError: ``time`` is outside the trained range.
        """
        last = self.config.train_steps - 1
        if not 0 <= time <= last:
            raise InputError(f"time {time:g} is outside the trained times 0 to {last}: ask for fewer steps")
        low = min(int(time), last - 1) if last else 0
        high = min(low + 1, last)
        return self._sigmas[low] + (time - low) * (self._sigmas[high] - self._sigmas[low])

    def time_of(self, sigma: float) -> float:
        """Training time of a noise level, linear in log sigma between whole times, clamped to the trained range.

        At whole times it inverts ``sigma_of``; between them the two differ (Stable Diffusion: by < 0.05).
        """
        return time_at(self._log_sigmas, sigma)

    def levels(
        self,
        steps: int | None,
        *,
        sampler: str = "euler",
        spacing: str | Sequence[float] = "model",
        final: FinalSigma | None = None,
    ) -> Levels:
        """The noise levels of one run, as the sampler's reference picks them.

        Args:
            steps: number of solver steps, 1 to the number of training time steps. None where ``spacing`` is a list.
            sampler: any name that ``samplers.find`` knows. A fused one ("DPM++ 2M Karras") sets the spacing too.
            spacing: "model" (times as the config's ``spacing`` says), or "linspace", "leading" or "trailing" times
                (Lin et al. 2024, Table 2), "karras" (Karras et al. 2022, equation 5, rho 7), "exponential" (even in
                log sigma), "beta" (quantiles of the beta distribution: Lee et al. 2024), "sgm_uniform" (even times
                that stop short of the lowest), or the levels themselves, strictly decreasing, the last at least 0.
            final: "zero" or "sigma_min", the lowest trained level. None is as the sampler's reference has it. Where
                the spacing reaches "sigma_min" by itself there is no further step to it.

        Raises:
            InputError: the steps, the sampler, the spacing or the end are not possible.
        """
        info, fused = find(sampler)
        if not isinstance(spacing, str):
            if final is not None:
                raise InputError(f"final is {final!r}, but the levels are given: let their last one be the end")
            if steps is not None and steps != len(spacing) - 1:
                raise InputError(
                    f"{steps} steps but {len(spacing)} noise levels: give {steps + 1} of them, or no steps"
                )
            return self._finished([float(sigma) for sigma in spacing], None, info, self.config.spacing)
        if spacing not in SPACINGS:
            raise InputError(f"spacing {spacing!r} is not one of {', '.join(SPACINGS)}, nor a list of noise levels")
        if final not in (None, "zero", "sigma_min"):
            raise InputError(f"final is {final!r}: give 'zero', 'sigma_min', or None for the sampler's own")
        if steps is None or not 1 <= steps <= self.config.train_steps:
            raise InputError(f"{steps} steps: give a whole number from 1 to {self.config.train_steps}")
        spacing = fused if spacing == "model" and fused is not None else spacing
        listed = next((name for name in TIME_SPACINGS if name == spacing), None)
        times_like: TimeSpacing = listed or info.spacing or self.config.spacing
        sigmas, times = self._path(steps, spacing, times_like, info)
        lowest, end = self._sigmas[0], info.final_sigma if final is None else final
        if end == "sigma_min" and sigmas[-1] <= lowest * (1 + _ROUNDING):  # there already: one level more above it
            if steps == self.config.train_steps:
                raise InputError(f"{steps} steps that end at the lowest trained level: ask for fewer steps")
            sigmas, times = self._path(steps + 1, spacing, times_like, info)
        else:
            as_configured = end == "config" and not self.config.ddim_ends_at_zero and sigmas[-1] > lowest
            sigmas = [*sigmas, lowest if end == "sigma_min" or as_configured else 0.0]
            times = None if times is None else [*times, 0.0]
        return self._finished(sigmas, times, info, times_like)

    def _path(
        self, steps: int, spacing: str, times_like: TimeSpacing, info: SamplerInfo
    ) -> tuple[list[float], list[float] | None]:
        """``steps`` levels above the end, and their times where these were chosen first."""
        if spacing == "sgm_uniform":
            last = self.config.train_steps - 1
            times = [last * (steps - i) / steps for i in range(steps)]
            return [math.exp(log_sigma_at(self._log_sigmas, time)) for time in times], times
        ramped = spacing in ("karras", "exponential", "beta")
        high, low = self._sigmas[-1], self._sigmas[0]
        if not (ramped and info.variance_preserving):
            kind: Timesteps = "whole" if info.distilled and spacing in TIME_SPACINGS else info.timesteps
            times = _model_times(self.config, times_like, steps, kind)
            sigmas = [self.sigma_of(time) for time in times]
            if not ramped:
                return sigmas, times
            high, low = sigmas[0], sigmas[-1]
        if spacing == "beta":
            return [low + (high - low) * beta_quantile(1 - i / max(steps - 1, 1)) for i in range(steps)], None
        return _ramp(high, low, steps, 1 / _KARRAS_RHO if spacing == "karras" else 0.0), None

    def _finished(
        self, sigmas: list[float], times: list[float] | None, info: SamplerInfo, times_like: TimeSpacing
    ) -> Levels:
        """Checked levels with the start and end scale of the sampler's reference."""
        if len(sigmas) < 2 or not all(math.isfinite(sigma) for sigma in sigmas):
            raise InputError(f"noise levels {sigmas}: give at least two finite numbers")
        if sigmas[-1] < 0 or any(sigma <= after for sigma, after in pairwise(sigmas)):
            raise InputError(
                f"{len(sigmas)} noise levels from {sigmas[0]:g} to {sigmas[-1]:g} are not strictly decreasing to at "
                "least 0: ask for fewer steps, or order them"
            )
        unit_start = info.variance_preserving or times_like == "leading"
        return Levels(
            sigmas=tuple(sigmas),
            times=tuple(map(self.time_of, sigmas) if times is None else times),
            start_scale=math.hypot(sigmas[0], 1) if unit_start else sigmas[0],
            end_scale=1 / math.hypot(sigmas[-1], 1) if info.variance_preserving else 1.0,
            table=self._log_sigmas,
        )


def check_strength(strength: float) -> None:
    """Raise InputError unless ``strength``, the part of a run that is done on an image, is in (0, 1]."""
    if not 0 < strength <= 1:
        raise InputError(f"strength {strength} is outside (0, 1]: near 0 keeps the image, 1 forgets it")


def tail(levels: Levels, strength: float) -> Levels:
    """The last ``strength`` of a run, for image-to-image: int(steps * strength) of its steps, as diffusers has it.

    A run over it starts at ``image + noise * start_scale``: the start scale is the first sigma itself.

    Raises:
        InputError: ``strength`` is outside (0, 1], or so small that no step is left.
    """
    check_strength(strength)
    steps = len(levels.sigmas) - 1
    kept = min(int(steps * strength), steps)
    if kept == 0:
        raise InputError(
            f"strength {strength} of {steps} steps leaves none: give at least {1 / steps:.3g}, or more steps"
        )
    sigmas = levels.sigmas[steps - kept :]
    return replace(levels, sigmas=sigmas, times=levels.times[steps - kept :], start_scale=sigmas[0])


def section(levels: Levels, schedule: ScheduleConfig, start: float, end: float, unit: bool) -> Levels:
    """The levels between two shares of the training times: for a model that goes on where another stopped.

    Shares are counted from pure noise: a run to 0.8 and one from 0.8, over the same levels, meet at one level and
    visit each step once (Podell et al. 2023, section 2.5; Balaji et al. 2022, section 4). Latents in between are
    those of the sampler's reference: ``x_start = latents * start_scale`` undoes ``x_end * end_scale``.

    Args:
        levels: of the whole run.
        schedule: whose training times are meant.
        start: share at which it starts; 0 is as ``levels`` does.
        end: share before which it ends; 1 is as ``levels`` does.
        unit: whether the sampler's reference keeps latents at unit variance.

    Raises:
        InputError: no step lies between the two.
    """
    first, last = 0, len(levels.sigmas) - 1
    if start > 0:
        first = _steps_before(levels, schedule, start)
    if end < 1:
        last = _steps_before(levels, schedule, end)
    if first >= last:
        raise InputError(
            f"none of {len(levels.sigmas) - 1} steps lies between the shares {start:g} and {end:g} of the training "
            "times: give more steps, or shares that are further apart"
        )
    sigmas = levels.sigmas[first : last + 1]
    return replace(
        levels,
        sigmas=sigmas,
        times=levels.times[first : last + 1],
        start_scale=levels.start_scale if start == 0 else _unit_scale(sigmas[0], unit),
        end_scale=1 / _unit_scale(sigmas[-1], unit),
    )


def _steps_before(levels: Levels, schedule: ScheduleConfig, share: float) -> int:
    """How many steps begin in the first ``share`` of the training times, as diffusers counts."""
    cutoff = round(schedule.train_steps - share * schedule.train_steps)
    return sum(time >= cutoff for time in levels.times[:-1])


def _unit_scale(sigma: float, unit: bool) -> float:
    return math.hypot(sigma, 1) if unit else 1.0


def _alphas_cumprod(config: ScheduleConfig) -> Tensor:
    """[T] float64: how much of the clean signal's power is left at each training time step."""
    steps = config.train_steps
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
    """The same table, shifted and scaled so that no signal is left at its end: Lin et al. 2024, Algorithm 1."""
    root = alphas_cumprod.sqrt()
    rescaled = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    rescaled[-1] = ZERO_SNR_ALPHA
    return rescaled


def _model_times(config: ScheduleConfig, spacing: TimeSpacing, steps: int, kind: Timesteps) -> list[float]:
    """Training times in falling order, as Lin et al. 2024, Table 2 names them and diffusers computes them."""
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
    """``steps`` of the 50 evenly spaced times at which LCM's networks were distilled (Luo et al. 2023)."""
    trained = min(_DISTILLED_STEPS, train_steps)
    if steps > trained:
        raise InputError(f"{steps} steps: a distilled network was trained at {trained} times, ask for fewer steps")
    stride = train_steps // trained
    return [(trained - i * trained // steps) * stride - 1.0 for i in range(steps)]


def _ramp(high: float, low: float, steps: int, power: float) -> list[float]:
    """``steps`` levels from ``high`` to ``low``, even in sigma^power; power 0 is even in log sigma."""
    places = [i / max(steps - 1, 1) for i in range(steps)]
    if power == 0:
        return [high * (low / high) ** place for place in places]
    return [(high**power + place * (low**power - high**power)) ** (1 / power) for place in places]


@lru_cache(maxsize=4096)
def beta_quantile(share: float, shape: float = _BETA_SHAPE) -> float:
    """Where the symmetric beta distribution of parameter ``shape`` has ``share`` of its mass below.

    Newton's method in x^shape, in which the cumulated mass is nearly a line: its series is that of the incomplete
    beta function (Abramowitz & Stegun 1964, 26.5.4), of the lower half, where it converges fast.

    Args:
        share: 0 to 1.
        shape: above 0.
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
