"""How well a picture fits a text, by the two towers that the shipped model's text encoder was trained in.

Text and picture become unit vectors in one space; near is alike (Radford et al. 2021). The picture's tower is
EfficientNet-Lite0's pooled features and one learned matrix. It is a judge of any model's pictures, and
differentiable: the loss leads a run by ``loss_guidance``.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from diffuscope import loading
from diffuscope.diffusion.loss_guidance import Loss
from diffuscope.errors import InputError, ModelNotFoundError, WeightMismatchError
from diffuscope.models.efficientnet import EfficientNet
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.prompt import truncation_notice
from diffuscope.prompt.positions import untrained_words
from diffuscope.teacher import load_efficientnet, shipped
from diffuscope.weights.store import packing

SMALLEST = 0.7
"""Side of the smallest cut, as a share of the picture's."""

TOWERS, PICTURE = "towers.safetensors", "picture.weight"
"""The file in a model's folder, and the name in it, of the matrix from the teacher's features to the texts' space."""


class Similarity:
    """Cosines of pictures with texts. About 0.5 is a good match, and 0 to 0.2 is none.

    Args:
        text_encoder: with a projection.
        teacher: whose pooled features [B,F] see the picture.
        matrix: [P,F] from these features into the space of the projected texts.
    """

    def __init__(self, text_encoder: TextEncoder, teacher: EfficientNet, matrix: Tensor) -> None:
        self.text_encoder, self.teacher, self.matrix = text_encoder, teacher, matrix
        self.tokenizer = Tokenizer(pad=text_encoder.config.pad)

    @torch.no_grad()
    def texts(self, texts: str | Sequence[str]) -> Tensor:
        """[K,P] unit vectors of one text or several."""
        ids = self.tokenizer.encode(texts if isinstance(texts, str) else list(texts))
        pooled = self.text_encoder(ids.to(self.matrix.device)).pooled
        return F.normalize(pooled.float(), dim=1)

    def pictures(self, pixels: Tensor) -> Tensor:
        """[B,P] unit vectors of pictures [B,3,H,W] in [0,1], differentiable."""
        features = self.teacher.features(pixels.to(self.matrix)).pooled
        return F.normalize(features @ self.matrix.T, dim=1)

    def __call__(self, pixels: Tensor, texts: str | Sequence[str]) -> Tensor:
        """[B,K] cosine of each picture [B,3,H,W] in [0,1] with each text."""
        return self.pictures(pixels) @ self.texts(texts).T

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a cosine depends on, by name."""
        text = {f"text.{name}": value for name, value in self.text_encoder.state_dict().items()}
        teacher = {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
        return text | teacher | {PICTURE: self.matrix}

    def notes(self, text: str) -> list[str]:
        """A sentence for each thing about ``text`` that the judge cannot take in: words it never saw, a cut end."""
        unknown = ", ".join(map(repr, untrained_words(text, self.tokenizer, self.text_encoder.token.weight)))
        cut = truncation_notice(text, self.tokenizer, "the text of similarity")
        found = [f"the judge of similarity has never seen {unknown}; say it in other words"] if unknown else []
        return found + ([cut] if cut else [])

    def loss(self, text: str, *, weight: float = 8.0, cuts: int = 4, seed: int = 0) -> Loss:
        """``weight`` times the squared great-circle distance of a picture's cuts from a text, their mean.

        Hugging Face's diffusion class leads by CLIP so, with these constants. The cuts are squares of 0.7 to 1 times
        the shorter side, drawn once: what is near to the text in all of them is in the picture, not in its pixels.

        Args:
            text: where to.
            weight: of the loss.
            cuts: how many.
            seed: of their sizes and places.

        Raises:
            InputError: no cut.
        """
        if cuts < 1:
            raise InputError(f"{cuts} cuts; give at least 1")
        shares = torch.rand(cuts, 3, generator=torch.Generator().manual_seed(seed)).tolist()
        target = self.texts(text)

        def loss(picture: Tensor) -> Tensor:
            height, width = picture.shape[-2:]
            found = []
            for size, down, right in shares:
                side = round(min(height, width) * (SMALLEST + (1 - SMALLEST) * size))
                top, left = round(down * (height - side)), round(right * (width - side))
                found.append(self.pictures(picture[:, :, top : top + side, left : left + side]))
            return weight * great_circle(torch.cat(found), target).square().mean()

        return loss


def great_circle(first: Tensor, second: Tensor) -> Tensor:
    """[B] angle in radians between the rows of unit vectors [B,P] and [B,P] or [1,P]; 0 to pi."""
    return 2 * ((first - second).norm(dim=1) / 2).clamp(max=1).asin()


def load_similarity(
    device: str | torch.device = "cpu",
    *,
    folder: str | PathLike[str] | None = None,
    teacher: str | Path | None = None,
) -> Similarity:
    """Towers, float32, ready to judge the pictures of any model, of whatever text encoder and size.

    Args:
        device: where they shall be.
        folder: of a model of the emoji recipe, whose ``towers.safetensors`` lies beside its text encoder; None is the
            shipped one.
        teacher: EfficientNet-Lite0's weights, as ``load_efficientnet`` takes them; None is the shipped file.

    Raises:
        InputError: there is no such device.
        ModelNotFoundError: a file is missing; a released model's folder, such as Stable Diffusion's, has no towers.
        WeightsError: a file is damaged, or they do not fit each other.
    """
    device = loading.choose_device(device)
    place = loading.find("emoji" if folder is None else folder)
    if teacher is None and not shipped().is_file():
        raise ModelNotFoundError(f"no weights at {shipped()}, where the package has them; install diffuscope again")
    if not (place / TOWERS).is_file():
        raise ModelNotFoundError(
            f"{place} has no {TOWERS}: it cannot judge pictures by texts; the shipped towers can, any model's pictures"
        )
    encoder = loading.load_network(
        place / "text_encoder.safetensors", loading.read_config(place).text_encoder, device, torch.float32
    )
    assert isinstance(encoder, TextEncoder)
    eye = load_efficientnet(teacher).to(device)
    matrix = packing.read(place / TOWERS).get(PICTURE)
    wanted = [encoder.config.projection, eye.head.out_channels]
    if matrix is None or list(matrix.shape) != wanted:
        got = "is missing" if matrix is None else f"has shape {list(matrix.shape)}"
        raise WeightMismatchError(
            f"{place / TOWERS}: {PICTURE!r} {got}, wanted {wanted} between this teacher and this text encoder; give "
            "the folder as the recipe wrote it"
        )
    return Similarity(encoder, eye, matrix.float().to(device))
