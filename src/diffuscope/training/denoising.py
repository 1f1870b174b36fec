"""The diffusion loss: noised latents, what the U-Net should predict for them, and the weight of its error."""

import torch
from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion.prediction import training_target
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import InputError


def loss_weight(prediction: Prediction, sigma: Tensor, gamma: float) -> Tensor:
    """Weight of the squared error of a prediction at noise level sigma.

    In terms of x0 it is min(SNR, gamma) + 1 with SNR = 1 / sigma^2: Min-SNR (Hang et al. 2023, section 3.4) with one
    added, so that pure noise has a weight too. An epsilon error is SNR times, a v error SNR + 1 times the error of x0.
    """
    snr = sigma.square().reciprocal()
    errors = {"epsilon": snr, "v": snr + 1, "edm": snr + 1, "x0": torch.ones_like(snr)}
    return (snr.clamp(max=gamma) + 1) / errors[prediction]


def stratified(count: int, generator: torch.Generator) -> Tensor:
    """[count] places in [0, 1), in random order: one in each of ``count`` equal parts.

    A mean over them has less variance than one over independent places.
    """
    device = generator.device
    parts = torch.randperm(count, device=device, generator=generator)
    return (parts + torch.rand(count, device=device, generator=generator)) / count


class DenoisingLoss:
    """The weighted squared error of a U-Net's prediction over the noise levels of its schedule.

    Args:
        schedule: noise levels and prediction type.
        device: of the latents.
        gamma: of ``loss_weight``.

    Raises:
        InputError: epsilon prediction with zero terminal SNR.
    """

    def __init__(self, schedule: Schedule, device: torch.device, gamma: float) -> None:
        config = schedule.config
        self.prediction, self.gamma = config.prediction, gamma
        if self.prediction == "epsilon" and config.zero_snr:
            hint = "Pure noise tells epsilon without the network, which would learn nothing there."
            raise InputError("prediction", "epsilon", "'v' or 'x0' with zero terminal SNR", hint)
        self.sigmas = schedule.sigmas.to(device, torch.float32)
        self.times = torch.arange(len(self.sigmas), device=device)
        if config.betas == "edm":
            self.times = (self.sigmas * config.sigma_data).log() / 4  # Karras et al. 2022, Table 1

    def noised(self, x0: Tensor, places: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The network's input [B,C,h,w] of unit variance, its time [B], and the noise level [B,1,1,1].

        Args:
            x0: [B,C,h,w] clean latents.
            places: [B] in [0, 1), places in the list of noise levels.
            noise: [B,C,h,w] of unit variance.
        """
        index = (places * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)
        sigma = self.sigmas[index].view(-1, 1, 1, 1)
        return (x0 + sigma * noise) / (sigma.square() + 1).sqrt(), self.times[index], sigma

    def error(self, output: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """[B] the mean squared error of each prediction [B,C,h,w], times its weight."""
        target = training_target(self.prediction, x0, noise, sigma)
        error = (output.float() - target).square().mean((1, 2, 3))
        return error * loss_weight(self.prediction, sigma.flatten(), self.gamma)
