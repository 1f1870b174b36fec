"""The classifier of the evaluation concepts: its predictions and its file."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.data.split import Split
from diffuscope.errors import WeightsError
from diffuscope.vision.classifier import Classifier, ClassifierConfig
from diffuscope.weights.store import files, headers
from diffuscope.weights.store.assign import load_into


@torch.no_grad()
def predict(classifier: Classifier, images: Tensor, batch: int = 250) -> Tensor:
    """[N] predicted class of uint8 images [N,3,H,W], on the classifier's device."""
    device = classifier.fc.weight.device
    return torch.cat([classifier(part.to(device).float() / 127.5 - 1).argmax(1) for part in images.split(batch)])


def save_classifier(path: Path, classifier: Classifier, split: Split) -> None:
    """Write a classifier: float16 weights, with the architecture and the split in the header."""
    tensors = {name: value.half() for name, value in classifier.state_dict().items()}
    header = {"config": json.dumps(asdict(classifier.config)), "split": split.hash}
    files.write(path, tensors, {**header, "concepts": json.dumps(split.concepts)})


def load_classifier(path: Path, split: Split, device: torch.device) -> Classifier:
    """The classifier of ``save_classifier``, float32; WeightsError if its classes are not the concepts of ``split``."""
    classifier, trained_on, concepts = read_classifier(path)
    if trained_on != split.hash or concepts != split.concepts:
        raise WeightsError(
            f"{path} was trained on the split {trained_on}, the corpus has {split.hash}, so held-out images may have "
            "been in its training set; train one on this corpus with `diffuscope eval classifier`"
        )
    return classifier.to(device)


def read_classifier(path: Path) -> tuple[Classifier, str, tuple[str, ...]]:
    """A classifier on the CPU, ready to run, with the hash of its split and its concepts."""
    header = headers.read_header(path).metadata
    try:
        fields = json.loads(header["config"])
        config = ClassifierConfig(**{**fields, "channels": tuple(fields["channels"])})
        concepts, trained_on = tuple(json.loads(header["concepts"])), header["split"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is not a classifier ({error!r}); train one with `diffuscope eval classifier`"
        ) from error
    classifier = Classifier(config)
    load_into(classifier, {name: value.float() for name, value in files.read(path).items()}, source=str(path))
    return classifier.eval().requires_grad_(False), trained_on, concepts
