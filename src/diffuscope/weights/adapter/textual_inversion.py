"""Textual inversion: the embeddings of an added word, from its file (Gal et al. 2022, section 4).

One tensor named like the word (diffusers), ``emb_params`` or ``string_to_param.*`` (AUTOMATIC1111's web UI, where the
file's name is the word; ``emp_params`` in OneTrainer), or ``clip_l`` and ``clip_g`` (SDXL, one for each text encoder).
A LoRA's file may have such tensors too, as ``bundle_emb.WORD.clip_l``; its other tensors are no part of an embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffuscope.errors import WeightMismatchError, WeightsError, shown
from diffuscope.weights.adapter.lora_names import BASE_MODELS
from diffuscope.weights.store import files, headers
from diffuscope.weights.store.stores import open_store

PAIR = ("clip_l", "clip_g")
NAMELESS = {*PAIR, "emb_params", "emp_params", "string_to_param.*", "*"}  # tensor names that are not the word
BUNDLE = "bundle_emb."  # beginning of an embedding's tensors in a LoRA's file
FILES = ("learned_embeds.safetensors", "learned_embeds.bin")  # the file in an embedding's folder
VECTORS_LIMIT = 75  # a prompt has no more tokens


@dataclass(frozen=True, kw_only=True)
class TextualInversion:
    """A word and its vectors."""

    path: Path
    word: str
    vectors: Mapping[str, Tensor]  # text encoder -> [K,D], with the same K for each
    sha256: str  # of the file
    unused: tuple[str, ...] = ()  # tensors for a text encoder that the model lacks

    @property
    def length(self) -> int:
        """How many vectors the word has."""
        return len(next(iter(self.vectors.values())))


def read(
    path: str | Path, dims: Mapping[str, int], *, word: str | None = None, allow_pickle: bool = False
) -> TextualInversion:
    """The embedding in a file or folder, for text encoders of these widths, in order; ``word`` renames it.

    Of several in a LoRA's file ``word`` is the one to read. The header is checked against the widths before a tensor is
    read.
    """
    path = files.find_file(Path(path), FILES, "embedding")
    store = open_store(path, allow_pickle=allow_pickle)
    shapes = {name: info.shape for name, info in store.header.tensors.items()}
    bundled, start = None, ""
    if any(name.startswith(BUNDLE) for name in shapes):
        bundled, shapes = _bundled(path, shapes, word)
        start = f"{BUNDLE}{bundled}."
    _check(path, shapes)
    names = {part: start + name for part, name in _match(path, shapes, dims).items()}
    tensors = store.read([*names.values()])
    vectors = {part: tensors[name].float().reshape(-1, dims[part]) for part, name in names.items()}
    if not all(tensor.isfinite().all() for tensor in vectors.values()):
        raise WeightsError(f"{path} holds values that are not finite; fetch it again")
    (first, *_) = names.values()
    if word is None:
        word = bundled or (path.stem if first in NAMELESS else first)
    unused = tuple(name for name in shapes if start + name not in names.values())
    return TextualInversion(path=path, word=word, vectors=vectors, sha256=files.sha256(path), unused=unused)


def write(path: str | Path, word: str, vectors: Mapping[str, Tensor]) -> None:
    """Write a word as other programs read it: one tensor of its name, or ``clip_l`` and ``clip_g`` for two encoders.

    ``vectors`` are [K,D] for each text encoder, in order. AUTOMATIC1111's web UI takes the path's stem as the word.
    """
    names = (word,) if len(vectors) == 1 else PAIR
    files.write(path, {name: value.float() for name, value in zip(names, vectors.values(), strict=True)})


def _bundled(
    path: Path, shapes: Mapping[str, tuple[int, ...]], word: str | None
) -> tuple[str, dict[str, tuple[int, ...]]]:
    """The word of an embedding in a LoRA's file, and the shapes of its tensors by what follows the word."""
    words: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if name.startswith(BUNDLE):
            own = name.removeprefix(BUNDLE)
            end = ".string_to_param.*" if own.endswith(".string_to_param.*") else f".{own.rpartition('.')[2]}"
            words.setdefault(own.removesuffix(end), {})[end[1:]] = shape
    chosen = next(iter(words)) if len(words) == 1 else word
    if chosen not in words:
        listed = ", ".join(shown(each) for each in [*words][:5])
        raise WeightsError(f"{path} holds {len(words)} embeddings ({listed}); give one of them as word")
    return chosen, words[chosen]


def _check(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """One tensor, or SDXL's two, of a few vectors each."""
    output = next((name for name in shapes if name.endswith("_out")), None)
    if output is not None and len(shapes) > 1:
        raise WeightsError(
            f"{path} is refused: {shown(output)} is added to the text encoder's output, which is not supported; train "
            "the embedding without it"
        )
    if len(shapes) != 1 and set(shapes) != set(PAIR):
        names = ", ".join(shown(name) for name in [*shapes][:3])
        raise WeightsError(
            f"{path} is no embedding: it holds {len(shapes)} tensors ({names}), expected one, or clip_l and clip_g"
        )
    for name, shape in shapes.items():
        if len(shape) not in {1, 2} or 0 in shape or (len(shape) == 2 and shape[0] > VECTORS_LIMIT):
            raise WeightsError(
                f"{path} is no embedding: {shown(name)} is {list(shape)}, expected [K,D] with K at most {VECTORS_LIMIT}"
            )
    if len({shape[0] if len(shape) == 2 else 1 for shape in shapes.values()}) != 1:
        headers.refuse(path, "clip_l and clip_g have different numbers of vectors", "fetch it again")


def _match(path: Path, shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]) -> dict[str, str]:
    """Text encoder -> the name of its tensor."""
    if len(dims) == 1:  # of a pair the one that fits, for SDXL's refiner has only the second text encoder
        names = {part: name for part, dim in dims.items() for name, shape in shapes.items() if shape[-1] == dim}
    else:
        names = dict(zip(dims, PAIR, strict=True)) if len(shapes) == len(PAIR) else {}
    if not names or any(shapes[name][-1] != dims[part] for part, name in names.items()):
        stored = [shape[-1] for shape in shapes.values()]
        base_model = "SDXL" if len(shapes) == len(PAIR) else BASE_MODELS.get(stored[0], "another model")
        theirs, ours = (" and ".join(map(str, sides)) for sides in (stored, dims.values()))
        raise WeightMismatchError(
            f"{path} was trained for {base_model}: its vectors have {theirs} dims, this model's token embeddings "
            f"{ours}; give an embedding for this model's family"
        )
    return names
