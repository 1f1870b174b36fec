"""Training of a class-conditional U-Net on the pixels of small pictures, without autoencoder and text encoder."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.config.checks import positive, typed
from diffuscope.data.digits import LabelledImages
from diffuscope.diffusion.prediction import training_target
from diffuscope.diffusion.schedules import Schedule
from diffuscope.models.unet import UNet
from diffuscope.training.loop import StepContext


@dataclass(frozen=True, kw_only=True)
class PixelTraining:
    """Batches and augmentations."""

    batch_size: int = 64
    class_dropout: float = 0.1  # part of the classes replaced by none, for guidance (Ho & Salimans 2022)
    shift: int = 0  # pixels, to either side; MNIST is centred, and shifted digits are others than its own
    rotation: float = 8.0  # degrees, to either side


@dataclass(frozen=True, kw_only=True)
class PixelLatents:
    """Pixels as the U-Net sees them: squares of ``patch`` pixels as channels, of mean 0 and variance 1.

    It stands where a latent model has its autoencoder, and loses nothing.
    """

    mean: float
    std: float
    patch: int = 4

    def __post_init__(self) -> None:
        typed(self)
        positive(patch=self.patch)
        if self.std <= 0:
            raise ValueError(f"std is {self.std}; it must be a positive number")

    def encode(self, pixels: Tensor) -> Tensor:
        """[B,patch^2,H/patch,W/patch] from pixels [B,1,H,W] in [0,1]."""
        return F.pixel_unshuffle((pixels - self.mean) / self.std, self.patch)

    def decode(self, latents: Tensor) -> Tensor:
        """[B,1,H,W] in [0,1]: the inverse, clipped."""
        return (F.pixel_shuffle(latents, self.patch) * self.std + self.mean).clamp(0, 1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """[B,1,classes] float32: a class as a text of one token, which cross-attention reads; zeros for label -1, none."""
    return F.one_hot(labels + 1, classes + 1)[:, None, 1:].float()


def augment(pixels: Tensor, training: PixelTraining, generator: torch.Generator) -> Tensor:
    """[B,1,H,W] pictures, each rotated about its centre and shifted by whole pixels; black comes in from outside."""
    count, device = len(pixels), pixels.device
    angle = (2 * torch.rand(count, device=device, generator=generator) - 1) * math.radians(training.rotation)
    reach = training.shift
    shift = torch.randint(-reach, reach + 1, (count, 2), device=device, generator=generator) * (2 / pixels.shape[-1])
    rows = (angle.cos(), -angle.sin(), shift[:, 0], angle.sin(), angle.cos(), shift[:, 1])
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


class PixelTask:
    """The task of ``loop.train`` for a U-Net on pixels.

    Times are uniform, and on the cosine schedule so are the angles; the loss is the plain squared error of v, which is
    that of x0 weighted by SNR + 1 (Salimans & Ho 2022, section 4).

    Args:
        network: on its device; it reads a class of ``one_hot`` where others read text.
        images: to learn from, on that device.
        held_out: never trained on.
        latents: how pixels enter.
        schedule: of v-prediction.
        training: batches and augmentations.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "conv_out")

    def __init__(
        self,
        network: UNet,
        images: LabelledImages,
        held_out: LabelledImages,
        latents: PixelLatents,
        schedule: Schedule,
        training: PixelTraining,
    ) -> None:
        self.network: nn.Module = network
        self.images, self.held_out, self.latents, self.training = images, held_out, latents, training
        self.prediction = schedule.config.prediction
        self.sigmas = schedule.sigmas.to(images.pixels.device, torch.float32)

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of the velocity for the next pictures of the order."""
        count, generator = self.training.batch_size, context.generator
        batch = self.images[context.rows_on(self.images.labels.device, count, len(self.images))]
        labels = batch.labels.clone()
        labels[: round(self.training.class_dropout * count)] = -1
        error = self._error(self.network, augment(batch.pixels, self.training, generator), labels, generator)
        return error, {}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """The error on held-out pictures, as they are, with fixed noise and times."""
        generator = torch.Generator(self.sigmas.device).manual_seed(0)
        part = self.held_out[:1000]
        return {"error": self._error(network, part.pixels, part.labels, generator).item()}

    def _error(self, network: nn.Module, pixels: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        x0, count, device = self.latents.encode(pixels), len(pixels), pixels.device
        # One time in each of B equal parts of the range, shuffled: the first rows have no class.
        parts = torch.randperm(count, device=device, generator=generator)
        parts = (parts + torch.rand(count, device=device, generator=generator)) / count
        time = (parts * len(self.sigmas)).long().clamp(max=len(self.sigmas) - 1)
        sigma = self.sigmas[time].view(-1, 1, 1, 1)
        noise = torch.randn(x0.shape, device=device, generator=generator)
        x = ((x0 + sigma * noise) / (sigma.square() + 1).sqrt()).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=x.is_cuda):
            output = network(x, time, one_hot(labels, 10))
        return (output.float() - training_target(self.prediction, x0, noise, sigma)).square().mean()
