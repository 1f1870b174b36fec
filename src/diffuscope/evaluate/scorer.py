"""Whether images show the concepts of their prompts: by retrieval, by CLIP, and by the classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.errors import WeightsError
from diffuscope.evaluate.classifier import predict
from diffuscope.evaluate.eval_data import EvalData
from diffuscope.evaluate.prompts import EvalPrompt, PromptSet, concept_captions
from diffuscope.evaluate.retrieval import Gallery, clip_similarity, features, in_top
from diffuscope.vision.classifier import Classifier
from diffuscope.vision.clip_score import PROJECTION
from diffuscope.vision.efficientnet import EfficientNet
from diffuscope.weights.store import packing
from diffuscope.weights.store.old_names import current_names


@dataclass(frozen=True)
class Scorer:
    """The networks and galleries that score the images of one model on one split."""

    data: EvalData
    feature_net: EfficientNet
    gallery: Gallery
    """The evaluation concepts."""
    wide_gallery: Gallery
    """The evaluation concepts, and all concepts that a tag word names."""
    everyday_gallery: Gallery
    encode_texts: Callable[[list[str]], Tensor]
    """Texts -> [B,P] pooled, by the model's text encoder."""
    projection: Tensor | None = None
    """[P,F] of the model's CLIP; None leaves CLIP out."""
    classifier: Classifier | None = None

    def concepts(self, prompts: PromptSet, images: Tensor, excluded: Sequence[str | None]) -> dict[str, Tensor]:
        """Measure -> [P,S] whether each image shows the concept of its prompt, one of the evaluation concepts.

        Args:
            prompts: P prompts with a style.
            images: [P*S,3,H,W] uint8, S of each prompt in turn.
            excluded: style left out of the gallery, for each image.
        """
        data, count = self.data, len(images) // len(prompts.prompts)
        concepts = [self._concept(prompt) for prompt in prompts.prompts]
        image_features = features(self.feature_net, images)
        device = image_features.device
        correct = _retrieved(self.gallery, image_features, concepts, excluded)
        label = _columns(data.split.concepts, concepts, count, device)
        if self.projection is not None:
            captions = [concept_captions(data, prompt.style) for prompt in prompts.prompts for _ in range(count)]
            correct["clip"] = in_top(
                1, clip_similarity(image_features, self.projection, self.encode_texts, captions), label
            )
        if self.classifier is not None:
            correct["classifier"] = predict(self.classifier, images) == label
        return {measure: value.view(len(concepts), count) for measure, value in correct.items()}

    def everyday(self, prompts: PromptSet, images: Tensor, excluded: Sequence[str | None]) -> dict[str, Tensor]:
        """Retrieval alone, among all everyday concepts; arguments as those of ``concepts``."""
        concepts = [self._concept(prompt) for prompt in prompts.prompts]
        correct = _retrieved(self.everyday_gallery, features(self.feature_net, images), concepts, excluded)
        return {measure: value.view(len(concepts), -1) for measure, value in correct.items()}

    def _concept(self, prompt: EvalPrompt) -> str:
        return prompt.concept or self.data.pictures[prompt.row].concept

    def tag_words(self, prompts: PromptSet, images: Tensor, excluded: Sequence[str | None]) -> dict[str, Tensor]:
        """Measure -> [P,S] whether the concept nearest to each image, in the wide gallery, carries the word."""
        count = len(images) // len(prompts.prompts)
        nearest = self.wide_gallery.similarity(features(self.feature_net, images), excluded).argmax(1).tolist()
        carriers = [self.data.tag_words[prompt.word or ""] for prompt in prompts.prompts for _ in range(count)]
        correct = [self.wide_gallery.names[i] in own for own, i in zip(carriers, nearest, strict=True)]
        return {"r1": torch.tensor(correct).view(-1, count)}


def _retrieved(
    gallery: Gallery, image_features: Tensor, concepts: Sequence[str], excluded: Sequence[str | None]
) -> dict[str, Tensor]:
    """R@1 and R@5 of [P*S,F] features, S for each of P ``concepts`` in turn."""
    column = _columns(gallery.names, concepts, len(image_features) // len(concepts), image_features.device)
    similarity = gallery.similarity(image_features, excluded)
    return {"r1": in_top(1, similarity, column), "r5": in_top(5, similarity, column)}


def _columns(names: Sequence[str], concepts: Sequence[str], count: int, device: torch.device) -> Tensor:
    """[P*S] index in ``names`` of each concept, ``count`` times."""
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index[concept] for concept in concepts for _ in range(count)], device=device)


def galleries(data: EvalData, feature_net: EfficientNet) -> tuple[Gallery, Gallery, Gallery]:
    """``Scorer.gallery``, ``wide_gallery`` and ``everyday_gallery``: real images on white, in every style."""
    evaluated = frozenset(data.split.concepts)
    wide, everyday = evaluated.union(*data.tag_words.values()), frozenset(data.everyday)
    rows = [row for row, picture in enumerate(data.pictures) if picture.concept in wide | everyday]
    image_features = features(feature_net, data.images(rows))

    def gallery(concepts: frozenset[str]) -> Gallery:
        kept = [i for i, row in enumerate(rows) if data.pictures[row].concept in concepts]
        index = torch.tensor(kept, device=image_features.device)
        pictures = [data.pictures[rows[i]] for i in kept]
        return Gallery(image_features[index], [p.concept for p in pictures], [p.style for p in pictures])

    return gallery(evaluated), gallery(wide), gallery(everyday)


def load_projection(path: Path, device: torch.device) -> Tensor:
    """[P,F] the image projection of a ``towers.safetensors``, packed or as training wrote it."""
    tensors = current_names(packing.read_any(path))
    if PROJECTION not in tensors or tensors[PROJECTION].ndim != 2:
        raise WeightsError(f"{path} has no matrix {PROJECTION!r}; give the towers.safetensors of the text stage")
    return tensors[PROJECTION].float().to(device)
