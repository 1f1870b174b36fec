"""The size that was asked for is the size of the answer, whatever the model generates."""

from PIL import Image

from diffuscope.config import ModelConfig
from diffuscope.images import fit_to_size


def generated(config: ModelConfig, width: int, height: int) -> tuple[int, int]:
    """The width and height of the generation for an answer of ``width`` x ``height``.

    A model whose images are upscaled makes as many pixels as its preset has, in the aspect ratio asked for; another one
    makes the size itself, rounded up to what its VAE can make.
    """
    factor, preset = config.vae.factor, config.preset
    if preset.upscale == 1:
        return -(-width // factor) * factor, -(-height // factor) * factor
    scale = (preset.width * preset.height / (width * height)) ** 0.5
    return max(factor, round(width * scale / factor) * factor), max(factor, round(height * scale / factor) * factor)


def answered(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """The image in the size asked for: scaled to cover it, and cropped around the centre."""
    return image if size is None else fit_to_size(image, *size)
