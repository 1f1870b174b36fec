"""Textual inversion: a word's own vectors, as a file has them (Gal et al. 2022, section 4).

One tensor named by its word (diffusers), ``emb_params`` or ``string_to_param.*`` (AUTOMATIC1111's web UI, where the
file's name is the word), or ``clip_l`` and ``clip_g`` side by side (SDXL, one for each text encoder).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.weights.store.files import Header
from diffuscope.weights.store.stores import open_store

PAIR = ("clip_l", "clip_g")
NAMELESS = {*PAIR, "emb_params", "string_to_param.*", "*"}
"""Names that say nothing of the word."""

FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""What the one file of an embedding's folder is called."""

WIDTHS = {768: "SD 1", 1024: "SD 2", 1280: "SDXL's second text encoder"}
VECTORS_LIMIT = 75
"""A text has no more places."""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A word and the vectors that stand for it."""

    path: Path
    word: str
    vectors: Mapping[str, Tensor]
    """Text encoder's name -> [K,D], as many for each."""
    sha256: str
    """Of the file."""

    @property
    def length(self) -> int:
        """How many vectors the word has."""
        return len(next(iter(self.vectors.values())))


def read(
    path: str | Path, widths: Mapping[str, int], *, word: str | None = None, allow_pickle: bool = False
) -> Embedding:
    """The embedding at ``path``, for text encoders of these widths. They are compared before a tensor is read.

    Args:
        path: a file, or the folder that diffusers wrote.
        widths: text encoder's name -> its width; one, or two in the order of SDXL.
        word: what stands for it in a prompt; the file's own if left out.
        allow_pickle: also read ``.pt`` and ``.bin``, by ``stores.open_store``.

    Raises:
        ModelNotFoundError: there is no such file.
        WeightsError: it is damaged, a pickle that is not allowed, or no embedding.
        WeightMismatchError: its vectors are not as wide as the text encoders.
    """
    path = _find(Path(path))
    store = open_store(path, allow_pickle=allow_pickle)
    shapes = {name: tuple(info.shape) for name, info in store.header.tensors.items()}
    _check(path, store.header)
    names = _names(path, shapes, widths)
    tensors = store.read([*names.values()])
    vectors = {part: tensors[name].float().reshape(-1, widths[part]) for part, name in names.items()}
    if not all(tensor.isfinite().all() for tensor in vectors.values()):
        raise WeightsError(f"{path} holds values that are not finite; fetch it again")
    (first, *_) = names.values()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    own = path.stem if first in NAMELESS else first
    return Embedding(path=path, word=own if word is None else word, vectors=vectors, sha256=digest)


def _find(path: Path) -> Path:
    candidates = [path / name for name in FILES] if path.is_dir() else [path]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise ModelNotFoundError(f"no embedding at {path}; give a .safetensors file, or a folder with {FILES[0]}")
    return found


def _check(path: Path, header: Header) -> None:
    """That there is one tensor, or SDXL's two, of a few vectors each."""
    shapes = {name: info.shape for name, info in header.tensors.items()}
    if len(shapes) != 1 and set(shapes) != set(PAIR):
        names = ", ".join(map(repr, [*shapes][:3]))
        raise WeightsError(
            f"{path} is no embedding: it holds {len(shapes)} tensors ({names}), expected one, or clip_l and clip_g"
        )
    for name, shape in shapes.items():
        if len(shape) not in {1, 2} or 0 in shape or (len(shape) == 2 and shape[0] > VECTORS_LIMIT):
            raise WeightsError(
                f"{path} is no embedding: {name!r} is {list(shape)}, expected [K,D] with K at most {VECTORS_LIMIT}"
            )
    if len({shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}) != 1:
        raise WeightsError(f"{path} is refused: clip_l and clip_g have different numbers of vectors; fetch it again")


def _names(path: Path, shapes: Mapping[str, tuple[int, ...]], widths: Mapping[str, int]) -> dict[str, str]:
    """Text encoder's name -> the tensor for it."""
    if len(widths) == 1:  # SDXL's refiner has the second of its text encoders alone
        ((part, width),) = widths.items()
        fits = [name for name, shape in shapes.items() if shape[-1] == width or len(shapes) == 1]
        names = {part: fits[-1]} if fits else {}
    else:
        names = (
            dict(zip(widths, PAIR, strict=True))
            if len(shapes) == len(PAIR)
            else dict.fromkeys(widths, next(iter(shapes)))
        )
    wrong = [part for part, name in names.items() if shapes[name][-1] != widths[part]]
    if wrong or len(names) < len(widths) or (len(widths) > 1 and len(shapes) == 1):
        theirs = " and ".join(str(shape[-1]) for shape in shapes.values())
        ours = " and ".join(map(str, widths.values()))
        known = [WIDTHS[shape[-1]] for shape in shapes.values() if shape[-1] in WIDTHS]
        made = "SDXL" if len(shapes) == len(PAIR) else known[0] if known else "a model of another kind"
        raise WeightMismatchError(
            f"{path} was made for {made}: its vectors are {theirs} wide, and this model's text is {ours} wide; "
            "give an embedding that was made for this family of models"
        )
    return names
