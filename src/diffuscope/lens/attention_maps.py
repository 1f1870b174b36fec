"""Word heat maps: where in the picture each word of the prompt was looked at, from cross-attention.

Tang et al. 2023 (DAAM): the attention that a token gets, summed over steps, layers and heads, each
layer's map scaled up to the latents' size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.capture import Capture
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.request import Request
from diffuscope.prompt.positions import token_positions, word_tokens

CROSS = "unet.*.cross.weights"


class AttentionCapture(Capture):
    """A Capture of all cross-attention: ``pipe(prompt, tap=capture)``, then ``capture.maps(pipe.tokenizer)``."""

    def __init__(self, names: str | Sequence[str] = CROSS, *, budget: int | None = None) -> None:
        """Capture these layers' cross-attention; globs such as ``"unet.up.*.cross.weights"`` choose among them."""
        super().__init__(names, reduce="mean", heads="mean", budget=budget)
        self._prompts: tuple[str, ...] = ()
        self._size = (0, 0)

    def prepare(self, components: Sequence[nn.Module], request: Request | None) -> None:
        """Take note of the prompts and the picture's size.

        Raises:
            InputError: a name that means no value, one that is no cross-attention, or too little memory.
        """
        super().prepare(components, request)
        wrong = sorted(name for name in self.names if not name.endswith("cross.weights"))
        if wrong:
            raise InputError(f"{wrong[0]!r} is no cross-attention; word maps come of names that end in cross.weights")
        if request is not None:
            self._size = request.height, request.width
            self._prompts = tuple(p for p in request.prompt for _ in range(request.num_images_per_prompt))

    def maps(self, tokenizer: Tokenizer, image: int = 0) -> "AttentionMaps":
        """The maps of one picture of the run.

        Args:
            tokenizer: the pipeline's.
            image: which picture, from 0.

        Raises:
            InputError: nothing was watched yet, or there is no such picture.
        """
        if not len(self):
            raise InputError("nothing was watched: make a picture with tap=capture first")
        if not 0 <= image < self.images:
            raise InputError(f"picture {image} does not exist; the run made {self.images}")
        layers = [self.conditional(self[name])[image] for name in self.keys()]
        return AttentionMaps(heat(layers, self._size), self._prompts[image], tokenizer)


def heat(layers: Sequence[Tensor], picture: tuple[int, int]) -> Tensor:
    """[S,h,w] mean over layers of the attention [T,S] that each context token gets, at the size of the finest layer.

    Args:
        layers: [T,S] each, T the tokens of that layer's resolution, row by row; rows sum to 1.
        picture: height and width, in whatever unit: the proportions tell how T splits.

    Raises:
        InputError: a layer's T does not split in these proportions.
    """
    grids = [layer.T.unflatten(1, grid(layer.shape[0], picture)) for layer in layers]  # [S,h,w]
    finest = max((each.shape[1:] for each in grids), key=lambda size: size[0] * size[1])
    scaled = [F.interpolate(each[None], size=tuple(finest), mode="bicubic", align_corners=False)[0] for each in grids]
    return torch.stack(scaled).mean(0).clamp_min(0)


def grid(count: int, picture: tuple[int, int]) -> tuple[int, int]:
    """Height and width of ``count`` tokens that lie over a picture of these proportions, the nearest that fits.

    Raises:
        InputError: none is near.
    """
    ratio = picture[0] / picture[1]
    fits = [(high, count // high) for high in range(1, count + 1) if count % high == 0]
    best = min(fits, key=lambda size: abs(np.log(size[0] / size[1] / ratio)))
    if not 0.5 < best[0] / best[1] / ratio < 2:
        raise InputError(f"{count} tokens do not lie over a picture of {picture[0]}x{picture[1]}")
    return best


@dataclass(frozen=True)
class AttentionMaps:
    """Where each token of a prompt was looked at. All maps of one picture add up to 1 at every place."""

    tokens: Tensor
    """[S,h,w] one map per token position, at least 0."""
    prompt: str
    tokenizer: Tokenizer

    def word(self, word: str) -> Tensor:
        """[h,w] the map of a word: the mean over its tokens, every time it comes in the prompt.

        Raises:
            InputError: the word is not in the prompt, or was cut; the message names the nearest.
        """
        return self.tokens[list(token_positions(word, self.prompt, self.tokenizer))].mean(0)

    def words(self) -> dict[str, Tensor]:
        """Every word of the prompt that the model saw, in order, with its map [h,w]."""
        line = word_tokens(self.prompt, self.tokenizer)
        return {word.word: self.word(word.word) for word in line if word.positions}

    def peaks(self) -> dict[str, float]:
        """How far each word landed: the largest value of its map, relative to the mean of all words' largest.

        Chefer et al. 2023 (Attend-and-Excite) take a token whose map is large nowhere as neglected; well
        below 1 is a word that landed nowhere. The map is smoothed over 3x3 places first, as there.
        """
        peaks = {word: float(smoothed(each[None, None]).max()) for word, each in self.words().items()}
        mean = sum(peaks.values()) / max(len(peaks), 1)
        return {word: peak / mean if mean else 0.0 for word, peak in peaks.items()}

    def horizontal_centre(self, word: str) -> float:
        """Where the word's map has its centre, from 0 at the left edge to 1 at the right one."""
        column = self.word(word).sum(0)
        at = (torch.arange(len(column)) + 0.5) / len(column)
        return float((column * at).sum() / column.sum())

    def overlay(self, word: str, picture: Image.Image, strength: float = 0.7) -> Image.Image:
        """The picture with the word's map over it: yellow where it is largest, dark where it is smallest.

        Args:
            word: one of the prompt.
            picture: RGB; not modified.
            strength: 0 is the picture alone, 1 the map alone.

        Raises:
            InputError: the word is not in the prompt, or ``strength`` is outside [0, 1].
        """
        if not 0 <= strength <= 1:
            raise InputError(f"strength {strength} is outside [0, 1]")
        value = self.word(word)
        share = (value - value.min()) / (value.max() - value.min()).clamp_min(1e-12)
        size = (picture.height, picture.width)
        share = F.interpolate(share[None, None], size=size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
        anchors = torch.tensor(_CIVIDIS, dtype=torch.float32)
        at = share * (len(anchors) - 1)
        low = at.floor().long().clamp(max=len(anchors) - 2)
        colours = torch.lerp(anchors[low], anchors[low + 1], (at - low)[..., None])  # [H,W,3]
        base = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float()
        mixed = torch.lerp(base, colours, strength)
        return Image.fromarray(mixed.round().clamp(0, 255).byte().numpy())


def smoothed(maps: Tensor) -> Tensor:
    """[B,C,h,w] maps after a Gaussian filter of 3x3 places and deviation 0.5, edges repeated."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 0.5**2)).to(maps)
    kernel = torch.outer(line, line) / line.sum() ** 2
    kernel = kernel.expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel, groups=maps.shape[1])


_CIVIDIS = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (187, 174, 108), (254, 232, 56))
"""Five colours of matplotlib's cividis (Nunez et al. 2018): light grows evenly, for colour-blind eyes too."""
