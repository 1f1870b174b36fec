"""Training of the concept classifier on real images, with other augmentations than those of the model."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffuscope.training.loop import StepContext
from diffuscope.vision.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining:
    """Batches and augmentations."""

    batch_size: int = 512
    label_smoothing: float = 0.1
    rotation: float = 20.0  # degrees, to either side
    scale: tuple[float, float] = (0.6, 1.15)  # side of the sprite, in widths of the canvas
    shift: float = 0.12  # of the centre, in widths of the canvas
    hue: float = 25.0  # degrees, to either side
    white: float = 0.5  # part of the images on white; the others on a random colour
    cutout: float = 0.35  # side of the square cut out of half of the images, in widths of the canvas
    noise: float = 0.08  # largest standard deviation of noise, pixels in [-1,1]


def augment(sprites: Tensor, training: ClassifierTraining, generator: torch.Generator) -> Tensor:
    """[B,3,P,P] float32 in [-1,1]: sprites rotated, scaled, shifted, on a background, with changed colours.

    Without flips: a rising chart would become a falling one.

    Args:
        sprites: [B,4,P,P] uint8 RGBA.
        training: ranges of the augmentations.
        generator: on the device of the sprites.
    """
    count, device = len(sprites), sprites.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, device=device, generator=generator)

    colour = sprites.float() / 255
    layer = torch.cat([colour[:, :3] * colour[:, 3:], colour[:, 3:]], 1)  # premultiplied, for clean edges
    angle = uniform(-1, 1) * math.radians(training.rotation)
    scale = uniform(*training.scale)
    shift = uniform(-2 * training.shift, 2 * training.shift, 2)
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    inverse = rotation / scale[:, None, None]  # from canvas to sprite, both [-1,1]
    affine = torch.cat([inverse, -(inverse @ shift[:, :, None])], 2)
    grid = F.affine_grid(affine, list(layer.shape), align_corners=False)
    layer = F.grid_sample(layer, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    is_white = uniform(0, 1, 1) < training.white
    background = torch.where(is_white, torch.ones_like(shift[:, :1]), uniform(0, 1, 3))
    pixels = layer[:, :3] + background[:, :, None, None] * (1 - layer[:, 3:])
    pixels = _colour_jitter(pixels * 2 - 1, uniform(-1, 1, 4), training.hue)
    pixels = torch.where(uniform(0, 1, 1, 1, 1) < 0.3, F.avg_pool2d(pixels, 3, stride=1, padding=1), pixels)
    noise = torch.randn(pixels.shape, device=device, generator=generator)
    pixels = pixels + noise * uniform(0, training.noise, 1, 1, 1)
    return _cutout(pixels, uniform(0, 1, 3), training.cutout).clamp(-1, 1)


def _colour_jitter(pixels: Tensor, strength: Tensor, hue: float) -> Tensor:
    """``pixels`` [B,3,P,P] in [-1,1] with hue, saturation, contrast and brightness changed by ``strength`` [B,4]."""
    turn, saturation, contrast, brightness = strength.view(-1, 4, 1, 1, 1).unbind(1)
    grey = pixels.mean(1, keepdim=True)
    # Rodrigues' rotation around the axis of greys: it turns hues and keeps the mean of the channels.
    angle = turn * math.radians(hue)
    crossed = (pixels.roll(1, 1) - pixels.roll(-1, 1)) / math.sqrt(3)
    chroma = (pixels - grey) * angle.cos() + crossed * angle.sin()
    return (grey + chroma * (1 + 0.5 * saturation)) * (1 + 0.25 * contrast) + 0.2 * brightness


def _cutout(pixels: Tensor, position: Tensor, side: float) -> Tensor:
    """``pixels`` with a grey square over half of the images (DeVries & Taylor 2017); ``position`` is [B,3] in [0,1]."""
    along = (torch.arange(pixels.shape[-1], device=pixels.device) + 0.5) / pixels.shape[-1]
    across, down = ((along - position[:, i, None]).abs() < side / 2 for i in range(2))
    hidden = down[:, :, None] & across[:, None, :] & (position[:, 2] < 0.5)[:, None, None]
    return pixels.masked_fill(hidden[:, None], 0.0)


class ClassifierTask:
    """The task of ``loop.train`` for the classifier.

    Args:
        classifier: the network, on its device.
        sprites: [N,4,P,P] uint8 RGBA of the training images, on the same device.
        labels: [N] class of each.
        held_out: held-out sprites and labels.
        training: batch size and augmentations.
        compiled: compile the network.
    """

    adamw_prefixes: tuple[str, ...] = ("conv_in", "fc")

    def __init__(
        self,
        classifier: Classifier,
        sprites: Tensor,
        labels: Tensor,
        held_out: tuple[Tensor, Tensor],
        training: ClassifierTraining,
        *,
        compiled: bool = False,
    ) -> None:
        self.network: nn.Module = classifier
        self.sprites, self.labels, self.held_out, self.training = sprites, labels, held_out, training
        self.forward = torch.compile(classifier) if compiled else classifier

    def loss(self, context: StepContext) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of a new batch with smoothed labels."""
        device = self.sprites.device
        rows = context.rows_on(device, self.training.batch_size, len(self.sprites))
        pixels = augment(self.sprites[rows], self.training, context.generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=pixels.is_cuda):
            logits = self.forward(pixels.contiguous(memory_format=torch.channels_last))
        labels = self.labels[rows]
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.training.label_smoothing)
        return loss, {"accuracy": (logits.detach().argmax(1) == labels).float().mean()}

    @torch.no_grad()
    def validate(self, network: nn.Module) -> dict[str, float]:
        """Top-1 accuracy on held-out images, on white and without augmentation."""
        sprites, labels = self.held_out
        predictions = []
        for part in sprites.split(256):
            colour = part.float() / 255
            pixels = (colour[:, :3] * colour[:, 3:] + 1 - colour[:, 3:]) * 2 - 1
            predictions.append(network(pixels).argmax(1))
        return {"accuracy": (torch.cat(predictions) == labels).float().mean().item()}
