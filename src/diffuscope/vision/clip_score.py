"""CLIP score: the cosine of image and text embeddings (Radford et al. 2021), differentiable, for images of any model.

The text encoder is that of the shipped model, which was trained by CLIP's loss. The image encoder is EfficientNet-Lite0
and one learned projection.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope import loading, model_files
from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.errors import InputError, ModelNotFoundError, WeightMismatchError
from diffuscope.images import ImageSources, open_image, to_pixels
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.positions import untrained_words
from diffuscope.vision.efficientnet import EfficientNet
from diffuscope.vision.feature_net import load_efficientnet, shipped_path
from diffuscope.weights.store import packing
from diffuscope.weights.store.old_names import current_names

MIN_CROP = 0.7
"""Side of the smallest crop, as a share of the image's shorter side."""

TOWERS, PROJECTION = "towers.safetensors", "image_projection.weight"
"""The file in a model's folder that holds the image projection, and the name of that matrix in it."""


class ClipScore:
    """Cosines of images with texts. About 0.5 is a good match; 0 to 0.2 is none.

    Args:
        text_encoder: with a projection.
        feature_net: its pooled features [B,F] are the image encoder's input.
        projection: [P,F] from image features to the space of the text embeddings.
    """

    def __init__(self, text_encoder: TextEncoder, feature_net: EfficientNet, projection: Tensor) -> None:
        self.text_encoder, self.feature_net, self.projection = text_encoder, feature_net, projection
        self.tokenizer = Tokenizer(pad=text_encoder.config.pad)

    @torch.no_grad()
    def encode_texts(self, texts: str | Sequence[str]) -> Tensor:
        """[K,P] unit vectors of one text or several."""
        ids = self.tokenizer.encode(texts if isinstance(texts, str) else list(texts))
        pooled = self.text_encoder(ids.to(self.projection.device)).pooled
        return F.normalize(pooled.float(), dim=1)

    def encode_images(self, images: Tensor | ImageSources) -> Tensor:
        """[B,P] unit vectors of images [B,3,H,W] in [0,1], differentiable; or of PIL images or files, of any sizes."""
        if not isinstance(images, Tensor):
            sources = images if isinstance(images, list | tuple) else [images]
            each = [to_pixels([open_image(source)]) / 2 + 0.5 for source in sources]
            if not each:
                raise InputError("images", images, "at least one image")
            return torch.cat([self.encode_images(pixels) for pixels in each])
        pixels = images
        features = self.feature_net.features(pixels.to(self.projection)).pooled
        return F.normalize(features @ self.projection.T, dim=1)

    def __call__(self, images: Tensor | ImageSources, texts: str | Sequence[str]) -> Tensor:
        """[B,K] cosine of each image with each text: [B,3,H,W] in [0,1], PIL images or files."""
        return self.encode_images(images) @ self.encode_texts(texts).T

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a score depends on, by name."""
        text = {f"text.{name}": value for name, value in self.text_encoder.state_dict().items()}
        image = {f"feature_net.{name}": value for name, value in self.feature_net.state_dict().items()}
        return text | image | {PROJECTION: self.projection}

    def notes(self, text: str) -> list[str]:
        """A sentence about untrained words of ``text``, and one about words beyond the token limit."""
        unknown = ", ".join(map(repr, untrained_words(text, self.tokenizer, self.text_encoder.token_embedding.weight)))
        cut = truncation_notice(text, self.tokenizer, "the text of similarity")
        notes = [f"similarity: its text encoder was never trained on {unknown}; use other words"] if unknown else []
        return notes + ([cut] if cut else [])

    def loss(self, text: str, *, weight: float = 8.0, cuts: int = 4, seed: int = 0) -> Loss:
        """``weight`` times the squared great-circle distance between a text and crops of an image, averaged over crops.

        The constants are those of CLIP guidance in Hugging Face's diffusion class. Crops are squares of 0.7 to 1 times
        the shorter side, drawn once. Averaging over them keeps the gradient from adversarial patterns of pixels.

        Args:
            text: the target.
            weight: factor of the loss.
            cuts: number of crops, at least 1.
            seed: of the crops' sizes and positions.

        Raises:
            InputError: ``cuts`` is below 1.
        """
        if cuts < 1:
            raise InputError("cuts", cuts, "a whole number of at least 1")
        shares = torch.rand(cuts, 3, generator=torch.Generator().manual_seed(seed)).tolist()
        target = self.encode_texts(text)

        def loss(image: Tensor) -> Tensor:
            height, width = image.shape[-2:]
            embeddings = []
            for size, down, right in shares:
                side = round(min(height, width) * (MIN_CROP + (1 - MIN_CROP) * size))
                top, left = round(down * (height - side)), round(right * (width - side))
                embeddings.append(self.encode_images(image[:, :, top : top + side, left : left + side]))
            return weight * great_circle(torch.cat(embeddings), target).square().mean()

        return loss


def great_circle(first: Tensor, second: Tensor) -> Tensor:
    """[B] angle in radians, 0 to pi, between the rows of unit vectors [B,P] and [B,P] or [1,P]."""
    return 2 * ((first - second).norm(dim=1) / 2).clamp(max=1).asin()


def load_clip_score(
    device: str | torch.device = "cpu",
    *,
    folder: str | PathLike[str] | None = None,
    feature_net: str | Path | None = None,
) -> ClipScore:
    """Load the networks of a CLIP score, in float32. They score images of any model and size.

    Args:
        device: where the networks are put.
        folder: a model of the emoji recipe, with ``towers.safetensors`` and its text encoder; None is the shipped one.
        feature_net: EfficientNet-Lite0's weights, as ``load_efficientnet`` takes them; None is the shipped file.

    Raises:
        InputError: there is no such device.
        ModelNotFoundError: a file is missing. Released models such as Stable Diffusion have no ``towers.safetensors``.
        WeightsError: a file is damaged, or the files do not belong together.
    """
    device = loading.choose_device(device)
    model = model_files.find("emoji" if folder is None else folder)
    if feature_net is None and not shipped_path().is_file():
        raise ModelNotFoundError(f"no weights at {shipped_path()}, a file of the package; install diffuscope again")
    path = model / TOWERS
    if not path.is_file():
        raise ModelNotFoundError(
            f"{model} has no {TOWERS}, so it has no CLIP score of its own; use the shipped one, it scores any model"
        )
    encoder = loading.load_part(model, "text_encoder", device, torch.float32)
    assert isinstance(encoder, TextEncoder)
    network = load_efficientnet(feature_net).to(device)
    projection = current_names(packing.read(path)).get(PROJECTION)
    shape = [encoder.config.projection, network.head.out_channels]
    if projection is None or list(projection.shape) != shape:
        got = "is missing" if projection is None else f"has shape {list(projection.shape)}"
        raise WeightMismatchError(
            f"{path}: {PROJECTION!r} {got}, expected shape {shape} for this text encoder and feature network; give "
            "the folder as training wrote it"
        )
    return ClipScore(encoder, network, projection.float().to(device))
