"""The real pictures that scores are made with: those of the evaluation concepts, and every held-out one."""

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
from diffuscope.data.render import render_all
from diffuscope.data.scenes import blank_scenes
from diffuscope.data.split import Split, split
from diffuscope.errors import InputError
from diffuscope.evaluate import words

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class Material:
    """Part of the corpus, rendered. ``pictures[row]`` is what ``canvas.sprites[row]`` shows."""

    pictures: tuple[Picture, ...]
    canvas: Canvas
    split: Split
    corpus_hash: str
    telling: Mapping[str, frozenset[str]]
    """Word of ``words.TAG_WORDS`` that is known only from tags -> the concepts that carry it."""

    @classmethod
    def load(cls, path: str | Path, device: torch.device, size: int = 128, processes: int | None = None) -> "Material":
        """Render from the corpus file at ``path`` what scores need.

        Raises:
            InputError: it is no corpus file, or its split leaves nothing to ask for.
        """
        corpus = Corpus.load(path)
        parts = split(corpus)
        telling = words.telling(corpus, parts)
        carriers = frozenset().union(*telling.values())
        kept = tuple(
            picture
            for picture in corpus.pictures
            if picture.concept in carriers.union(parts.concepts) or (picture.concept, picture.style) in parts.styles
        )
        if not parts.concepts or not parts.styles:
            raise InputError(
                f"the corpus {path} has {len(parts.concepts)} evaluation concepts and {len(parts.styles)} held-out "
                "pairs; scores need both: build the whole corpus with `diffuscope data build`"
            )
        sprites = torch.from_numpy(render_all(Corpus(kept), size, processes)).permute(0, 3, 1, 2).contiguous()
        sprites = sprites.to(device)
        return cls(kept, Canvas.on(device, sprites, dominant_tones(sprites)), parts, corpus.hash, telling)

    @cached_property
    def rows(self) -> dict[str, list[int]]:
        """Concept -> its rows."""
        found: dict[str, list[int]] = defaultdict(list)
        for row, picture in enumerate(self.pictures):
            found[picture.concept].append(row)
        return dict(found)

    def is_held_out(self, row: int) -> bool:
        """Whether nothing was trained on this (concept, style)."""
        return (self.pictures[row].concept, self.pictures[row].style) in self.split.styles

    def drawn(
        self,
        rows: Sequence[int],
        colours: Sequence[int] | None = None,
        backgrounds: Sequence[tuple[int, int, int]] | None = None,
    ) -> Tensor:
        """[N,3,P,P] uint8 on the canvas's device: real pictures, each filling the canvas, as training composes them.

        Args:
            rows: which.
            colours: index of the colour word each is given, -1 as it is; None leaves all as they are.
            backgrounds: sRGB, 0 to 255; None is white.
        """
        scenes = blank_scenes(len(rows))
        scenes.sprite[:, 0] = rows
        if colours is not None:
            scenes.colour[:, 0] = colours
        if backgrounds is not None:
            scenes.background[:] = np.array(backgrounds, np.uint8)
        parts = [compose(self.canvas, scenes.take(slice(i, i + 256))) for i in range(0, len(rows), 256)]
        return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
