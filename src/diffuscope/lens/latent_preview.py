"""Quick colours of latents: a linear map from latent channels to red, green and blue, and the map fitted to a VAE."""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.images import to_images


def preview(latents: Tensor, low: float | None = None, high: float | None = None) -> list[Image.Image]:
    """The first three channels of latents [B,C,h,w] as red, green and blue, from ``low`` (black) to ``high`` (white).

    Needs no fit, so the colours mean nothing. None takes the least and the largest value.

    Raises:
        InputError: fewer than three channels.
    """
    if latents.ndim != 4 or latents.shape[1] < 3:
        raise InputError(f"latents have shape {list(latents.shape)}; give [B,C,h,w] with at least 3 channels")
    shown = latents[:, :3].float().cpu()
    bottom = float(shown.min()) if low is None else low
    top = float(shown.max()) if high is None else high
    return to_images((shown - bottom) / max(top - bottom, 1e-12) * 2 - 1)


@dataclass(frozen=True)
class LatentRGB:
    """A fitted map: colour = latents times matrix plus offset, place by place; as small as the latents."""

    matrix: Tensor
    """[3,C]."""
    offset: Tensor
    """[3], for pixels in [-1,1]."""
    error: float
    """Root mean square error of the fit, in pixels of [-1,1]."""

    def __call__(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of one pixel a latent, of latents [B,C,h,w]."""
        values = latents.float().cpu()
        return to_images(torch.einsum("rc,bchw->brhw", self.matrix, values) + self.offset[:, None, None])


def fit_latent_rgb(latents: Tensor, pixels: Tensor) -> LatentRGB:
    """The linear map that comes nearest to the VAE's colours, by least squares.

    Args:
        latents: [B,C,h,w] of any pictures, in the scale in which they will be shown.
        pixels: [B,3,H,W] what they decode to, in [-1,1]; averaged to h x w.

    Raises:
        InputError: another number of pictures, or fewer places than the map has numbers.
    """
    if len(latents) != len(pixels) or latents[:, 0].numel() <= latents.shape[1]:
        raise InputError(
            f"latents {list(latents.shape)} and pixels {list(pixels.shape)}; give the same pictures, "
            f"with more than {latents.shape[1]} places"
        )
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.float().cpu(), (latents.shape[2], latents.shape[3]))
    rows = latents.float().cpu().movedim(1, -1).flatten(0, -2)  # [places,C]
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    wanted = small.movedim(1, -1).flatten(0, -2)  # [places,3]
    found = torch.linalg.lstsq(rows, wanted).solution  # [C+1,3]
    error = float((rows @ found - wanted).square().mean().sqrt())
    return LatentRGB(found[:-1].T.contiguous(), found[-1], error)
