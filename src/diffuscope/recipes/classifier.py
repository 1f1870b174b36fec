"""The recipe of the classifier of the evaluation concepts, trained from scratch on real images only.

docs/log.md has the run, under "The independent judge".
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffuscope.evaluate.classifier import save_classifier
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.training.classifier import ClassifierTask, ClassifierTraining
from diffuscope.training.loop import LoopConfig, train
from diffuscope.vision.classifier import Classifier, ClassifierConfig


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """Network, batches and run. There is one class for each concept of the split."""

    channels: tuple[int, ...] = (32, 64, 128, 192)
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    loop: LoopConfig


def classifier(seconds: float = 90.0, batch: int = 512) -> ClassifierRecipe:
    """Top-1 of .826 on the real held-out pairs after 75 s from nothing, one GPU; ``benchmarks/classifier``.

    Measured anew with each model, it is the score of real images in the model card.
    """
    loop = LoopConfig(
        lr=2e-3, weight_decay=0.05, seconds=seconds, warmup_steps=100, validate_every=30.0, save_every=600.0
    )
    return ClassifierRecipe(training=ClassifierTraining(batch_size=batch), loop=loop)


def train_classifier(recipe: ClassifierRecipe, data: EvalData, folder: Path) -> Classifier:
    """The trained classifier; also in ``folder/classifier.safetensors``, float16."""
    device = data.canvas.sprites.device
    labels = {concept: i for i, concept in enumerate(data.split.concepts)}
    rows = [row for row, picture in enumerate(data.pictures) if picture.concept in labels]
    sprites, classes = {}, {}
    for is_held_out in (False, True):
        own = [row for row in rows if data.is_held_out(row) == is_held_out]
        sprites[is_held_out] = data.canvas.sprites[torch.tensor(own, device=device)]
        classes[is_held_out] = torch.tensor([labels[data.pictures[row].concept] for row in own], device=device)
    torch.manual_seed(recipe.loop.seed)
    network = Classifier(ClassifierConfig(classes=len(labels), channels=recipe.channels)).to(device)
    task = ClassifierTask(
        network.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        sprites[False],
        classes[False],
        (sprites[True], classes[True]),
        recipe.training,
        compiled=device.type == "cuda",
    )
    trained = train(task, recipe.loop, folder, asked=recipe)
    assert isinstance(trained, Classifier)
    save_classifier(folder / "classifier.safetensors", trained, data.split)
    return trained
