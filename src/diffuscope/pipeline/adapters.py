"""LoRAs in use: which are loaded, with which weight, and the networks' parameters made so.

A LoRA is merged: a parameter that it changes is replaced by one new tensor, the module stays as it is, and so do its
speed and its tap names. The unchanged tensors are kept, so that every merge is computed from them and taking a LoRA
away gives back the very tensors that were there.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.loading import Network
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.vae import VAE
from diffuscope.types import Denoiser, Step
from diffuscope.weights.adapter import lora
from diffuscope.weights.adapter.lora import Layer, Lora


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """What came of loading a LoRA. ``str()`` says it."""

    name: str
    weight: float
    dialect: str
    """Whose names the file has: kohya, diffusers, PEFT or ComfyUI."""
    parts: Mapping[str, int]
    """How many layers of each network it changes."""
    unmatched: tuple[str, ...]
    """Layers of the file that this model does not have, in the file's words."""

    @property
    def matched(self) -> int:
        """How many layers of the file are used."""
        return sum(self.parts.values())

    @property
    def total(self) -> int:
        """How many layers the file has."""
        return self.matched + len(self.unmatched)

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {count}" for part, count in self.parts.items())
        lost = f"; not used: {', '.join(self.unmatched[:3])}{', ...' * (len(self.unmatched) > 3)}"
        text = f"LoRA {self.name!r} ({self.dialect}): {self.matched} of {self.total} layers matched ({parts})"
        return f"{text}, weight {self.weight:g}{lost if self.unmatched else ''}"


