"""Prediction types: from a network's prediction to a Denoiser, and the target of training.

Latents are ``x = x0 + sigma * noise``. The input of a network is ``x / sqrt(sigma^2 + 1)``, of unit variance for unit
data. It predicts the noise ("epsilon": Ho et al. 2020), the velocity ("v": Salimans & Ho 2022), the clean latents
("x0"), or F of Karras et al. 2022, Table 1, which for unit data is minus v ("edm"). Every formula takes sigma as a
float or as a tensor [B,1,1,1].
"""

from collections.abc import Callable

import torch
from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion.timesteps import edm_time, sigma_to_t
from diffuscope.types import Denoiser, Levels

Predict = Callable[[Tensor, Tensor], Tensor]
"""(x / sqrt(sigma^2 + 1) [B,C,H,W], timestep as a scalar tensor on the host) -> the prediction [B,C,H,W]."""


def scale_input(x: Tensor, sigma: float | Tensor) -> Tensor:
    """The network's input for noisy latents: ``x / sqrt(sigma^2 + 1)``."""
    return x / (sigma**2 + 1) ** 0.5


def x0_from(prediction: Prediction, output: Tensor, x: Tensor, sigma: float | Tensor) -> Tensor:
    """Estimate of the clean latents [B,C,H,W] from a network's output for ``x``.

    For "v" no term grows with sigma, so the estimate stays exact at sigma 4096 (zero terminal SNR).
    """
    if prediction == "epsilon":
        return x - sigma * output
    if prediction == "v":  # Salimans & Ho 2022, appendix D: x0 = alpha z - sigma v, in our variables
        power = sigma**2 + 1
        return x / power - output * (sigma / power**0.5)
    if prediction == "edm":
        return x0_from("v", -output, x, sigma)
    return output


def training_target(prediction: Prediction, x0: Tensor, noise: Tensor, sigma: float | Tensor) -> Tensor:
    """[B,C,H,W] target of the network's prediction for ``x0 + sigma * noise``."""
    if prediction == "epsilon":
        return noise
    if prediction == "v":
        return (noise - sigma * x0) / (sigma**2 + 1) ** 0.5
    if prediction == "edm":
        return -training_target("v", x0, noise, sigma)
    return x0


def denoiser(predict: Predict, levels: Levels, prediction: Prediction) -> Denoiser:
    """A Denoiser around a network: scales the input, looks up the timestep, converts the output to clean latents.

    At ``levels.sigmas`` the timesteps are exactly ``levels.timesteps``; between them (midpoints of second-order
    samplers) they are interpolated in log sigma over ``levels.log_sigmas``. The estimate has the dtype of ``x``.
    """
    times = dict(zip(levels.sigmas, levels.timesteps, strict=True))

    def denoise(x: Tensor, sigma: float) -> Tensor:
        time = times[sigma] if sigma in times else _time(levels, sigma)
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        output = predict(scale_input(x, sigma), torch.full((), time, dtype=dtype))
        return x0_from(prediction, output.to(x.dtype), x, sigma)

    return denoise


def _time(levels: Levels, sigma: float) -> float:
    """The time of a level between those of a run."""
    if levels.sigma_data is not None:
        return edm_time(sigma, levels.sigma_data)
    return sigma_to_t(levels.log_sigmas, sigma)
