"""A Pipeline's networks as plain functions, for experiments: a Denoiser of a prompt, and a decoder."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from diffuscope.diffusion import prediction
from diffuscope.errors import InputError, Unquoted
from diffuscope.pipeline import Pipeline, codec
from diffuscope.types import Conditioning, Denoiser, Levels, Tap


def denoiser(
    pipe: Pipeline, prompt: str | Sequence[str] | Conditioning, levels: Levels, tap: Tap | None = None
) -> Denoiser:
    """The U-Net conditioned on one text for all images, or one for each, without guidance: one call a step.

    Join two with ``guided(denoiser(pipe, "a fox", levels), denoiser(pipe, "", levels), 7.5)``.

    Args:
        pipe: the model.
        prompt: texts, or what ``encode_prompt`` returns, edited.
        levels: of the run, for the U-Net's time input: ``pipe.schedule.levels(steps)``.
        tap: reads or replaces activations.

    Raises:
        InputError: the model's U-Net has other inputs than text (SDXL, distilled guidance, a mask).
    """
    check_text_only(pipe)
    conditioning = prompt if isinstance(prompt, Conditioning) else pipe.encode_prompt(prompt)
    context = conditioning.embeddings.to(pipe.device, pipe.dtype)

    def predict(x: Tensor, time: Tensor) -> Tensor:
        rows = context.expand(len(x), -1, -1) if len(context) == 1 else context
        with pipe.engine.using(pipe.unet):
            return pipe.unet(x.to(pipe.dtype), time, rows, tap=tap)

    return prediction.denoiser(predict, levels, pipe.config.schedule.prediction)


def other_inputs(pipe: Pipeline) -> list[str]:
    """What the U-Net reads beside latents, timestep and text states."""
    images = {"mask": pipe.config.inpaints, "image": pipe.config.edits}
    return [*sorted(pipe.unet.reads), *(name for name, is_read in images.items() if is_read)]


def check_text_only(pipe: Pipeline) -> None:
    """Refuse a model whose U-Net has other inputs than text."""
    if others := other_inputs(pipe):
        got = Unquoted(f"a U-Net with the inputs {', '.join(others)}")
        raise InputError("pipe", got, "one that is conditioned on text alone", "Use pipe(...) or pipe.steps(...).")


def decoder(pipe: Pipeline) -> Callable[[Tensor], Tensor]:
    """The VAE's decoder: latents [N,C,h,w] in the U-Net's scale -> images [N,3,H,W] in [0,1], not clamped.

    Differentiable, and so without the pipeline's tiling and repairs: for losses, and for small batches.
    """
    return partial(codec.decode_differentiable, pipe.vae)
