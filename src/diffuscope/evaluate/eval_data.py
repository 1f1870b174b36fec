"""Real images for the scores: those of the evaluation concepts, of the tag words, and every held-out one."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffuscope.data.colours import dominant_tones
from diffuscope.data.compose import Canvas, compose
from diffuscope.data.corpus import Corpus, Picture
from diffuscope.data.names import slug
from diffuscope.data.render import render_all
from diffuscope.data.scenes import blank_scenes
from diffuscope.data.split import Split, everyday_concepts, split
from diffuscope.errors import InputError, Unquoted
from diffuscope.evaluate.tag_words import tag_only_words

WHITE = (255, 255, 255)
WHOLE = ((0.5, 0.5, 1.0),)
"""Centre and side of one thing that fills the canvas."""


@dataclass(frozen=True)
class EvalData:
    """Part of the corpus, rendered. ``canvas.sprites[row]`` is the image of ``pictures[row]``."""

    pictures: tuple[Picture, ...]
    canvas: Canvas
    split: Split
    corpus_hash: str
    tag_words: Mapping[str, frozenset[str]]
    """Words that occur only as tags -> the concepts that they name."""
    everyday: tuple[str, ...]
    """All everyday concepts, of which ``split.concepts`` are a part."""

    @classmethod
    def load(cls, path: str | Path, device: torch.device, size: int = 128, processes: int | None = None) -> "EvalData":
        """Render the evaluation's part of a corpus file; InputError if its split has nothing to evaluate."""
        corpus = Corpus.load(path)
        parts = split(corpus)
        tag_words = tag_only_words(corpus, parts)
        everyday = everyday_concepts(corpus)
        concepts = frozenset(everyday).union(*tag_words.values())
        pictures = tuple(
            p
            for p in corpus.pictures
            if p.concept in concepts or (p.concept, p.style) in parts.styles or concepts.intersection(map(slug, p.also))
        )
        if not parts.concepts or not parts.styles:
            got = f"{path} with {len(parts.concepts)} evaluation concepts and {len(parts.styles)} held-out pairs"
            raise InputError("path", Unquoted(got), "at least one of each", "Build one with `diffuscope data build`")
        sprites = torch.from_numpy(render_all(Corpus(pictures), size, processes)).permute(0, 3, 1, 2).contiguous()
        sprites = sprites.to(device)
        return cls(
            pictures, Canvas.on(device, sprites, dominant_tones(sprites)), parts, corpus.hash, tag_words, everyday
        )

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Concept -> its rows."""
        rows: dict[str, list[int]] = defaultdict(list)
        for row, picture in enumerate(self.pictures):
            rows[picture.concept].append(row)
        return dict(rows)

    def is_held_out(self, row: int) -> bool:
        """Whether the (concept, style) of a row was held out from training."""
        return (self.pictures[row].concept, self.pictures[row].style) in self.split.styles

    def images(
        self,
        rows: Sequence[int],
        colours: Sequence[int] | None = None,
        backgrounds: Sequence[tuple[int, int, int]] | None = None,
        places: Sequence[Sequence[tuple[float, float, float]]] | None = None,
    ) -> Tensor:
        """[N,3,P,P] uint8 on the canvas's device: real images, composed as in training.

        Args:
            rows: N rows.
            colours: index of the colour word of each, -1 for the original colours; None is -1 for all.
            backgrounds: sRGB of each, 0 to 255; None is white for all.
            places: (x, y, size) of each thing in the image, up to nine; None is ``WHOLE`` for all.
        """
        scenes = blank_scenes(len(rows))
        for i, row in enumerate(rows):
            for slot, (x, y, size) in enumerate(WHOLE if places is None else places[i]):
                scenes.sprite[i, slot], scenes.colour[i, slot] = row, -1 if colours is None else colours[i]
                scenes.x[i, slot], scenes.y[i, slot], scenes.size[i, slot] = x, y, size
        if backgrounds is not None:
            scenes.background[:] = np.array(backgrounds, np.uint8)
        parts = [compose(self.canvas, scenes.take(slice(i, i + 256))) for i in range(0, len(rows), 256)]
        return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
