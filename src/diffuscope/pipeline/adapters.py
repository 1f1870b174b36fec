"""LoRAs in use: which are loaded, at which weight, merged into the networks' parameters.

A merge replaces each changed parameter by one new tensor; modules, speed and tap names stay. The original tensors are
kept: every merge is computed from them, and unloading puts them back.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffuscope.errors import InputError, Unquoted, nearest
from diffuscope.loading import Network
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.vae import VAE
from diffuscope.schema import conformed
from diffuscope.types import Denoiser, Step
from diffuscope.weights.adapter import lora
from diffuscope.weights.adapter.lora import Layer, Lora


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """A loaded LoRA's summary; ``str()`` is one line."""

    name: str
    weight: float
    layout: str
    """Layout of the file: kohya, diffusers, PEFT or ComfyUI."""
    parts: Mapping[str, int]
    """Number of changed layers in each network."""
    unmatched: tuple[str, ...]
    """Layers of the file that this model does not have, under the file's names."""

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
        text = f"LoRA {self.name!r} ({self.layout}): {self.matched} of {self.total} layers matched ({parts})"
        return f"{text}, weight {self.weight:g}{lost if self.unmatched else ''}"


class Adapters:
    """The LoRAs of a model. ``weights`` are those set for every call; a call may have others.

    Attributes:
        folders: where a LoRA that a prompt names is found, if it is not loaded.
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
        self,
        path: str | PathLike[str],
        weight: float = 1.0,
        name: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> LoraReport:
        """Load a LoRA and merge it into the networks: W + weight * (alpha / r) B A. Several add up, in any order.

        LoHa, LoKr and OFT load in the same way; ``weights.adapter.deltas`` has their formulas. Files of kohya,
        diffusers, PEFT and ComfyUI are read, for the U-Net and the text encoders, with convolutions and DoRA.

        Args:
            path: a .safetensors file, or the folder that diffusers or PEFT wrote.
            weight: 0 leaves the networks as they are, bit for bit. May be negative.
            name: for ``set_lora``, ``unload_lora`` and ``<lora:name:0.8>``; the file's own by default. A loaded LoRA
                of that name is replaced.
            allow_pickle: also read a pickled file, as ``load`` does.

        Returns:
            How many of the file's layers the model has, and which it does not.

        Raises:
            ModelNotFoundError: there is no such file.
            WeightsError: it is damaged, a pickle, or no LoRA.
            WeightMismatchError: it fits none of the model's layers, or was made for another family of models.
            InputError: the weight is not finite, or the name cannot stand in a prompt.
        """
        path = Path(path)
        weight = conformed(weight, float, "weight")
        name = path.stem if name is None else name
        if not name or any(sign in name for sign in "<>:"):
            raise InputError("name", name, "a name without <, > and :, since prompts write <lora:NAME:WEIGHT>")
        loaded = lora.read(path, self._known(), allow_pickle=allow_pickle)
        self.unload(name, missing_ok=True)
        self._loaded[name], self._weights[name] = loaded, weight
        self.merge()
        return _report(name, weight, loaded)

    def set_one(self, name: str, weight: float) -> None:
        """Change the weight of a loaded LoRA.

        Raises:
            InputError: none of that name is loaded, or the weight is not finite.
        """
        self._check(name)
        self.set({name: weight})

    def set(self, weights: Mapping[str, float]) -> None:
        """Change the weights of several loaded LoRAs at once, at the cost of one; the others keep theirs.

        Every merge is computed from the original tensors, so after any number of changes the networks are those of
        the last weights, bit for bit.

        Raises:
            InputError: none of one of the names is loaded, or a weight is not finite; then nothing is changed.
        """
        numbers = {name: conformed(weight, float, "weight") for name, weight in weights.items()}
        for name in numbers:
            self._check(name, "weights")
        self._weights |= numbers
        self.merge()

    def unload(self, name: str | None = None, *, missing_ok: bool = False) -> None:
        """Unload a LoRA, or all of them. Without any the networks have the tensors that they were loaded with.

        Raises:
            InputError: none of that name is loaded.
        """
        if name is not None and not missing_ok:
            self._check(name)
        names = [*self._loaded] if name is None else [name] * (name in self._loaded)
        for each in names:
            del self._weights[each]
        self.merge()
        for each in names:  # only now: the merge without it needs its factors to find the layers
            del self._loaded[each]

    def weights_of_call(self, tags: Mapping[str, float]) -> dict[str, float]:
        """The weights of a call with these tags in its prompts; a LoRA that is not loaded is loaded from a folder."""
        for name, weight in tags.items():
            if name not in self._loaded and weight:
                self.load(self._in_folder(name, "prompt"), 0.0, name)
        weights = self.weights | dict(tags)
        return {name: weight for name, weight in sorted(weights.items()) if weight}

    def receipt_entries(self, weights: Mapping[str, float]) -> list[dict[str, object]]:
        """The receipt's entries of these weights."""
        return [
            {"name": name, "weight": weight, "sha256": self._loaded[name].sha256} for name, weight in weights.items()
        ]

    def reports(self, entries: Sequence[Mapping[str, Any]]) -> list[LoraReport]:
        """How many layers of each of a receipt's LoRAs matched."""
        return [_report(entry["name"], entry["weight"], self._loaded[entry["name"]]) for entry in entries]

    def notes(self, weights: Mapping[str, float]) -> list[str]:
        """A sentence on each of these LoRAs that has unmatched layers."""
        used = ((name, weight, self._loaded[name]) for name, weight in weights.items())
        return [str(_report(*each)) for each in used if each[2].unmatched]

    def unchanged(self, part: str) -> dict[str, Tensor]:
        """A network's tensors without any LoRA."""
        originals = {name: tensor for (network, name), tensor in self._originals.items() if network == part}
        return {**self.networks[part].state_dict(), **originals}

    def merge(self) -> None:
        """Merge the weights that are set for every call into the networks."""
        for part in self.networks:
            self._apply(part, self.weights)

    @contextmanager
    def as_in_receipt(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[None]:
        """Within, only the LoRAs of a receipt are set; afterwards, those set before."""
        before = dict(self._weights)
        try:
            for entry in entries:
                name = entry["name"]
                if name not in self._loaded:
                    self.load(self._in_folder(name, "lora_dir"), 0.0, name)
                if self._loaded[name].sha256 != entry["sha256"]:
                    raise InputError(
                        "lora_dir", Unquoted(f"another file for {name!r}"), "the file that the receipt names"
                    )
            wanted = {entry["name"]: conformed(entry["weight"], float, "loras") for entry in entries}
            self._weights = dict.fromkeys(self._loaded, 0.0) | wanted
            self.merge()
            yield
        finally:
            self._weights = dict.fromkeys(self._loaded, 0.0) | before
            self.merge()

    @contextmanager
    def in_text_encoders(self, weights: Mapping[str, float]) -> Iterator[None]:
        """Within, the text encoders have these weights; afterwards, those that are set for every call."""
        encoders = [part for part, network in self.networks.items() if isinstance(network, TextEncoder)]
        try:
            for part in encoders:
                self._apply(part, weights)
            yield
        finally:
            for part in encoders:
                self._apply(part, self.weights)

    def with_weights(self, denoise: Denoiser, weights: Mapping[str, float]) -> Denoiser:
        """``denoise`` with these weights merged into the U-Net before each of its calls; they stay until ``merge``."""

        def with_loras(x: Tensor, sigma: float) -> Tensor:
            self._apply("unet", weights)
            return denoise(x, sigma)

        return with_loras

    def merge_after(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; ``merge`` after the last, or when the caller stops."""
        try:
            yield from steps
        finally:
            self.merge()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _apply(self, part: str, weights: Mapping[str, float]) -> None:
        """Merge these weights into a network; nothing to do where they are merged already."""
        wanted = {name: weight for name, weight in sorted(weights.items()) if weight}
        before = self._applied[part]
        if wanted == before:
            return
        for name in wanted:
            self._check(name)
        network = self.networks[part]
        changed = {name for each in {*wanted, *before} for owner, name in self._loaded[each].adapters if owner == part}
        for name in sorted(changed):
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

    def _in_folder(self, name: str, argument: str) -> Path:
        path = next((path for path in self._files() if path.stem == name), None)
        if path is None:
            self._check(name, argument)
        assert path is not None  # a loaded one is not looked for
        return path

    def _files(self) -> list[Path]:
        paths = [path for folder in self.folders for path in sorted(folder.rglob("*"))]
        return [path for path in paths if path.suffix.lower() == ".safetensors" and path.is_file()]

    def _check(self, name: str, argument: str = "name") -> None:
        if name in self._loaded:
            return
        known = {*self._loaded, *(path.stem for path in self._files())}
        folders = "".join(f", or a file in {folder}" for folder in self.folders)
        hint = nearest(name, known) or "Set lora_dir to its folder, or load it with load_lora(path)"
        got = {"prompt": Unquoted(f"the LoRA {name!r}"), "lora_dir": Unquoted(f"no file for {name!r}")}.get(
            argument, name
        )
        raise InputError(argument, got, f"a loaded LoRA{folders}", hint)


def _report(name: str, weight: float, loaded: Lora) -> LoraReport:
    return LoraReport(name=name, weight=weight, layout=loaded.layout, parts=loaded.parts, unmatched=loaded.unmatched)
