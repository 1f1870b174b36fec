"""Attention maps: where in the image each word of the prompt gets attention, from cross-attention.

DAAM (Tang et al. 2023): the attention that a token gets, averaged over steps, layers and heads, each layer's map
scaled up to the size of the finest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from diffuscope.errors import InputError
from diffuscope.lens.capture import Capture
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.pipeline.plan import Plan
from diffuscope.prompt.positions import token_positions, word_tokens
from diffuscope.request import Syntax
from diffuscope.types import Brief

CROSS_ATTENTION = "unet.*.cross_attn.weights"


@final
class AttentionCapture:
    """A Tap for attention maps: ``pipe(prompt, tap=capture)``, then ``capture.maps(pipe.tokenizer)``."""

    def __init__(self, names: str | Sequence[str] = CROSS_ATTENTION, *, budget: int | None = None) -> None:
        """Capture cross-attention.

        Args:
            names: of the layers' weights; a glob such as ``"unet.up.*.cross_attn.weights"`` selects some.
            budget: bytes that may be stored; None is half of the free memory.
        """
        self._capture = Capture(names, reduce="mean", heads="mean", budget=budget)
        self._prompts: tuple[str, ...] = ()
        self._syntax: Syntax = "plain"
        self._image_size = (0, 0)

    def prepare(self, components: Sequence[nn.Module], plan: Plan | None) -> None:
        """Find the layers, check the memory, and keep the prompts and the image size."""
        self._capture.prepare(components, plan)
        wrong = sorted(name for name in self._capture.names if not name.endswith("cross_attn.weights"))
        if wrong:
            raise InputError("names", wrong[0], "names of cross-attention, which end in cross_attn.weights")
        if plan is not None:
            self._image_size = plan.preset.height, plan.preset.width
            self._prompts = plan.per_image([parts[0].texts[0] for parts in plan.parts])  # a tap refuses AND
            self._syntax = plan.request.prompt_syntax

    def wants(self, name: str) -> bool:
        """Whether it is a captured layer."""
        return self._capture.wants(name)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        """Store the weights, averaged over heads and steps."""
        return self._capture(name, value)

    def maps(self, tokenizer: Tokenizer, image: int = 0) -> "AttentionMaps":
        """The maps of one image of the last run.

        Args:
            tokenizer: the pipeline's.
            image: its number in the run, from 0.

        Raises:
            InputError: no run was captured, or it has no such image.
        """
        capture = self._capture
        if not len(capture):
            raise InputError("image", image, "an image of a captured run", "Make one with tap=capture first.")
        if not 0 <= image < capture.images:
            raise InputError("image", image, f"0 to {capture.images - 1}, as in the run")
        layers = [capture.conditional(capture[name])[image] for name in capture.keys()]  # noqa: SIM118
        return AttentionMaps(combine_layers(layers, self._image_size), self._prompts[image], tokenizer, self._syntax)


def combine_layers(layers: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
    """[S,h,w] attention of each text token, averaged over layers, at the size of the finest layer.

    Args:
        layers: [T,S] each, T the image tokens of that layer, row by row; rows sum to 1.
        image_size: height and width, for the proportions of the T tokens.
    """
    maps = [layer.T.unflatten(1, token_grid(layer.shape[0], image_size)) for layer in layers]  # [S,h,w]
    finest = max((layer.shape[1:] for layer in maps), key=lambda size: size[0] * size[1])
    scaled = [F.interpolate(layer[None], size=tuple(finest), mode="bicubic", align_corners=False)[0] for layer in maps]
    return torch.stack(scaled).mean(0).clamp_min(0)


def token_grid(count: int, image_size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a grid of ``count`` tokens, in proportions nearest to the image's."""
    ratio = image_size[0] / image_size[1]
    grids = [(height, count // height) for height in range(1, count + 1) if count % height == 0]
    best = min(grids, key=lambda size: abs(np.log(size[0] / size[1] / ratio)))
    if not 0.5 < best[0] / best[1] / ratio < 2:
        raise InputError("count", count, f"a number of tokens that fills a grid over {image_size[0]}x{image_size[1]}")
    return best


@dataclass(frozen=True, repr=False)
class AttentionMaps(Brief):
    """The attention that each token of a prompt gets. At every position the maps of all tokens sum to 1."""

    tokens: Tensor
    """[S,h,w] one map per token position, at least 0."""
    prompt: str
    tokenizer: Tokenizer = field(repr=False)
    syntax: Syntax = "plain"

    def word(self, word: str) -> Tensor:
        """[h,w] the map of a word: the mean over its tokens and occurrences.

        Raises:
            InputError: the word is not in the prompt, or was truncated.
        """
        return self.tokens[list(token_positions(word, self.prompt, self.tokenizer, self.syntax))].mean(0)

    def words(self) -> dict[str, Tensor]:
        """Each word of the prompt that was not truncated, in order, with its map [h,w]."""
        words = word_tokens(self.prompt, self.tokenizer, self.syntax)
        return {word.word: self.word(word.word) for word in words if word.positions}

    def peaks(self) -> dict[str, float]:
        """The largest value of each word's smoothed map, relative to the mean over all words.

        A small peak does not mean that the image lacks the word: one word often collects the attention of all, and so
        raises the mean. ``word_effects`` measures what a word does.
        """
        peaks = {word: float(gaussian_smooth(value[None, None]).max()) for word, value in self.words().items()}
        mean = sum(peaks.values()) / max(len(peaks), 1)
        return {word: peak / mean if mean else 0.0 for word, peak in peaks.items()}

    def horizontal_centre(self, word: str) -> float:
        """The centre of the word's map, from 0 at the left edge to 1 at the right one."""
        column = self.word(word).sum(0)
        x = (torch.arange(len(column)) + 0.5) / len(column)
        return float((column * x).sum() / column.sum())

    def overlay(self, word: str, image: Image.Image, opacity: float = 0.7) -> Image.Image:
        """A copy of the image with the word's map over it, yellow where it is largest.

        Args:
            word: one of the prompt.
            image: RGB.
            opacity: of the map, 0 to 1.

        Raises:
            InputError: the word is not in the prompt, or ``opacity`` is outside [0, 1].
        """
        if not 0 <= opacity <= 1:
            raise InputError("opacity", opacity, "0 to 1")
        value = self.word(word)
        share = (value - value.min()) / (value.max() - value.min()).clamp_min(1e-12)
        size = (image.height, image.width)
        share = F.interpolate(share[None, None], size=size, mode="bicubic", align_corners=False)[0, 0].clamp(0, 1)
        anchors = torch.tensor(_CIVIDIS, dtype=torch.float32)
        index = share * (len(anchors) - 1)
        low = index.floor().long().clamp(max=len(anchors) - 2)
        colours = torch.lerp(anchors[low], anchors[low + 1], (index - low)[..., None])  # [H,W,3]
        base = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).float()
        mixed = torch.lerp(base, colours, opacity)
        return Image.fromarray(mixed.round().clamp(0, 255).byte().numpy())


def gaussian_smooth(maps: Tensor) -> Tensor:
    """[B,C,h,w] maps after a 3x3 Gaussian filter of deviation 0.5, edges replicated."""
    line = torch.exp(-torch.tensor([1.0, 0.0, 1.0]) / (2 * 0.5**2)).to(maps)
    kernel = torch.outer(line, line) / line.sum() ** 2
    kernel = kernel.expand(maps.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel, groups=maps.shape[1])


_CIVIDIS = ((0, 34, 78), (65, 77, 107), (124, 123, 120), (187, 174, 108), (254, 232, 56))
"""Five colours of matplotlib's cividis (Nunez et al. 2018): lightness grows evenly, for the colour-blind too."""
