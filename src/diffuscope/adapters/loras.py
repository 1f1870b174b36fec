"""LoRAs in use: which are loaded, at which weight, merged into the networks' parameters.

A merge replaces each changed parameter by one new tensor; modules, speed and tap names stay. The original tensors are
kept: every merge is computed from them, and unloading puts them back.

A call has the LoRAs that are set when it begins, and keeps them to its end, whatever other threads load or unload.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from diffuscope.adapters.merging import Loras, Weighted, merged
from diffuscope.errors import InputError, Unquoted, nearest, shortened, visible
from diffuscope.loading import Network
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.vae import VAE
from diffuscope.perf import memory
from diffuscope.perf.engine import Engine
from diffuscope.schema import conformed
from diffuscope.types import Denoiser, Step
from diffuscope.weights.adapter import lora
from diffuscope.weights.store import files, headers


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
    unused: tuple[str, ...] = ()
    """Further tensors and settings of the file that change nothing, such as the embeddings that OneTrainer adds."""

    @classmethod
    def of(cls, loaded: Weighted) -> Self:
        """Of a LoRA at a weight."""
        name, weight, own = loaded
        return cls(
            name=name, weight=weight, layout=own.layout, parts=own.parts, unmatched=own.unmatched, unused=own.unused
        )

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
        lost = [shortened(name, 100) for name in (*self.unmatched, *self.unused)]
        what = f"; not used: {', '.join(lost[:3])}{f' and {len(lost) - 3} more' * (len(lost) > 3)}" if lost else ""
        text = f"LoRA {self.name!r} ({self.layout}): {self.matched} of {self.total} layers matched ({parts})"
        return visible(f"{text}, weight {self.weight:g}{what}")


class Adapters:
    """The LoRAs of a model. ``weights`` are those set for every call; a call may have others.

    Attributes:
        folders: where a LoRA that a prompt names is found, if it is not loaded.
    """

    def __init__(self, networks: Mapping[str, Network], engine: Engine) -> None:
        """Of these networks, by part, which the engine runs; nothing is loaded yet."""
        self.networks, self._engine = networks, engine
        self.folders: tuple[Path, ...] = ()
        self._loaded: Mapping[str, Weighted] = {}  # replaced, never changed, so that any thread may read it
        self._lock = threading.RLock()
        self._receipt = threading.local()

    @property
    def weights(self) -> dict[str, float]:
        """Name -> weight of each that is loaded, in the order of their names; a copy."""
        return {name: self._loaded[name].weight for name in sorted(self._loaded)}

    @property
    def active(self) -> Loras:
        """Those that are set for every call, at another weight than 0."""
        return _active(self._loaded.values())

    @property
    def names(self) -> list[str]:
        """Of those that a prompt may name: loaded, or in the folders."""
        return sorted({*self._loaded, *(names[0] for names in self._files().values())})

    def load(
        self, path: str | PathLike[str], weight: float = 1.0, name: str | None = None, *, allow_pickle: bool = False
    ) -> LoraReport:
        """Load a LoRA and merge it into the networks: W + weight * (alpha / r) B A. Several add up, in any order.

        LoHa, LoKr, OFT, GLoRA and whole tensors load in the same way; ``weights.adapter.deltas`` has their formulas.
        Files of kohya, diffusers, PEFT, LyCORIS, ComfyUI and OneTrainer are read, for the U-Net and the text encoders.

        Args:
            path: a .safetensors file, or the folder that diffusers or PEFT wrote.
            weight: 0 leaves the networks as they are, bit for bit. May be negative.
            name: for ``set_lora``, ``unload_lora`` and ``<lora:name:0.8>``; the file's own by default. A loaded LoRA
                of that name is replaced.
            allow_pickle: also read a pickled file, as ``load`` does.

        Returns:
            How many of the file's layers the model has, and what of the file is not used.

        Raises:
            ModelNotFoundError: there is no such file.
            WeightsError: it is damaged, a pickle, or no LoRA.
            WeightMismatchError: it fits none of the model's layers, or was made for another family of models.
            InputError: the weight is not finite, or the name cannot stand in a prompt.
            OutOfMemoryError: while it is read or merged; the networks are as they were.
        """
        path = Path(path)
        weight = conformed(weight, float, "weight")
        name = path.stem if name is None else name
        if not name or any(sign in name for sign in "<>:"):
            raise InputError("name", name, "a name without <, > and :, since prompts write <lora:NAME:WEIGHT>")
        loaded = Weighted(name, weight, self._read(path, allow_pickle=allow_pickle))
        self._change({name: loaded})
        return LoraReport.of(loaded)

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
            OutOfMemoryError: likewise nothing is changed.
        """
        numbers = {name: conformed(weight, float, "weight") for name, weight in weights.items()}
        for name in numbers:
            self._check(name, "weights")
        self._change({name: Weighted(name, weight, self._loaded[name].lora) for name, weight in numbers.items()})

    def unload(self, name: str | None = None) -> None:
        """Unload a LoRA, or all of them. Without any the networks have the tensors that they were loaded with.

        Raises:
            InputError: none of that name is loaded.
        """
        if name is not None:
            self._check(name)
        self._change({}, without=[*self._loaded] if name is None else [name])

    def of_call(self, tags: Mapping[str, float], depth: int = 0) -> Loras:
        """The LoRAs of a call with these tags in its prompts; one that is not loaded is loaded from a folder.

        Of a branch, ``depth`` 1 is the call from which it branches, and so on.
        """
        fixed: list[Loras | None] = getattr(self._receipt, "loras", [])
        if fixed and (own := fixed[depth]) is not None:
            return own
        for name, weight in tags.items():
            if weight:
                self._find(name, "prompt")
        loaded = self._loaded
        return _active([loaded[name]._replace(weight=tags.get(name, loaded[name].weight)) for name in loaded])

    def receipt_entries(self, loras: Loras) -> list[dict[str, object]]:
        """The receipt's entries of these."""
        return [{"name": name, "weight": weight, "sha256": each.sha256} for name, weight, each in loras]

    def reports(self, entries: Sequence[Mapping[str, Any]]) -> list[LoraReport]:
        """How many layers of each of a receipt's LoRAs matched."""
        return [LoraReport.of(self._loaded[entry["name"]]._replace(weight=entry["weight"])) for entry in entries]

    def notes(self, loras: Loras) -> list[str]:
        """A sentence on each of these that is not used in full."""
        return [str(LoraReport.of(each)) for each in loras if each.lora.unmatched or each.lora.unused]

    def unchanged(self, part: str) -> dict[str, Tensor]:
        """A network's tensors without any LoRA."""
        return merged(self.networks[part]).unchanged(self.networks[part])

    @contextmanager
    def using(
        self, loras: Loras | None = None, parts: Iterable[str] | None = None, run: object = None
    ) -> Iterator[None]:
        """Within, the networks have these LoRAs, or those that are set for every call; other threads wait.

        ``parts`` are all that LoRAs change, unless given. Within a use of the same run nothing waits in any thread.
        """
        loras = self.active if loras is None else loras
        with ExitStack() as stack:
            for part in self._parts() if parts is None else parts:
                network = self.networks[part]
                stack.enter_context(self._engine.using(network))  # first: a merge on the host has other roundings
                stack.enter_context(merged(network).using(network, part, loras, run))
            yield

    @contextmanager
    def in_text_encoders(self, loras: Loras) -> Iterator[None]:
        """Within, the text encoders have these LoRAs; afterwards, those that are set for every call."""
        encoders = [part for part, network in self.networks.items() if isinstance(network, TextEncoder)]
        try:
            with self.using(loras, encoders):
                yield
        finally:
            self.rest(encoders)

    def with_loras(self, denoise: Denoiser, loras: Loras) -> Denoiser:
        """``denoise`` with these LoRAs in the U-Net during each of its calls; they stay until ``rest``."""
        run = object()

        def denoised(x: Tensor, sigma: float) -> Tensor:
            with self.using(loras, ["unet"], run):
                return denoise(x, sigma)

        return denoised

    def rest_after(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; ``rest`` after the last, or when the caller stops."""
        try:
            yield from steps
        finally:
            self.rest(["unet"])

    def rest(self, parts: Iterable[str]) -> None:
        """Give networks that nobody uses the LoRAs that are set for every call."""
        for part in parts:
            with self._engine.offload.resting(self.networks[part]) as is_there:
                if is_there:
                    merged(self.networks[part]).rest(self.networks[part], part, self.active)

    @contextmanager
    def as_in_receipt(self, entries: Sequence[Sequence[Mapping[str, Any]] | None]) -> Iterator[None]:
        """Within, the calls of this thread have the LoRAs of a receipt, and no others; by depth, as in ``of_call``.

        At a depth of None they have those of any call.
        """

        def of_entry(entry: Mapping[str, Any]) -> Weighted:
            weight = conformed(entry["weight"], float, "loras")
            return self._find(entry["name"], "lora_dir", entry["sha256"])._replace(weight=weight)

        self._receipt.loras = [None if own is None else _active(map(of_entry, own)) for own in entries]
        try:
            yield
        finally:
            del self._receipt.loras

    def _change(self, new: Mapping[str, Weighted], without: Iterable[str] = ()) -> None:
        """Replace what is loaded and set, and merge it. On any exception all is as it was before."""
        with self._lock:
            before = self._loaded
            self._loaded = after = {name: each for name, each in before.items() if name not in without} | dict(new)
        try:
            with self.using():
                pass
        except BaseException:
            if self._loaded is after:
                self._loaded = before
            with suppress(Exception):  # the first one counts; if this fails too, the next call merges what is set
                self.rest(self._parts())
            raise

    def _parts(self) -> list[str]:
        return [part for part, network in self.networks.items() if not isinstance(network, VAE)]

    def _known(self) -> dict[str, lora.Network]:
        found = {part: network for part, network in self.networks.items() if not isinstance(network, VAE)}
        return {part: lora.Network.of(network.state_dict(), network.config) for part, network in found.items()}

    def _read(self, path: Path, *, allow_pickle: bool = False) -> lora.Lora:
        with memory.phase("loading the LoRA", "cpu"):
            return lora.read(path, self._known(), allow_pickle=allow_pickle)

    def _find(self, name: str, argument: str, sha256: str | None = None) -> Weighted:
        """The LoRA of that name, loaded from a folder if it is not yet, which has this hash."""
        with self._lock:
            if name not in self._loaded:
                loaded = self._read(self._in_folder(name, argument, sha256))
                self._loaded = {**self._loaded, name: Weighted(name, 0.0, loaded)}
            found = self._loaded[name]
        if sha256 not in (None, found.lora.sha256):
            raise InputError(argument, Unquoted(f"another file for {name!r}"), "the file that the receipt names")
        return found

    def _in_folder(self, name: str, argument: str, sha256: str | None) -> Path:
        """The only file of that name, which may have folders and a suffix, or the only one with the hash."""
        paths = {path: names for path, names in self._files().items() if name in names}
        if not paths:
            self._check(name, argument)
        exact = [path for path, names in paths.items() if name in names[1:]]
        found = exact if len(exact) == 1 else [*paths]
        if len(found) > 1 and sha256 is not None:
            found = [path for path in found if files.sha256(path, headers.data_start(path)) == sha256] or found
        elif len(found) > 1:
            full = [names[1] for names in paths.values()]
            full = full if len({*full}) == len(full) else [str(path) for path in paths]
            listed = " or ".join(full[:5]) + ", ..." * (len(full) > 5)
            got = Unquoted(f"the LoRA {name!r}, which {len(full)} files are called")
            raise InputError(argument, got, f"the full name of one: {listed}", "Or load it with load_lora(path)")
        return found[0]

    def _files(self) -> dict[Path, tuple[str, str, str]]:
        """The files in the folders -> their names: alone, with folders, and with the suffix too."""
        paths = {path: folder for folder in self.folders for path in sorted(folder.rglob("*"))}
        names = {path: path.relative_to(folder) for path, folder in paths.items()}
        return {
            path: (path.stem, name.with_suffix("").as_posix(), name.as_posix())
            for path, name in names.items()
            if path.suffix.lower() == ".safetensors" and path.is_file()
        }

    def _check(self, name: str, argument: str = "name") -> None:
        if name in self._loaded:
            return
        folders = "".join(f", or a file in {folder}" for folder in self.folders)
        hint = nearest(name, self.names) or "Set lora_dir to its folder" * (not self.folders)
        words = {"prompt": Unquoted(f"the LoRA {name!r}"), "lora_dir": Unquoted(f"no file for {name!r}")}
        raise InputError(argument, words.get(argument, name), f"a loaded LoRA{folders}", hint)


def _active(loaded: Iterable[Weighted]) -> Loras:
    """Those that change anything, in the order of their names."""
    return tuple(sorted((each for each in loaded if each.weight), key=lambda each: each.name))
