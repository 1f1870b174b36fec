"""Who judges: the feature network's features, the model's own towers, and a classifier that knows neither."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.data.split import Split
from diffuscope.errors import WeightsError
from diffuscope.evaluate.material import Material
from diffuscope.evaluate.questions import Exam, captions
from diffuscope.evaluate.retrieval import Gallery, features, tower_similarity, within
from diffuscope.models.classifier import Classifier, ClassifierConfig
from diffuscope.models.efficientnet import EfficientNet
from diffuscope.weights.store import files, packing
from diffuscope.weights.store.assign import load_into

PICTURE_TOWER = "picture.weight"
"""Name of the picture tower's matrix [P,F] in ``towers.safetensors``."""


@dataclass(frozen=True)
class Judges:
    """Everything that answers "is it what was asked for?" for one model and one split."""

    material: Material
    feature_net: EfficientNet
    gallery: Gallery
    """The evaluation concepts."""
    wide: Gallery
    """The evaluation concepts and every concept that carries one of the tag words."""
    encode: Callable[[list[str]], Tensor]
    """Texts -> [B,P] pooled, by the model's text encoder."""
    tower: Tensor | None = None
    classifier: Classifier | None = None

    def names(self, exam: Exam, pictures: Tensor, without: Sequence[str | None]) -> dict[str, Tensor]:
        """For each measure [P,S] whether each picture of a styled exam shows the concept asked for.

        Args:
            exam: questions with a concept and a style.
            pictures: [P*S,3,H,W] uint8, S of each question in turn.
            without: style left out of the gallery, for each picture.
        """
        asked = [self.material.pictures[q.row].concept for q in exam.questions]
        count = len(pictures) // len(asked)
        found = features(self.feature_net, pictures)
        own = self._columns(self.gallery.names, asked, count, found)
        similarity = self.gallery.similarity(found, without)
        right = {"r1": within(similarity, own, 1), "r5": within(similarity, own, 5)}
        concepts = self._columns(self.material.split.concepts, asked, count, found)
        if self.tower is not None:
            texts = [captions(self.material, q.style) for q in exam.questions for _ in range(count)]
            right["towers"] = within(tower_similarity(found, self.tower, self.encode, texts), concepts, 1)
        if self.classifier is not None:
            right["classifier"] = classes(self.classifier, pictures) == concepts
        return {name: value.view(len(asked), count) for name, value in right.items()}

    def words(self, exam: Exam, pictures: Tensor, without: Sequence[str | None]) -> dict[str, Tensor]:
        """[P,S] whether the concept nearest to each picture, of all in ``wide``, carries the word asked for."""
        count = len(pictures) // len(exam.questions)
        nearest = self.wide.similarity(features(self.feature_net, pictures), without).argmax(1).tolist()
        asked = [self.material.telling[question.word or ""] for question in exam.questions for _ in range(count)]
        right = [self.wide.names[i] in carriers for carriers, i in zip(asked, nearest, strict=True)]
        return {"r1": torch.tensor(right).view(-1, count)}

    def _columns(self, names: Sequence[str], asked: Sequence[str], count: int, like: Tensor) -> Tensor:
        place = {name: i for i, name in enumerate(names)}
        return torch.tensor([place[concept] for concept in asked for _ in range(count)], device=like.device)


def galleries(material: Material, feature_net: EfficientNet) -> tuple[Gallery, Gallery]:
    """``Judges.gallery`` and ``Judges.wide``: real pictures on white, in every style."""
    own = frozenset(material.split.concepts)
    wide = own.union(*material.telling.values())
    rows = [row for row, picture in enumerate(material.pictures) if picture.concept in wide]
    found = features(feature_net, material.drawn(rows))
    concepts = [material.pictures[row].concept for row in rows]
    styles = [material.pictures[row].style for row in rows]
    kept = [i for i, concept in enumerate(concepts) if concept in own]
    narrow = Gallery(
        found[torch.tensor(kept, device=found.device)], [concepts[i] for i in kept], [styles[i] for i in kept]
    )
    return narrow, Gallery(found, concepts, styles)


@torch.no_grad()
def classes(classifier: Classifier, pictures: Tensor, chunk: int = 250) -> Tensor:
    """[N] the class that the classifier gives each uint8 picture [N,3,H,W], on its device."""
    device = classifier.fc.weight.device
    return torch.cat([classifier(part.to(device).float() / 127.5 - 1).argmax(1) for part in pictures.split(chunk)])


def save_classifier(path: Path, classifier: Classifier, parts: Split) -> None:
    """Write a classifier of the concepts of a split: float16 weights, architecture and split in the header."""
    tensors = {name: value.half() for name, value in classifier.state_dict().items()}
    about = {"config": json.dumps(asdict(classifier.config)), "split": parts.hash}
    files.write(path, tensors, {**about, "concepts": json.dumps(parts.concepts)})


def load_classifier(path: Path, parts: Split, device: torch.device) -> Classifier:
    """The classifier that ``save_classifier`` wrote, float32, ready to judge.

    Raises:
        WeightsError: the file is damaged, or its classes are not the concepts of this split.
    """
    about = files.read_header(path).metadata
    try:
        fields = json.loads(about["config"])
        config = ClassifierConfig(**{**fields, "channels": tuple(fields["channels"])})
        concepts, trained_on = tuple(json.loads(about["concepts"])), about["split"]
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} is no classifier ({error!r}); train one with `diffuscope eval classifier`"
        ) from error
    if trained_on != parts.hash or concepts != parts.concepts:
        raise WeightsError(
            f"{path} was trained on the split {trained_on}, the corpus has {parts.hash}: it may have seen what is held "
            "out here. Train one on this corpus with `diffuscope eval classifier`"
        )
    classifier = Classifier(config)
    load_into(classifier, {name: value.float() for name, value in files.read(path).items()}, source=str(path))
    return classifier.to(device).eval().requires_grad_(False)


def load_tower(path: Path, device: torch.device) -> Tensor:
    """[P,F] the picture tower of a ``towers.safetensors``, packed or as the training wrote it.

    Raises:
        WeightsError: the file is damaged, or has no such matrix.
    """
    tensors = packing.read(path) if packing.is_packed(files.read_header(path)) else files.read(path)
    if PICTURE_TOWER not in tensors or tensors[PICTURE_TOWER].ndim != 2:
        raise WeightsError(f"{path} has no matrix {PICTURE_TOWER!r}; give the towers that the text stage wrote")
    return tensors[PICTURE_TOWER].float().to(device)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
