"""Imagic's file (Kawar et al. 2023): a LoRA that knows one picture, and two text states between which one goes.

The LoRA has kohya's names, so that every program opens it; the states are ``imagic.target`` and ``imagic.learned``
[T,D], and ``imagic.pooled`` [P] where the U-Net reads a pooled text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffuscope.errors import WeightMismatchError, WeightsError, shown
from diffuscope.weights.adapter.lora import IMAGIC
from diffuscope.weights.store import files, headers

FORMAT = "diffuscope imagic 1"


@dataclass(frozen=True, kw_only=True)
class States:
    """The text states of one edit."""

    prompt: str  # the text of the picture that is wanted
    target: Tensor  # [T,D] its states, as the text encoder makes them
    learned: Tensor  # [T,D] those from which the network makes the picture that was given
    pooled: Tensor | None = None  # [P] of the text


def write(path: str | Path, states: States, lora: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write the states and the LoRA's tensors in one file."""
    own = {"target": states.target, "learned": states.learned}
    own |= {} if states.pooled is None else {"pooled": states.pooled}
    tensors = {IMAGIC + name: value.detach().float().cpu() for name, value in own.items()}
    files.write(path, {**tensors, **lora}, {**about, "format": FORMAT, "prompt": states.prompt})


def read(path: str | Path, width: int) -> States:
    """The states in a file, for a model whose text has this width; a WeightsError for any other file."""
    header = headers.read_header(path)
    if header.metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} is no Imagic: its metadata has no format {FORMAT!r}; make one with train imagic")
    names = [name for name in header.tensors if name.startswith(IMAGIC)]
    tensors = {name.removeprefix(IMAGIC): value for name, value in files.read(path, names).items()}
    for name in ("target", "learned"):
        shape = list(tensors[name].shape) if name in tensors else None
        if shape is None or len(shape) != 2 or shape != list(tensors["target"].shape):
            raise WeightsError(f"{path} is damaged: {shown(IMAGIC + name)} is {shape}, expected [T,D]; make it again")
    unknown = [name for name in tensors if name not in ("target", "learned", "pooled")]
    if unknown:
        raise WeightsError(f"{path} is refused: {shown(IMAGIC + unknown[0])} is no state of an Imagic; make it again")
    if tensors["target"].shape[1] != width:
        raise WeightMismatchError(
            f"{path} was made for a model whose text is {tensors['target'].shape[1]} wide, this one's is {width}; give "
            "it to that model"
        )
    if not all(value.isfinite().all() for value in tensors.values()):
        raise WeightsError(f"{path} holds numbers that are not finite; make it again")
    return States(
        prompt=header.metadata.get("prompt", ""),
        target=tensors["target"].float(),
        learned=tensors["learned"].float(),
        pooled=tensors.get("pooled"),
    )
