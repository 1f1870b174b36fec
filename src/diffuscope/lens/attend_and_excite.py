"""Attend-and-Excite (Chefer et al. 2023): guidance by the attention of neglected words, written with a tap.

The loss is 1 minus the largest attention, over the image, of the most neglected word.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.lens.attention_maps import CROSS_ATTENTION, gaussian_smooth
from diffuscope.lens.functions import denoiser
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.taps import selected
from diffuscope.prompt.positions import token_positions
from diffuscope.types import Denoiser, Levels, Step

SCALE = 20.0
STEPS = 25
"""The paper's step size, and how many of its 50 steps are guided."""


def attend_and_excite_loss(weights: Sequence[Tensor], positions: Sequence[int], size: tuple[int, int]) -> Tensor:
    """[B] the loss: 1 minus the largest value of the most neglected token's map.

    Args:
        weights: [B,N,T,S] of some layers; averaged over layers and heads.
        positions: of the tokens that should appear, from 1.
        size: height and width of the T image tokens.
    """
    mean = torch.stack([layer.float().mean(1) for layer in weights]).mean(0)  # [B,T,S]
    attention = (mean[..., 1:] * 100).softmax(-1)  # without the start of text, which gets most of the attention
    maps = attention[..., [position - 1 for position in positions]].transpose(1, 2).unflatten(-1, size)
    peaks = gaussian_smooth(maps).amax((-2, -1))  # [B,tokens]
    return (1 - peaks).amax(1)


class AttendAndExcite:
    """Moves the latents down the loss's gradient at the first noise levels of a run, so that each word appears.

    The step size falls with the square root of a line from ``scale`` to half of it, as in the paper. ``guide`` is the
    paper's loop except for its very first move. As ``guidance=`` of a call only the estimate is that of the moved
    latents; the sampler's own x stays.
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
        """Prepare for one run.

        Args:
            pipe: the model.
            prompt: one text for all images.
            words: of the prompt, that should appear.
            levels: of the run: ``run.levels``, or ``pipe.schedule.levels(...)`` as in the call.
            scale: step size, for latents of unit variance.
            steps: how many of the run's noise levels are guided, from the first.
            stride: size of the latents divided by the size of the attention maps that are used; 4 (16x16) in the paper.
            callback: gets the noise level and the loss [B] of each step.

        Raises:
            InputError: no words or steps, or a word that is not in the prompt.
        """
        if not words:
            raise InputError("words", list(words), "at least one word of the prompt")
        for name, count in (("steps", steps), ("stride", stride)):
            if count < 1:
                raise InputError(name, count, "at least 1")
        self.positions = [position for word in words for position in token_positions(word, prompt, pipe.tokenizer)]
        self.stride = stride
        self.callback = callback
        guided = [sigma for sigma in levels.sigmas if sigma > 0][:steps]
        self.step_sizes = {
            sigma: scale * (1 - 0.5 * i / max(len(guided) - 1, 1)) ** 0.5 for i, sigma in enumerate(guided)
        }
        self.unet = pipe.unet
        conditioning = pipe.encode_prompt(prompt)
        self._denoiser = lambda tap: denoiser(pipe, conditioning, levels, tap)

    def move(self, x: Tensor, sigma: float) -> Tensor:
        """[B,C,H,W] the moved latents; ``x`` itself at a noise level that is not guided."""
        if sigma not in self.step_sizes:
            return x
        size = -(-x.shape[2] // self.stride), -(-x.shape[3] // self.stride)
        weights: list[Tensor] = []

        def keep(value: Tensor) -> None:
            if value.shape[2] == size[0] * size[1]:
                weights.append(value)

        with torch.inference_mode(False), torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            self._denoiser(selected({CROSS_ATTENTION: keep}, [self.unet]))(leaf, sigma)
            if not weights:
                raise InputError("stride", self.stride, f"one with cross-attention of {size[0]}x{size[1]} image tokens")
            loss = attend_and_excite_loss(weights, self.positions, size)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if self.callback is not None:
            self.callback(sigma, loss.detach())
        # The paper's latents have unit variance, z = x / r with r = sqrt(sigma^2 + 1): a step by dL/dz is r^2 dL/dx.
        return x - self.step_sizes[sigma] * (sigma**2 + 1) * gradient

    def guide(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps of a run, each with its latents moved before the sampler continues."""
        for step in steps:
            step.x = self.move(step.x, step.sigma)
            yield step

    def __call__(self, denoise: Denoiser) -> Denoiser:
        """A Denoiser that is called with the moved latents."""
        return lambda x, sigma: denoise(self.move(x, sigma), sigma)
