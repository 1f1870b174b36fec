"""The recipes of the lesson's first models: digits, and Fashion-MNIST, from nothing, on pixels.

docs/log.md has the runs, under "Digits from nothing" and "What training needs on a GPU".
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from diffuscope.config import Preset, ScheduleConfig, UNetConfig
from diffuscope.data.digits import FASHION, SIZE, LabelledImages
from diffuscope.diffusion.schedules import Schedule
from diffuscope.evaluate.digits import Exam, Examiner
from diffuscope.images import tiled, to_images, write_png
from diffuscope.models.class_unet import ClassUNet
from diffuscope.recipes.pixel_model import PixelModel, PixelModelConfig, load
from diffuscope.training.initialisation import zero_init
from diffuscope.training.loop import LoopConfig, train
from diffuscope.training.pixels import PixelLatents, PixelTask, PixelTraining
from diffuscope.weights.store import documents

__all__ = ["EXAM", "HELD_OUT", "DigitsRecipe", "digits", "examine", "fashion", "load", "of_length", "train_pixels"]

EXAM = "exam.json"
"""File of the scores in a run's folder."""

HELD_OUT = 1000
"""Digits of the 5,000 that are kept for the exam."""

_AT_ONCE = 250  # pictures of the exam that are made in one batch


@dataclass(frozen=True, kw_only=True)
class DigitsRecipe:
    """Network, batches and run."""

    name: str = "digits"
    classes: tuple[str, ...] = tuple("0123456789")
    unet: UNetConfig = field(
        default_factory=lambda: UNetConfig(
            in_channels=16,
            out_channels=16,
            channels=(48,),
            blocks=1,
            depth=(0,),
            mid_depth=0,
            heads=(2,),
            context_dim=10,
            extra_dim=10,
            norm_groups=8,
        )
    )
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(betas="cosine", prediction="v", spacing="trailing", zero_snr=True)
    )
    preset: Preset = field(
        default_factory=lambda: Preset(
            num_inference_steps=20, guidance_scale=2.0, sigmas="trailing", height=SIZE, width=SIZE
        )
    )
    training: PixelTraining = field(default_factory=PixelTraining)
    loop: LoopConfig


def digits(seconds: float = 180.0) -> DigitsRecipe:
    """4,000 digits on two cores: 405,712 numbers, 64 digits a step.

    Of 1,000 asked digits .996 were read as asked, by a judge that reads .958 of real ones, after 1,600 steps, 183 s of
    one core; none was a copy. ``assets/digits``. By the clock, 290 s of two cores that others used too: .979.
    """
    return DigitsRecipe(
        loop=LoopConfig(
            lr=8e-3, seconds=seconds, warmup_steps=50, ema_decay=0.998, validate_every=60.0, save_every=60.0
        )
    )


def fashion(seconds: float = 600.0) -> DigitsRecipe:
    """Fashion-MNIST on a GPU: wider, with attention, pictures as they are.

    After 500 s of one H200 .982 of 1,000 are read as asked, and 2,048 pictures of 20 steps of LMS are .94 times as far
    from test pictures as other test pictures are. ``benchmarks/fashion.py`` runs and measures it.
    """
    return DigitsRecipe(
        name="fashion",
        classes=FASHION,
        unet=UNetConfig(
            channels=(64, 128), blocks=2, depth=(0, 1), heads=(1, 4), context_dim=10, extra_dim=10, norm_groups=8
        ),
        training=PixelTraining(batch_size=512, rotation=0.0),
        loop=LoopConfig(lr=1e-3, seconds=seconds, validate_every=60.0),
    )


def train_pixels(
    recipe: DigitsRecipe,
    images: LabelledImages,
    held_out: LabelledImages,
    folder: Path,
    device: torch.device,
) -> PixelModel:
    """The trained model, the average over its steps; also in ``folder``, at every checkpoint.

    Args:
        recipe: what to do.
        images: to learn from.
        held_out: never trained on.
        folder: of the run, which an interrupted one resumes.
        device: where to train.
    """
    torch.manual_seed(recipe.loop.seed)
    network = ClassUNet(recipe.unet)
    zero_init(network)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    std, mean = torch.std_mean(images.pixels)
    patch = int(recipe.unet.in_channels**0.5)
    latents = PixelLatents(mean=mean.item(), std=std.item(), patch=patch)
    config = PixelModelConfig(
        name=recipe.name,
        classes=recipe.classes,
        unet=recipe.unet,
        schedule=recipe.schedule,
        latents=latents,
        preset=recipe.preset,
    )
    schedule = Schedule(recipe.schedule)
    task = PixelTask(network, images.to(device), held_out.to(device), latents, schedule, recipe.training)

    def save(average: nn.Module) -> None:
        assert isinstance(average, ClassUNet)
        PixelModel(config, average).save(folder)

    trained = train(task, recipe.loop, folder, asked=recipe, on_save=save)
    assert isinstance(trained, ClassUNet)
    return PixelModel(config, trained)


def of_length(recipe: DigitsRecipe, *, seconds: float | None = None, steps: int | None = None) -> DigitsRecipe:
    """The recipe with another length; the recipe's own where both are None.

    Raises:
        InputError: both are given.
    """
    if seconds is None and steps is None:
        return recipe
    return replace(recipe, loop=replace(recipe.loop, seconds=seconds, steps=steps))


def examine(
    model: PixelModel, images: LabelledImages, held_out: LabelledImages, folder: Path, count: int = 1000
) -> Exam:
    """Scores of ``count`` pictures, in ``folder/exam.json``; a sheet of the first 100 is ``folder/sheet.png``.

    Every class is asked for equally often, with the seeds from 0 on: nothing is chosen.
    """
    labels = torch.arange(count) % len(model.config.classes)
    parts = labels.split(_AT_ONCE)
    seeds = range(0, count, _AT_ONCE)
    pixels = torch.cat([model.sample(part.tolist(), seed=seed) for part, seed in zip(parts, seeds, strict=True)]).cpu()
    exam = Examiner(images, held_out).exam(pixels, labels)
    documents.write_text(folder / EXAM, json.dumps(asdict(exam), indent=2) + "\n")
    write_png(folder / "sheet.png", tiled(to_images(pixels[:100].expand(-1, 3, -1, -1) * 2 - 1), 10))
    return exam
