"""The recipe of the ``emoji`` model: four stages, each a frozen config, in the order in which they run.

Every stage names the numbers it reproduces; docs/log.md tells what else was tried.
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
    batch: int = 128
    scenes: int = 300_000  # composed pictures drawn beforehand; a run passes over them several times
    loss: VAELoss = field(default_factory=VAELoss)
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class ExamplesRecipe:
    """Pictures and texts, encoded once by the finished autoencoder."""

    scenes: int = 800_000
    held_out: int = 4096
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """The text encoder, by contrast with a pretrained network's features of the pictures."""

    model: ModelConfig = EMOJI
    training: TextTraining = field(default_factory=TextTraining)
    loop: LoopConfig


@dataclass(frozen=True, kw_only=True)
class UNetRecipe:
    """U-Net and text encoder together."""

    model: ModelConfig = EMOJI
    training: UNetTraining = field(default_factory=UNetTraining)
    loop: LoopConfig


def vae(seconds: float = 390.0) -> VAERecipe:
    """Autoencoder 128x128x3 <-> 16x16x4, first part: 35.4 dB on held-out sprites after 4,334 steps (one H200)."""
    return VAERecipe(loop=LoopConfig(lr=1.5e-3, seconds=seconds, hold=0.3, validate_every=90.0, save_every=120.0))


def settle(seconds: float = 60.0) -> VAERecipe:
    """Autoencoder, second part, from the weights of the first: ten times the KL, and no spikes in the decoder.

    After 643 steps (one H200) 35.0 dB and, of the pictures that training validates on, a largest activation of 11.7
    standard deviations (14.2 of all held-out sprites); ``assets/emoji``.
    """
    loss = VAELoss(kl=5e-3, spikes=2e-5, features_from=0.0)
    loop = LoopConfig(lr=7e-4, seconds=seconds, warmup=50, hold=0.2, validate_every=60.0, save_every=600.0, seed=1)
    return VAERecipe(loss=loss, loop=loop)


def examples(seed: int = 1) -> ExamplesRecipe:
    """What stages three and four learn from; another seed draws other scenes."""
    return ExamplesRecipe(seed=seed)


def text(seconds: float = 60.0) -> TextRecipe:
    """Text encoder; CLIP's loss at batch 4,096. R@1 .960 among 1,024 unseen scenes after 1,123 steps (one H200)."""
    return TextRecipe(loop=LoopConfig(lr=1e-3, seconds=seconds, warmup=50, save_every=600.0))


def unet(seconds: float = 1200.0) -> UNetRecipe:
    """U-Net with v-prediction and zero terminal SNR; the text encoder goes on learning at the same rate.

    Validation error .231 after 2,250 steps (200 s), .171 after 6,550 (601 s; two H200s).
    """
    return UNetRecipe(loop=LoopConfig(lr=1e-3, seconds=seconds, validate_every=120.0, save_every=240.0))


def finish(seconds: float = 330.0) -> UNetRecipe:
    """U-Net, second part, from the weights of an earlier run: nearly all of it is the decay of the rate.

    From the average at 2,800 steps (250 s, two H200s) 3,163 more (328 s, one H200): error .191. ``assets/emoji``: from
    there, on four H200s, 2,370 steps (240 s of a longer run), 9,640 (950 s; error .121), and 10,470 (1,050 s) with
    things that turn a colour as a whole: .113, on held-out scenes recoloured likewise.
    """
    loop = LoopConfig(lr=1e-3, seconds=seconds, warmup=50, hold=0.15, validate_every=120.0, save_every=240.0, seed=1)
    return UNetRecipe(loop=loop)