class Adapters:
    """The LoRAs of a model. ``weights`` are those set for every call; a call may ask for others.

    Attributes:
        folders: where a LoRA that a prompt names, and that is not loaded, is looked for.
    """

    def __init__(self, networks: Mapping[str, Network]) -> None:
        """Of these networks, by part; nothing is loaded yet."""
        self.networks = networks
        self.folders: tuple[Path, ...] = ()
        self._loaded: dict[str, Lora] = {}
        self._weights: dict[str, float] = {}
        self._originals: dict[Layer, Tensor] = {}
        self._applied: dict[str, dict[str, float]] = {part: {} for part in self.networks}

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight of each that is loaded, in the order of their names; a copy."""
        return dict(sorted(self._weights.items()))

    def load(
        self, path: str | PathLike[str], weight: float, name: str | None, *, allow_pickle: bool = False
    ) -> LoraReport:
        """Match the LoRA at ``path``, and merge it; one of that name that was there is replaced."""
        path = Path(path)
        weight = number(weight)
        name = path.stem if name is None else name
        if not name or any(sign in name for sign in "<>:"):
            raise InputError(f"a LoRA cannot be named {name!r}, as prompts write <lora:NAME:WEIGHT>; give a plain name")
        found = lora.read(path, self._known(), allow_pickle=allow_pickle)
        self.unload(name, missing_ok=True)
        self._loaded[name], self._weights[name] = found, weight
        self.settle()
        return _report(name, weight, found)

    def set(self, weights: Mapping[str, float]) -> None:
        """Give loaded LoRAs other weights, all at once: one merge a changed layer, however many there are."""
        numbers = {name: number(weight) for name, weight in weights.items()}
        for name in numbers:
            self._check(name)
        self._weights |= numbers
        self.settle()

    def unload(self, name: str | None = None, *, missing_ok: bool = False) -> None:
        """Take one LoRA away, or all of them."""
        if name is not None and not missing_ok:
            self._check(name)
        names = [*self._loaded] if name is None else [name] * (name in self._loaded)
        for each in names:
            del self._weights[each]
        self.settle()
        for each in names:  # only now: what is merged is computed anew without it
            del self._loaded[each]

    def wanted(self, asked: Mapping[str, float]) -> dict[str, float]:
        """The weights of a call that asks for some itself; what is neither loaded nor zero is loaded from the folder.

        Raises:
            InputError: no such LoRA.
        """
        for name, weight in asked.items():
            if name not in self._loaded and weight:
                self.load(self._in_folder(name), 0.0, name)
        weights = self.weights | dict(asked)
        return {name: weight for name, weight in sorted(weights.items()) if weight}

    def named(self, weights: Mapping[str, float]) -> list[dict[str, object]]:
        """What a receipt says of these weights."""
        return [
            {"name": name, "weight": weight, "sha256": self._loaded[name].sha256} for name, weight in weights.items()
        ]

    def notes(self, weights: Mapping[str, float]) -> list[str]:
        """A sentence on each of these LoRAs of which a part is not used."""
        found = ((name, weight, self._loaded[name]) for name, weight in weights.items())
        return [str(_report(*each)) for each in found if each[2].unmatched]

    def unchanged(self, part: str) -> dict[str, Tensor]:
        """The tensors of a network as they are without any LoRA."""
        originals = {name: tensor for (where, name), tensor in self._originals.items() if where == part}
        return {**self.networks[part].state_dict(), **originals}

    def settle(self) -> None:
        """Give every network the weights that are set for every call."""
        for part in self.networks:
            self._apply(part, self.weights)

    @contextmanager
    def exactly(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Within it, the LoRAs of a receipt are set for every call, and no others; behind it, what was set before.

        Raises:
            InputError: one is neither loaded nor in the folder, or the file of that name is another.
        """
        before = dict(self._weights)
        try:
            for entry in entries:
                name = entry["name"]
                if name not in self._loaded:
                    self.load(self._in_folder(name), 0.0, name)
                if self._loaded[name].sha256 != entry["sha256"]:
                    raise InputError(
                        f"the LoRA {name!r} here is not the one that the receipt names; give the same file"
                    )
            wanted = {entry["name"]: number(entry["weight"]) for entry in entries}
            self._weights = dict.fromkeys(self._loaded, 0.0) | wanted
            self.settle()
            yield
        finally:
            self._weights = dict.fromkeys(self._loaded, 0.0) | before
            self.settle()

    @contextmanager
    def encoding(self, weights: Mapping[str, float]) -> Iterator[None]:
        """Within it, the text encoders have these weights; behind it, those that are set for every call."""
        encoders = [part for part, network in self.networks.items() if isinstance(network, TextEncoder)]
        try:
            for part in encoders:
                self._apply(part, weights)
            yield
        finally:
            for part in encoders:
                self._apply(part, self.weights)

    def during(self, denoise: Denoiser, weights: Mapping[str, float]) -> Denoiser:
        """``denoise`` with the U-Net at these weights, whatever ran between two calls; it stays so until ``settle``."""

        def told(x: Tensor, sigma: float) -> Tensor:
            self._apply("unet", weights)
            return denoise(x, sigma)

        return told

    def settling(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; behind the last, or when they are left, the networks are as ``settle`` makes them."""
        try:
            yield from steps
        finally:
            self.settle()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _apply(self, part: str, weights: Mapping[str, float]) -> None:
        """Make the network's parameters those of ``weights``; nothing is done where they are."""
        wanted = {name: weight for name, weight in sorted(weights.items()) if weight}
        before = self._applied[part]
        if wanted == before:
            return
        for name in wanted:
            self._check(name)
        network = self.networks[part]
        touched = {name for each in {*wanted, *before} for where, name in self._loaded[each].adapters if where == part}
        for name in sorted(touched):
            parameter, layer = network.get_parameter(name), (part, name)
            original = self._originals.pop(layer, parameter.data).to(parameter)
            changes = [
                (self._loaded[each].adapters[layer], weight)
                for each, weight in wanted.items()
                if layer in self._loaded[each].adapters
            ]
            if changes:
                self._originals[layer] = original
            parameter.data = lora.merged(original, changes)
        self._applied[part] = wanted

    def _known(self) -> dict[str, lora.Network]:
        return {
            part: lora.Network.of(self.unchanged(part), network.config)
            for part, network in self.networks.items()
            if not isinstance(network, VAE)
        }

    def _in_folder(self, name: str) -> Path:
        found = next((path for path in self._files() if path.stem == name), None)
        if found is None:
            self._check(name)
        assert found is not None  # a loaded one is not looked for
        return found

    def _files(self) -> list[Path]:
        paths = [path for folder in self.folders for path in sorted(folder.rglob("*"))]
        return [path for path in paths if path.suffix.lower() == ".safetensors" and path.is_file()]

    def _check(self, name: str) -> None:
        if name in self._loaded:
            return
        there = {*self._loaded, *(path.stem for path in self._files())}
        near = difflib.get_close_matches(name, there, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        place = "".join(f", nor in {folder}" for folder in self.folders)
        raise InputError(
            f"no LoRA {name!r} is loaded{place}{hint} Load it with load_lora(path), or set lora_dir to its folder"
        )


def _report(name: str, weight: float, found: Lora) -> LoraReport:
    return LoraReport(name=name, weight=weight, dialect=found.dialect, parts=found.parts, unmatched=found.unmatched)


def number(weight: object) -> float:
    """A LoRA's weight.

    Raises:
        InputError: it is no finite number.
    """
    if isinstance(weight, Real) and not isinstance(weight, bool) and math.isfinite(weight):
        return float(weight)
    raise InputError(f"the weight of a LoRA is {weight!r}; give a finite number, such as 0.8")
