"""The recipe of the ``emoji`` model: one frozen config for each stage, in order.

Each docstring states the scores it reproduces; docs/log.md has the other experiments.
"""

from dataclasses import dataclass, field

from diffuscope.config import EMOJI, ModelConfig
from diffuscope.training.loop import LoopConfig
from diffuscope.training.text import TextTraining
from diffuscope.training.unet import UNetTraining
from diffuscope.training.vae import VAELoss


@dataclass(frozen=True, kw_only=True)
class VAERecipe:
    """The autoencoder alone."""

    model: ModelConfig = EMOJI
    batch_size: int = 128
    scenes: int = 300_000  # sampled beforehand; a run has several epochs
    loss: VAELoss = field(default_factory=VAELoss)
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class ExamplesRecipe:
    """Images and captions, encoded once by the finished autoencoder."""

    scenes: int = 800_000
    held_out: int = 4096
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """The text encoder, by CLIP's loss with image features."""

    model: ModelConfig = EMOJI
    training: TextTraining = field(default_factory=TextTraining)
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """U-Net and text encoder together."""

    model: ModelConfig = EMOJI
    training: UNetTraining = field(default_factory=UNetTraining)
    rounded_from: float | None = None
    """Completed part of the run from which weights are trained as a difference stores them; None stores them whole."""
    loop: LoopConfig


def vae(seconds: float = 390.0) -> VAERecipe:
    """Autoencoder 128x128x3 <-> 16x16x4, first part: 35.4 dB on held-out sprites after 4,334 steps (one H200)."""
    return VAERecipe(loop=LoopConfig(lr=1.5e-3, seconds=seconds, hold=0.3, validate_every=90.0, save_every=120.0))


def finetune_vae(seconds: float = 60.0) -> VAERecipe:
    """Finetuning of the autoencoder: ten times the KL, and a penalty on activation spikes in the decoder.

    After 643 steps (one H200) 35.0 dB and, on the validation images, a largest activation of 11.7 standard deviations
    (14.2 on all held-out sprites); ``assets/emoji-base``.
    """
    loss = VAELoss(kl=5e-3, spikes=2e-5, perceptual_from=0.0)
    loop = LoopConfig(
        lr=7e-4, seconds=seconds, warmup_steps=50, hold=0.2, validate_every=60.0, save_every=600.0, seed=1
    )
    return VAERecipe(loss=loss, loop=loop)


def examples(seed: int = 1) -> ExamplesRecipe:
    """The examples of the stages ``text`` and ``unet``; another seed samples other scenes."""
    return ExamplesRecipe(seed=seed)


def text(seconds: float = 60.0) -> TextRecipe:
    """Text encoder; CLIP's loss at batch 4,096. R@1 .960 among 1,024 unseen scenes after 1,123 steps (one H200)."""
    return TextRecipe(loop=LoopConfig(lr=1e-3, seconds=seconds, warmup_steps=50, save_every=600.0))


def unet(seconds: float = 1200.0) -> UNetRecipe:
    """U-Net with v-prediction and zero terminal SNR, and the text encoder at the same learning rate.

    Validation error .231 after 2,250 steps (200 s), .171 after 6,550 (601 s; two H200s).
    """
    return UNetRecipe(loop=LoopConfig(lr=1e-3, seconds=seconds, validate_every=120.0, save_every=240.0))


def finetune_unet(seconds: float = 330.0) -> UNetRecipe:
    """Finetuning of the U-Net from an earlier run: nearly all of it is the decay of the learning rate.

    From the EMA at 2,800 steps (250 s, two H200s) 3,163 more (328 s, one H200): error .191. ``assets/emoji-base``: from
    there, on four H200s, 2,370 steps (240 s of a longer run), 9,640 (950 s; error .121), and 10,470 (1,050 s) with
    recolouring version 2: .113, on held-out scenes of that version.
    """
    loop = LoopConfig(
        lr=1e-3, seconds=seconds, warmup_steps=50, hold=0.15, validate_every=120.0, save_every=240.0, seed=1
    )
    return UNetRecipe(loop=loop)


def continue_unet(seconds: float = 900.0, *, as_difference: bool = False) -> UNetRecipe:
    """Training of the shipped model on other data: names, counts and attributes that its captions never had.

    As a difference, all but the 3x3 convolutions and the table of tokens is trained, for the second half as the file of
    two bits a number stores it: 7 MB beside the shipped file, instead of another 52. ``assets/emoji``: from
    ``assets/emoji-base``, 5,150 steps (560 s, two H200s): error .117 as stored, .912 of counts from two to nine right.
    """
    loop = LoopConfig(
        lr=6e-4, seconds=seconds, warmup_steps=100, hold=0.3, validate_every=120.0, save_every=120.0, seed=2
    )
    return UNetRecipe(loop=loop, rounded_from=0.5 if as_difference else None)
