"""What stands in a masked area before it is generated: the colours around it."""

import numpy as np
from PIL import Image


def filled(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The image with its masked area filled smoothly from what is around it: push and pull (Gortler et al. 1996).

    Args:
        image: RGB.
        mask: of mode "L" and the same size; white is filled.
    """
    known = 1 - np.asarray(mask, np.float32)[..., None] / 255
    pixels = np.asarray(image, np.float32)
    if known.max() == 0:
        return Image.new("RGB", image.size, "grey")
    found = _pulled(pixels * known, known)
    return Image.fromarray((pixels * known + found * (1 - known)).round().clip(0, 255).astype(np.uint8))


def _pulled(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[H,W,3] colours everywhere, of colours times weights [H,W,3] and weights [H,W,1]."""
    colours = weighted / np.maximum(weight, 1e-6)
    if weight.min() >= 1 or max(weight.shape[:2]) == 1:
        return colours
    height, width = weight.shape[:2]
    coarse = _pulled(*(_halved(each) for each in (weighted, weight)))
    doubled = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    share = np.minimum(weight, 1)
    return colours * share + doubled * (1 - share)


def _halved(values: np.ndarray) -> np.ndarray:
    """Sums of 2x2, at most 1 where they are weights of whole cells."""
    height, width = values.shape[:2]
    padded = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return padded.reshape(-(-height // 2), 2, -(-width // 2), 2, -1).sum((1, 3))
