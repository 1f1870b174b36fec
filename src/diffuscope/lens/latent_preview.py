"""Previews of latents without the VAE: three channels as RGB, and a linear map to RGB fitted to a VAE."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.images import to_images


def preview(latents: Tensor, low: float | None = None, high: float | None = None) -> list[Image.Image]:
    """The first three channels of latents as red, green and blue; the colours mean nothing.

    Args:
        latents: [B,C,h,w] with at least three channels.
        low: value that becomes 0; None is the smallest.
        high: value that becomes 255; None is the largest.

    Raises:
        InputError: fewer than three channels.
    """
    if latents.ndim != 4 or latents.shape[1] < 3:
        raise InputError("latents", latents, "[B,C,h,w] with at least 3 channels")
    values = latents[:, :3].float().cpu()
    bottom = float(values.min()) if low is None else low
    top = float(values.max()) if high is None else high
    return to_images((values - bottom) / max(top - bottom, 1e-12) * 2 - 1)


@dataclass(frozen=True)
class LatentRGB:
    """A linear map from latent channels to RGB, pixel by pixel."""

    matrix: Tensor
    """[3,C]."""
    offset: Tensor
    """[3], for pixels in [-1,1]."""
    error: float
    """RMS error of the fit, for pixels in [-1,1]."""

    def __call__(self, latents: Tensor) -> list[Image.Image]:
        """Images of h x w pixels, of latents [B,C,h,w]."""
        values = latents.float().cpu()
        return to_images(torch.einsum("rc,bchw->brhw", self.matrix, values) + self.offset[:, None, None])


def fit_latent_rgb(latents: Tensor, pixels: Tensor) -> LatentRGB:
    """The linear map nearest to the VAE's colours, by least squares.

    Args:
        latents: [B,C,h,w] of any images, in the scale of those to preview.
        pixels: [B,3,H,W] the decoded images in [-1,1]; averaged to h x w.

    Raises:
        InputError: different numbers of images, or too few pixels for a fit.
    """
    if len(latents) != len(pixels):
        raise InputError("pixels", pixels, f"those of {len(latents)} images, [B,3,H,W]")
    if latents[:, 0].numel() <= latents.shape[1]:
        raise InputError("latents", latents, f"more than {latents.shape[1]} pixels in all")
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.float().cpu(), (latents.shape[2], latents.shape[3]))
    rows = latents.float().cpu().movedim(1, -1).flatten(0, -2)  # [pixels,C]
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    targets = small.movedim(1, -1).flatten(0, -2)  # [pixels,3]
    solution = torch.linalg.lstsq(rows, targets).solution  # [C+1,3]
    error = float((rows @ solution - targets).square().mean().sqrt())
    return LatentRGB(solution[:-1].T.contiguous(), solution[-1], error)
