"""The recipe of the judge: a classifier of the evaluation concepts, trained from nothing on real pictures alone."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffuscope.evaluate.judges import save_classifier
from diffuscope.evaluate.material import Material
from diffuscope.models.classifier import Classifier, ClassifierConfig
from diffuscope.training.classifier import ClassifierTask, ClassifierTraining
from diffuscope.training.loop import LoopConfig, train


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """Network, batches and run. The number of classes is that of the split's concepts."""

    channels: tuple[int, ...] = (32, 64, 128, 192)
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    loop: LoopConfig


def classifier(seconds: float = 90.0, batch: int = 512) -> ClassifierRecipe:
    """Top-1 on held-out styles; the number stands in the model card as the real pictures' score."""
    loop = LoopConfig(lr=2e-3, weight_decay=0.05, seconds=seconds, warmup=100, validate_every=30.0, save_every=600.0)
    return ClassifierRecipe(training=ClassifierTraining(batch=batch), loop=loop)


def train_classifier(recipe: ClassifierRecipe, material: Material, folder: Path) -> Classifier:
    """The trained classifier; also in ``folder/classifier.safetensors``, float16."""
    device = material.canvas.sprites.device
    labels = {concept: i for i, concept in enumerate(material.split.concepts)}
    rows = [row for row, picture in enumerate(material.pictures) if picture.concept in labels]
    sprites, classes = {}, {}
    for is_held_out in (False, True):
        own = [row for row in rows if material.is_held_out(row) == is_held_out]
        sprites[is_held_out] = material.canvas.sprites[torch.tensor(own, device=device)]
        classes[is_held_out] = torch.tensor([labels[material.pictures[row].concept] for row in own], device=device)
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
    trained = train(task, recipe.loop, folder)
    assert isinstance(trained, Classifier)
    save_classifier(folder / "classifier.safetensors", trained, material.split)
    return trained
