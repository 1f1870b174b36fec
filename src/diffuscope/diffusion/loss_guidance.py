"""Loss guidance: the gradient of any function of the predicted image steers the run.

The cheap mode backpropagates through the decoder only; the exact mode through the U-Net as well. The gradient of an
image does not depend on its batch mates: each image has its own loss.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diffuscope.errors import InputError, Unquoted
from diffuscope.types import Denoiser, Step

Loss = Callable[[Tensor], Tensor]
"""Image [1,3,H,W] in [0,1], not clamped, -> one number. Called once per image, and first by ``check_loss``."""

Decode = Callable[[Tensor], Tensor]
"""Latents [B,C,h,w] -> images [B,3,H,W] in [0,1], differentiable."""

HIGHEST = 15.0
"""Noise level above which no loss is applied: Stable Diffusion's levels begin at 14.6. With zero terminal SNR the first
is 4096, where the latents carry no information on the image and ``sigma^2 gradient`` would destroy them."""


def colour_loss(red: float, green: float, blue: float, weight: float = 40.0) -> Loss:
    """``weight`` times the mean distance of all pixels from a colour in [0,1]; the course's is (0.1, 0.9, 0.5).

    Raises:
        InputError: a channel of the colour is outside [0, 1].
    """
    target = (red, green, blue)
    if not all(0 <= channel <= 1 for channel in target):
        raise InputError("colour", target, "red, green and blue from 0 to 1")

    def loss(picture: Tensor) -> Tensor:
        return weight * (picture - torch.tensor(target).to(picture)[:, None, None]).abs().mean()

    return loss


def blue_loss(target: float = 0.9, weight: float = 200.0) -> Loss:
    """The lesson's: ``weight`` times the mean distance of the blue channel from ``target``.

    As a mean over pixels it has the same effect at every image size.
    """
    return lambda picture: weight * (picture[:, 2] - target).abs().mean()


def loss_gradient(loss: Loss, decode: Decode, denoise: Denoiser | None, x: Tensor, sigma: float) -> Tensor:
    """[B,C,H,W] gradient with respect to ``x`` of the loss of the image predicted from it.

    Args:
        loss: of one image.
        decode: latents to images.
        denoise: None takes ``x`` as the clean estimate. Else the gradient goes through ``denoise`` and ``decode``, each
            a checkpoint: activations are recomputed in the backward pass, so that one graph is in memory at a time.
        x: latents. Not modified.
        sigma: their noise level.

    Raises:
        InputError: the loss is not one number, or does not depend on the image.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        if denoise is None:
            images = decode(leaf)
        else:
            x0 = checkpoint(denoise, leaf, sigma, use_reentrant=False, preserve_rng_state=False)
            images = checkpoint(decode, x0, use_reentrant=False, preserve_rng_state=False)
        return _gradient([loss(image[None]) for image in images], leaf)


def check_loss(loss: Loss) -> None:
    """Try a loss on a grey image of 64x64, so that an unusable one fails before sampling starts.

    An exception of the loss itself is left to the run: it may need another size or device.

    Raises:
        InputError: it is not a function, does not return one number, or does not depend on the image.
    """
    if not callable(loss):
        raise InputError("loss", loss, "a function of an image")
    with torch.inference_mode(False), torch.enable_grad():
        grey = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
        try:
            value = loss(grey)
        except Exception:  # a user's function may raise anything
            return
        _gradient([value], grey)


def _gradient(losses: Sequence[Tensor], leaf: Tensor) -> Tensor:
    """Of the sum of the losses, with respect to ``leaf``."""
    for value in losses:
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("loss", value, "a function that returns one number, such as .mean() of a tensor")
    total = torch.stack([value.reshape(()) for value in losses]).sum()
    gradient = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    if gradient is None:
        got = Unquoted("a function whose result has no gradient")
        raise InputError("loss", got, "one that is computed from the image with torch, without detach")
    return gradient


def loss_guidance(
    loss: Loss,
    decode: Decode,
    *,
    scale: float = 1.0,
    exact: bool | Denoiser = False,
    low: float = 0.0,
    high: float = HIGHEST,
) -> Callable[[Denoiser], Denoiser]:
    """``x0 - scale sigma^2 gradient``: the loss as a further term of the score (Dhariwal & Nichol 2021, section 4).

    Args:
        loss: of one image.
        decode: latents to images in [0,1].
        scale: strength; the loss may have a weight of its own.
        exact: backpropagate through the network too (Ho et al. 2022, video diffusion models): more faithful, two
            network calls and a backward pass more a step. True is through the Denoiser that is guided here; in a run
            with classifier-free guidance pass the conditional Denoiser instead: the guided one, ``g cond - (g - 1)
            uncond``, is not an estimate, and a step along its Jacobian may raise the loss.
        low: noise level at and below which the loss is no longer applied.
        high: noise level above which it is not applied yet.

    Returns:
        A function for ``guidance=`` of a Pipeline's call.

    Raises:
        InputError: the scale is not finite, or ``check_loss`` refuses the loss.
    """
    if not math.isfinite(scale):
        raise InputError("scale", scale, "a finite number, such as 1")
    check_loss(loss)

    def guide(denoise: Denoiser) -> Denoiser:
        def guided(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            if not low < sigma <= high:
                return x0
            if exact:
                gradient = loss_gradient(loss, decode, denoise if exact is True else exact, x, sigma)
            else:
                gradient = loss_gradient(loss, decode, None, x0, sigma)
            return x0 - (scale * sigma**2) * gradient

        return guided

    return guide


def guide_steps(
    steps: Iterator[Step],
    sigmas: Sequence[float],
    loss: Loss,
    decode: Decode,
    *,
    every: int = 5,
    high: float = HIGHEST,
    callback: Callable[[int, float], None] | None = None,
) -> Iterator[Step]:
    """The lesson's edit between steps, in its cheap mode: every fifth step ``x - sigma^2 gradient``.

    The lesson takes the gradient with respect to the latents before the step, through ``x0 = x - sigma * noise`` with
    the predicted noise held constant; that equals the gradient with respect to x0. Solvers that are linear in x, such
    as Euler, DDIM and LMS, carry the edit unchanged over the step, so it may be subtracted after the step.

    Args:
        steps: a sampler's, or a Pipeline's run.
        sigmas: the run's noise levels.
        loss: of one image; the lesson's is ``blue_loss()``.
        decode: latents to images in [0,1].
        every: edit the steps whose index is a multiple of this.
        high: noise level above which steps are not edited.
        callback: called with the step's index and the loss, summed over the images, before the edit.

    Yields:
        The steps, with ``x`` edited.

    Raises:
        InputError: ``every`` is below 1, or ``check_loss`` refuses the loss.
    """
    if every < 1:
        raise InputError("every", every, "a whole number of at least 1")
    check_loss(loss)

    def edited() -> Iterator[Step]:
        for step in steps:
            sigma, values = sigmas[step.index], list[Tensor]()
            if step.index % every == 0 and sigma <= high:

                def noted(image: Tensor) -> Tensor:
                    values.append(loss(image))  # noqa: B023 - called within this turn
                    return values[-1]  # noqa: B023

                gradient = loss_gradient(noted, decode, None, step.x0, 0.0)
                if callback is not None:
                    callback(step.index, sum(float(value.detach()) for value in values))
                step.x = step.x - sigma**2 * gradient
            yield step

    return edited()
