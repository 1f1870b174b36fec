"""The options of teaching a model one thing, each stated once. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval

from diffuscope.errors import InputError, Unquoted
from diffuscope.request import Seed, Side
from diffuscope.schema import Group, Options

Targets = Literal["cross-attention", "attention", "transformer", "all"]
"""Layers of the U-Net that get a low-rank update, from few to many."""

Count = Annotated[int, Interval(ge=1, le=1_000_000)]
Rank = Annotated[int, Interval(ge=1, le=1024)]
Rate = Annotated[float, Gt(0)]

TELLS_NOBODY: Callable[[str], None] = lambda _: None  # noqa: E731
SHOWS_NOTHING: Callable[[int, int, float], None] = lambda *_: None  # noqa: E731


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """What every kind of training has."""

    batch_size: Annotated[Count, Group("training")] = 4
    """pictures in a step; each has its own noise level, one in each of as many equal parts of the schedule"""
    seed: Seed = 0
    """of all that is random: noise, noise levels, order, starts"""
    size: Side | None = None
    """height and width to which pictures are cut; the preset's by default"""
    min_snr_gamma: Annotated[float, Gt(0)] = 5.0
    """limit of the weight of low noise levels (Min-SNR, Hang et al. 2023)"""
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    """length to which longer gradients are cut"""
    gradient_checkpointing: bool = False
    """compute activations again instead of keeping them: less memory, a third more time"""
    overwrite: bool = False
    """replace the file, and the folder of the run, if they exist"""


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """Where the progress of a training goes."""

    tell: Callable[[str], None] = TELLS_NOBODY
    """called with sentences: before the first step what is skipped, the memory that is needed, whether a run resumes"""
    on_step: Callable[[int, int, float], None] = SHOWS_NOTHING
    """called at each step with its number, the number of steps, and the loss of some step shortly before"""


@dataclass(frozen=True, kw_only=True)
class WordOptions(Options):
    """Textual inversion (Gal et al. 2022): a new word with vectors of its own; nothing else is trained."""

    word: Annotated[str, Group("word")] = ""
    """the new word, without white space, such as <fox>"""
    like: str = ""
    """word or words of the model from whose tokens the new one starts, such as fox"""
    vectors: Annotated[int, Interval(ge=1, le=75)] = 1
    """tokens of the new word: more hold more, and leave less room in a prompt"""
    style: bool = False
    """the word stands for a style and not for a thing"""
    steps: Count = 120
    """updates of the vectors"""
    lr: Rate = 0.03
    """learning rate of AdamW"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.word:
            raise InputError("word", Unquoted("none"), "a new word without white space", "For example <fox>")
        if not self.like.strip():
            raise InputError("like", Unquoted("none"), "a word of the model to start from", "For example fox")


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """A LoRA (Hu et al. 2021), with pictures of the class that the model keeps (DreamBooth, Ruiz et al. 2023)."""

    caption: Annotated[str | None, Group("LoRA")] = None
    """caption of pictures that have none, such as "a zeb fox", with a rare word for the thing"""
    prior: tuple[str, ...] = ()
    """texts of pictures that the model makes first, and which must not change, such as "a fox" """
    prior_count: Count = 16
    """how many such pictures, of all texts together"""
    prior_weight: Annotated[float, Ge(0)] = 1.0
    """of their loss; half of a step's pictures are of them"""
    rank: Rank = 8
    """of the updates"""
    alpha: Annotated[float, Gt(0)] | None = None
    """scale of the updates, times the rank; the rank by default, which is a scale of 1"""
    targets: Targets = "transformer"
    """layers of the U-Net: of the cross-attention, all attention, whole transformers, or convolutions too"""
    text_encoder: bool = False
    """train the text encoders too"""
    dialect: Literal["kohya", "diffusers"] = "kohya"
    """names in the file; most programs read both"""
    steps: Count = 120
    """updates of the LoRA"""
    lr: Rate = 1e-3
    """learning rate of AdamW"""


@dataclass(frozen=True, kw_only=True)
class ImagicOptions(Options):
    """Imagic (Kawar et al. 2023): one picture and one text; the states of the text, then a LoRA, learn the picture."""

    prompt: Annotated[str, Group("Imagic")] = ""
    """text of the picture that is wanted, such as "a fox wearing a hat" """
    rank: Rank = 16
    """of the LoRA"""
    targets: Targets = "cross-attention"
    """layers of the U-Net that the LoRA changes; more of them make the picture of any text"""
    embedding_steps: Count = 60
    """first stage: updates of the text states"""
    embedding_lr: Rate = 0.01
    """first stage: learning rate of AdamW"""
    steps: Count = 60
    """second stage: updates of the LoRA"""
    lr: Rate = 2e-3
    """second stage: learning rate of AdamW"""
    prior_count: Annotated[int, Interval(ge=0, le=1024)] = 0
    """second stage: pictures of the text that the model makes first, and must still make: half of each step, slower"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise InputError("prompt", Unquoted("none"), "the text of the picture that is wanted")


@dataclass(frozen=True, kw_only=True)
class WordTraining(Reporting, WordOptions, RunOptions):
    """A textual inversion: ``finetune.train_word`` takes its fields as keywords."""


@dataclass(frozen=True, kw_only=True)
class LoraTraining(Reporting, LoraOptions, RunOptions):
    """A LoRA: ``finetune.train_lora`` takes its fields as keywords."""


@dataclass(frozen=True, kw_only=True)
class ImagicTraining(Reporting, ImagicOptions, RunOptions):
    """An Imagic: ``finetune.train_imagic`` takes its fields as keywords."""
