"""Training of the U-Net together with the text encoder, by the diffusion loss and CLIP's loss."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffuscope.diffusion.schedules import Schedule
from diffuscope.models.unet import UNet
from diffuscope.training.denoising import DenoisingLoss, stratified
from diffuscope.training.examples import Batch, Examples
from diffuscope.training.loop import StepContext
from diffuscope.training.rounding import Rounding, round_weights
from diffuscope.training.text import Clip, retrieval


@dataclass(frozen=True, kw_only=True)
class UNetTraining:
    """Batches and loss of the stage ``unet``."""

    batch_size: int = 512
    text_dropout: float = 0.1  # part of the texts replaced by the empty text, for guidance (Ho & Salimans 2022)
    min_snr_gamma: float = 5.0
    clip_weight: float = 0.05  # of CLIP's loss, so that the text encoder still fits the image projection


class DiffusionModel(nn.Module):
    """CLIP and the U-Net, which are trained together."""

    def __init__(self, clip: Clip, unet: UNet) -> None:
        super().__init__()
        self.clip = clip
        self.unet = unet


class UNetTask:
    """The task of ``loop.train`` for U-Net and text encoder.

    Args:
        model: the networks, on their device.
        examples: latents and texts.
        held_out: held-out examples.
        schedule: noise levels and prediction type.
        empty: [T] token ids of the empty text.
        training: batch size and loss.
        compiled: compile the networks.
        rounded: base of the difference that will be stored, and the completed part of the run from which the weights
            are trained as it stores them; None stores them whole.
    """

    adamw_prefixes: tuple[str, ...] = ("unet.conv_in", "unet.conv_out", "clip.image_projection")

    def __init__(
        self,
        model: DiffusionModel,
        examples: Examples,
        held_out: Examples,
        schedule: Schedule,
        empty: Tensor,
        training: UNetTraining,
        *,
        compiled: bool = False,
        rounded: tuple[Mapping[str, Tensor], float] | None = None,
    ) -> None:
        self.network: nn.Module = model
        self.base: Mapping[str, Tensor] | None = None if rounded is None else rounded[0]
        self.rounded_from = 1.0 if rounded is None else rounded[1]
        self.rounding = None if self.base is None else Rounding(model, self.base, compiled=compiled)
        self.model, self.examples, self.held_out, self.training = model, examples, held_out, training
        device = examples.latents.device
        self.denoising = DenoisingLoss(schedule, device, training.min_snr_gamma)
        self.empty = empty.to(device)
        # CUDA graphs: launched from Python one by one, the kernels would leave the GPU half idle.
        self.predict = torch.compile(_predict, mode="reduce-overhead") if compiled else _predict

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted squared error of the prediction, plus CLIP's loss on the same texts."""
        if self.rounding is not None and context.progress >= self.rounded_from:
            self.rounding.round()
        count, generator = self.training.batch_size, context.shared
        batch = self.examples.batch(count, context, generator)
        whole = context.whole(count)
        # The first rows of the whole batch lose their text, so the first of every process.
        dropped = len(range(context.rank, round(self.training.text_dropout * whole), context.processes))
        draws = self._draws(whole, batch.latents.shape[1:], generator)
        parts, noise = (context.own(draw) for draw in draws)
        error, pooled = self._error(self.model, batch, parts, noise, dropped)
        loss = error.mean()
        numbers = {"error": loss.detach()}
        if self.training.clip_weight:
            clip_loss = self.model.clip.contrastive_loss(pooled[dropped:], batch.features[dropped:].float())
            loss = loss + self.training.clip_weight * clip_loss
            numbers["clip_loss"] = clip_loss.detach()
        return loss, numbers

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The weighted error on held-out examples with fixed noise and times, and R@1 and R@5 of CLIP.

        With a base, also the error of the network as its file stores it.
        """
        assert isinstance(network, DiffusionModel)
        numbers = {"error": self._held_out_error(network)} | retrieval(network.clip, self.held_out)
        if self.base is not None:
            stored = copy.deepcopy(network)
            round_weights(stored, self.base)
            numbers["stored"] = self._held_out_error(stored)
        return numbers

    def _held_out_error(self, network: DiffusionModel) -> float:
        generator = torch.Generator(self.empty.device).manual_seed(0)
        errors = []
        for start in range(0, len(self.held_out), 256):
            part = self.held_out[start : start + 256]
            batch = Batch(part.latents.float(), part.ids[:, 0].long(), part.features)
            parts, noise = self._draws(len(part), batch.latents.shape[1:], generator)
            errors.append(self._error(network, batch, parts, noise, 0, fast=False)[0])
        return torch.cat(errors).mean().item()

    def _draws(self, count: int, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random times [count] as parts of the range, and noise [count,C,h,w]."""
        parts = stratified(count, generator)  # shuffled, because the first rows lose their text
        return parts, torch.randn((count, *shape), device=generator.device, generator=generator)

    def _error(
        self, model: DiffusionModel, batch: Batch, parts: Tensor, noise: Tensor, dropped: int, *, fast: bool = True
    ) -> tuple[Tensor, Tensor]:
        x0, device = batch.latents, batch.latents.device
        x, time, sigma = self.denoising.noised(x0, parts, noise)
        ids = torch.cat([self.empty.expand(dropped, -1), batch.ids[dropped:]])
        with torch.autocast(device.type, torch.bfloat16, enabled=x.is_cuda):
            output, pooled = (self.predict if fast else _predict)(model, x, time, ids)
        return self.denoising.error(output, x0, noise, sigma), pooled


def _predict(model: DiffusionModel, x: Tensor, time: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    text = model.clip.text_encoder(ids)
    return model.unet(x, time, text.last_hidden_state), text.pooled
