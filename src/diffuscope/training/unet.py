"""Training the U-Net, and with it the text encoder: predict what noise did to the latents, given a text."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffuscope.config import Prediction
from diffuscope.diffusion.prediction import training_target
from diffuscope.diffusion.schedules import Schedule
from diffuscope.models.unet import UNet
from diffuscope.training.examples import Batch, Examples
from diffuscope.training.loop import Draw
from diffuscope.training.text import Towers, retrieval


@dataclass(frozen=True, kw_only=True)
class UNetTraining:
    """Batches and loss of the diffusion stage."""

    batch: int = 512
    drop: float = 0.1  # part of the texts replaced by the empty one, for guidance (Ho & Salimans 2022)
    snr_cap: float = 5.0
    contrast: float = 0.05  # weight of CLIP's loss, which keeps the text encoder a tower


class Painter(nn.Module):
    """The two networks that learn together."""

    def __init__(self, towers: Towers, unet: UNet) -> None:
        super().__init__()
        self.towers = towers
        self.unet = unet


def weight(kind: Prediction, sigma: Tensor, cap: float) -> Tensor:
    """Weight of the squared error of a prediction at noise level sigma.

    In terms of x0 it is min(SNR, cap) + 1 with SNR = 1 / sigma^2: Min-SNR (Hang et al. 2023, section 3.4) with one
    added, so that pure noise still counts. An epsilon error is SNR times, a v error SNR + 1 times the error of x0.
    """
    snr = sigma.square().reciprocal()
    errors = {"epsilon": snr, "v": snr + 1, "x0": torch.ones_like(snr)}
    return (snr.clamp(max=cap) + 1) / errors[kind]


class UNetTask:
    """The task of ``loop.train`` for U-Net and text encoder.

    Args:
        painter: what is trained, on its device.
        examples: latents and texts.
        held_out: examples never trained on.
        schedule: noise levels and prediction type.
        empty: [T] token ids of the empty text.
        training: batch size and loss.
        compiled: whether the networks are compiled.
    """

    edges: tuple[str, ...] = ("unet.conv_in", "unet.conv_out", "towers.picture")

    def __init__(
        self,
        painter: Painter,
        examples: Examples,
        held_out: Examples,
        schedule: Schedule,
        empty: Tensor,
        training: UNetTraining,
        *,
        compiled: bool = False,
    ) -> None:
        self.network: nn.Module = painter
        self.painter, self.examples, self.held_out, self.training = painter, examples, held_out, training
        device = examples.latents.device
        self.kind = schedule.config.prediction
        self.sigmas = schedule.sigmas.to(device, torch.float32)
        self.empty = empty.to(device)
        # Recorded once and replayed (CUDA graphs): launched from Python one by one, kernels leave the GPU half idle.
        self.predict = torch.compile(_predict, mode="reduce-overhead") if compiled else _predict

    def loss(self, draw: Draw) -> tuple[Tensor, dict[str, Tensor]]:
        """WeightedChoice squared error of the prediction, plus CLIP's loss on the same texts."""
        batch = self.examples.draw(self.training.batch, draw.generator)
        dropped = round(self.training.drop * self.training.batch)
        error, pooled = self._error(self.painter, batch, draw.generator, dropped)
        loss = error.mean()
        numbers = {"error": loss.detach()}
        if self.training.contrast:
            contrast = self.painter.towers.contrast(pooled[dropped:], batch.features[dropped:].float())
            loss = loss + self.training.contrast * contrast
            numbers["contrast"] = contrast.detach()
        return loss, numbers

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The weighted error on held-out examples with fixed noise and times, and the towers' retrieval."""
        assert isinstance(network, Painter)
        generator = torch.Generator(self.sigmas.device).manual_seed(0)
        errors = []
        for start in range(0, len(self.held_out), 256):
            part = self.held_out[start : start + 256]
            batch = Batch(part.latents.float(), part.ids[:, 0].long(), part.features)
            errors.append(self._error(network, batch, generator, 0, fast=False)[0])
        return {"error": torch.cat(errors).mean().item()} | retrieval(network.towers, self.held_out)

    def _error(
        self, painter: Painter, batch: Batch, generator: torch.Generator, dropped: int, *, fast: bool = True
    ) -> tuple[Tensor, Tensor]:
        x0, count, device = batch.latents, len(batch.latents), batch.latents.device
        # One time in each of B equal parts of the range varies less than B independent ones. Shuffled, because the
        # first ``dropped`` rows lose their text.
        parts = torch.randperm(count, device=device, generator=generator)
        parts = parts + torch.rand(count, device=device, generator=generator)
        time = (parts * (len(self.sigmas) / count)).long().clamp(max=len(self.sigmas) - 1)
        sigma = self.sigmas[time].view(-1, 1, 1, 1)
        noise = torch.randn(x0.shape, device=device, generator=generator)
        ids = torch.cat([self.empty.expand(dropped, -1), batch.ids[dropped:]])
        x = (x0 + sigma * noise) / (sigma.square() + 1).sqrt()
        with torch.autocast(device.type, torch.bfloat16, enabled=x.is_cuda):
            output, pooled = (self.predict if fast else _predict)(painter, x, time, ids)
        error = (output.float() - training_target(self.kind, x0, noise, sigma)).square().mean((1, 2, 3))
        return error * weight(self.kind, sigma.flatten(), self.training.snr_cap), pooled


def _predict(painter: Painter, x: Tensor, time: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    text = painter.towers.text_encoder(ids)
    return painter.unet(x, time, text.last_hidden_state), text.pooled
