"""Attend-and-Excite: guidance written with a tap. Words that the picture neglects are pushed, by attention's gradient.

Chefer et al. 2023: the loss is 1 less the largest attention, over the picture, of the most neglected word.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.lens.attention_maps import smoothed
from diffuscope.lens.functions import denoiser
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.taps import matching
from diffuscope.prompt.positions import token_positions
from diffuscope.types import Denoiser, Levels, Step

SCALE = 20.0
STEPS = 25
"""The paper's step size, and how many of its 50 steps are led."""


class Gathered:
    """A Tap that keeps cross-attention weights with their gradient, those of one resolution."""

    def __init__(self, names: Sequence[str], tokens: int) -> None:
        """Of these layers, where they have so many picture tokens."""
        self.names = frozenset(names)
        self.tokens = tokens
        self.weights: list[Tensor] = []

    def wants(self, name: str) -> bool:
        """Whether it is one of the layers."""
        return name in self.names

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """The value, which is kept if it has the right resolution."""
        if value.shape[2] == self.tokens:
            self.weights.append(value)
        return value


def attend_and_excite_loss(weights: Sequence[Tensor], positions: Sequence[int], size: tuple[int, int]) -> Tensor:
    """[B] the loss: 1 less the largest value of the most neglected token's map.

    Args:
        weights: [B,N,T,S] of some layers, averaged over layers and heads here.
        positions: of the tokens that shall appear, none of them 0.
        size: height and width of the T tokens.
    """
    mean = torch.stack([each.float().mean(1) for each in weights]).mean(0)  # [B,T,S]
    words = (mean[..., 1:] * 100).softmax(-1)  # the start of text draws most attention, and is left out
    maps = words[..., [position - 1 for position in positions]].transpose(1, 2).unflatten(-1, size)
    peaks = smoothed(maps).amax((-2, -1))  # [B,words]
    return (1 - peaks).amax(1)


class AttendAndExcite:
    """Moves latents so that every one of some words appears, at the first levels of a run.

    Each move is one step down the loss's gradient, whose size falls with the square root of a line from ``scale`` to
    half of it, as in the paper. ``led`` is the paper's loop but for its very first move; as ``guidance=`` of a call
    the estimate is that of the moved latents, and the solver's own x stays.
    """

    def __init__(
        self,
        pipe: Pipeline,
        prompt: str,
        words: Sequence[str],
        levels: Levels,
        *,
        scale: float = SCALE,
        steps: int = STEPS,
        stride: int = 2,
        callback: Callable[[float, Tensor], None] | None = None,
    ) -> None:
        """For one run.

        Args:
            pipe: the model.
            prompt: what is painted; one text for all pictures.
            words: of the prompt.
            levels: of the run: ``run.levels``, or ``pipe.schedule.levels(...)`` as the call will have them.
            scale: step size, for latents scaled to unit variance.
            steps: how many of the run's levels are led.
            stride: attention of the picture at 1 / ``stride`` of the latents' size is read; the paper's is 4 (16x16).
            callback: gets the noise level and the loss [B] each time.

        Raises:
            InputError: no words or steps, or a word that is not in the prompt.
        """
        if not words or steps < 1 or stride < 1:
            raise InputError(f"{len(words)} words, {steps} steps, stride {stride}; give at least one of each")
        self.positions = [position for word in words for position in token_positions(word, prompt, pipe.tokenizer)]
        self.stride = stride
        self.callback = callback
        led = [sigma for sigma in levels.sigmas if sigma > 0][:steps]
        self.sizes = {sigma: scale * (1 - 0.5 * i / max(len(led) - 1, 1)) ** 0.5 for i, sigma in enumerate(led)}
        self._names = matching("unet.*.cross.weights", [pipe.unet])
        told = pipe.encode_prompt(prompt)
        self._denoiser = lambda tap: denoiser(pipe, told, levels, tap)

    def push(self, x: Tensor, sigma: float) -> Tensor:
        """[B,C,H,W] where the latents are moved to; at a level that is not led ``x`` itself.

        Raises:
            InputError: no cross-attention has the resolution that ``stride`` asks for.
        """
        if sigma not in self.sizes:
            return x
        size = -(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride)
        gathered = Gathered(self._names, size[0] * size[1])
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            self._denoiser(gathered)(leaf, sigma)
            if not gathered.weights:
                raise InputError(f"no cross-attention over {size[0]}x{size[1]} places; give another stride")
            loss = attend_and_excite_loss(gathered.weights, self.positions, size)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if self.callback is not None:
            self.callback(sigma, loss.detach())
        # The paper's latents have unit variance, z = x / r with r = sqrt(sigma^2 + 1): a step by dL/dz is r^2 dL/dx.
        return x - self.sizes[sigma] * (sigma**2 + 1) * gradient

    def led(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of a run, each with its latents moved before the sampler goes on from them."""
        for step in steps:
            step.x = self.push(step.x, step.sigma)
            yield step

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """A Denoiser that is asked at the moved latents."""
        return lambda x, sigma: denoise(self.push(x, sigma), sigma)
