"""Loading a model's parts from a name, a folder or a file: device, dtype, files, networks."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files as resources
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from diffuscope import model_files
from diffuscope.config import ModelConfig, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.errors import InputError, WeightsError, is_out_of_memory
from diffuscope.file_hash import FileHash
from diffuscope.model_source import DEVICES, check_device, check_dtype
from diffuscope.models.added_words import AddedWord
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.upscaler import Upscaler
from diffuscope.models.vae import VAE
from diffuscope.weights.identify import families, one_network
from diffuscope.weights.layout import diffusers_folder, own_config, single_file, tokenizer_files
from diffuscope.weights.layout.diffusers import from_diffusers
from diffuscope.weights.layout.fields import Description
from diffuscope.weights.store import difference, documents, packing
from diffuscope.weights.store.assign import blank, load_into
from diffuscope.weights.store.old_names import current_names
from diffuscope.weights.store.stores import Store, open_store

Network = TextEncoder | UNet | VAE

UNPACKED_THERE = 1 << 26
"""Bytes of a packed file that are unpacked on a CUDA device; a difference has sixteen times as many as floats."""


HASHED_EARLY = ("cuda",)
"""Kinds of devices beside which the host hashes the files that they read."""


@dataclass(frozen=True, kw_only=True)
class Components:
    """The parts of a model, each usable on its own."""

    config: ModelConfig
    tokenizer: Tokenizer
    text_encoder: TextEncoder
    unet: UNet
    vae: VAE
    tokenizer_2: Tokenizer | None = None
    text_encoder_2: TextEncoder | None = None
    vae_name: str | None = None
    """File or folder of a VAE that replaces the model's own."""
    files: tuple[Path, ...] = ()
    """Its weight files."""
    file_name: str | None = None
    """Of the single file or folder that they were read from, or the hub id; None of a shipped model."""
    notes: tuple[str, ...] = ()
    """One sentence on each of its files with something that is not used."""
    words: frozenset[str] = frozenset()
    """Of its training captions; empty where its folder does not tell."""
    hashes: Mapping[str, FileHash] = field(default_factory=dict, repr=False, compare=False)
    """Of the networks on a GPU, begun with the reading of their files."""

    @property
    def networks(self) -> dict[str, Network]:
        """The model's networks by name, in the order of their use."""
        return {part: getattr(self, part) for part in model_files.parts(self.config)}

    @property
    def towers(self) -> tuple[tuple[Tokenizer, TextEncoder], ...]:
        """Each text encoder with its tokenizer, in the order in which their states are concatenated."""
        first = (self.tokenizer, self.text_encoder)
        if self.tokenizer_2 is None or self.text_encoder_2 is None:
            return (first,)
        return first, (self.tokenizer_2, self.text_encoder_2)


def load_components(
    name_or_path: str | PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
    *,
    allow_pickle: bool = False,
    models_dir: str | PathLike[str] | None = None,
) -> Components:
    """The parts of a shipped model, of a folder in our layout or that of diffusers, or of a single file.

    Networks are built on the meta device and take the tensors as they are mapped from the file. If dtype or device
    differ, tensors are read one by one, so weights are never in memory twice. The networks are ready to run: evaluation
    mode, no gradients.

    Args:
        name_or_path: shipped model, folder, single file in LDM's layout, name in ``models_dir``, or hub id.
        device: "auto" is the first available of cuda, mps, xpu, cpu.
        dtype: "auto" is float32 on the CPU, where halves are slower and less exact; on accelerators bfloat16 where it
            is native, since it has float32's range and nothing overflows, and float16 elsewhere.
        family: a key of ``config.FAMILIES``, for a single file that several fit.
        allow_pickle: also read files that torch pickled, with ``stores.open_store``.
        models_dir: another program's folder of models, as in ``library``.

    Raises:
        ModelNotFoundError: no model of that name or path, or a part of its folder is missing.
        InputError: an impossible device, dtype or family.
        WeightsError: a file is damaged, or does not fit its network.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    path = model_files.find(name_or_path, models_dir)
    store = open_store(path, allow_pickle=allow_pickle) if path.is_file() else None
    if store is None and family is not None:
        raise InputError("family", family, "None for a folder, which has its own configuration")
    description = model_files.describe_folder(path) if store is None else describe_file(store, family)
    config = description.config
    paths = model_files.weight_files(path, config, allow_pickle=allow_pickle) if store is None else {}
    networks, hashes = _networks(path, config), dict[str, FileHash]()
    for part, network in networks.items():
        target = torch.float32 if _overflows(network, dtype) else dtype
        shards = paths[part] if store is None else [path]
        stores = [open_store(each, allow_pickle=allow_pickle) for each in shards] if store is None else [store]
        if device.type in HASHED_EARLY and not any(map(_is_packed, stores)):
            mapped = current_names(_tensors(path, stores, part, config, None, torch.device("cpu")))
            hashes[part] = FileHash(mapped, target, shards)
        load_into(network, _tensors(path, stores, part, config, target, device), source=str(shards[0]))
        _ready(network, device, target)
        if part in hashes:
            hashes[part].read_into(network.state_dict())
    encoders = [part for part in networks if part.startswith("text_encoder")]
    tokenizers = {part.replace("text_encoder", "tokenizer"): _tokenizer(path, part, config) for part in encoders}
    config = replace(config, base=None, base_hash=None)  # the components are whole
    opened_files = [path] if store is not None else [shard for each in paths.values() for shard in each]
    name = None if str(name_or_path) in model_files.shipped_models() else _file_name(name_or_path, path)
    found = Components(config=config, **networks, **tokenizers)  # type: ignore[arg-type]  # each part by its name
    words = _words(path) if store is None and model_files.is_own(path) else frozenset()
    notes = (*description.notes, *_emulated(dtype, device))
    return replace(found, words=words, notes=notes, files=tuple(opened_files), file_name=name, hashes=hashes)


def _words(folder: Path) -> frozenset[str]:
    """Of the training captions of a model in our layout, or of its base."""
    own, config = own_config.read_words(folder), own_config.read(folder)
    return own if own or config.base is None else _words(model_files.base_folder(config))


def _tensors(
    path: Path, stores: Sequence[Store], part: str, config: ModelConfig, dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of a network in a single file, or in those of a folder, under our names."""
    if path.is_file():
        return single_file.read_part(stores[0], part, config, dtype=dtype, device=device)
    tensors = _folder_tensors(stores, part, dtype, device)
    return tensors if model_files.is_own(path) else from_diffusers(tensors, getattr(config, part))


def _folder_tensors(
    stores: Sequence[Store], part: str, dtype: torch.dtype | None, device: torch.device
) -> dict[str, Tensor]:
    """The tensors of a network in the files of a folder, under their names there."""
    tensors: dict[str, Tensor] = {}
    for store in stores:
        if difference.is_difference(store.header):
            place = _unpacks_on(device, store)
            base = {name: tensor.to(place) for name, tensor in _base_tensors(store.path, part, device).items()}
            tensors |= difference.restore(store.read(device=place), store.header.metadata, base)
        else:
            tensors |= _read(store, dtype, device)
    return tensors


def _file_name(name_or_path: str | PathLike[str], path: Path) -> str:
    """The name of a model's file or folder, without the folders above it; a hub id as it is."""
    is_path = os.path.exists(name_or_path) or path.is_file()  # noqa: PTH110
    return path.absolute().name if is_path else str(name_or_path)


def _networks(folder: Path, config: ModelConfig) -> dict[str, Network]:
    """The networks of a config, without tensors."""
    try:
        with blank():
            networks: dict[str, Network] = {"text_encoder": TextEncoder(config.text_encoder)}
            if config.text_encoder_2 is not None:
                networks["text_encoder_2"] = TextEncoder(config.text_encoder_2, component="text_encoder_2")
            return networks | {"unet": UNet(config.unet), "vae": VAE(config.vae)}
    except (TypeError, ValueError, RuntimeError) as error:  # torch's own words for a width of 320.5
        if is_out_of_memory(error):
            raise
        raise WeightsError(f"the configuration in {folder} makes no network ({error}); save the model again") from error


def _overflows(network: Network, dtype: torch.dtype) -> bool:
    """Whether the network's activations overflow in the dtype, like those of SDXL's VAE in float16."""
    return isinstance(network, VAE) and network.config.upcast and dtype == torch.float16


def load_network(
    path: str | PathLike[str],
    config: TextEncoderConfig | UNetConfig | VAEConfig,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    *,
    allow_pickle: bool = False,
) -> Network:
    """One network from a file, in our layout (also packed), diffusers' or LDM's; ready to run.

    For example a better VAE for ``dataclasses.replace(components, vae=...)``.

    Args:
        path: a weight file.
        config: of the network, such as ``config.FAMILIES["sdxl"].vae``.
        device: as in ``load_components``.
        dtype: as in ``load_components``.
        allow_pickle: as in ``load_components``.

    Raises:
        InputError: an impossible device or dtype.
        WeightsError: the file is damaged, holds something else, or does not fit the config.
    """
    device = choose_device(device)
    dtype = choose_dtype(dtype, device)
    with blank():
        if isinstance(config, TextEncoderConfig):
            network: Network = TextEncoder(config)
        else:
            network = UNet(config) if isinstance(config, UNetConfig) else VAE(config)
    target = torch.float32 if _overflows(network, dtype) else dtype
    store = open_store(Path(path), allow_pickle=allow_pickle)
    is_packed = packing.is_packed(store.header)
    tensors = (
        _read(store, target, device) if is_packed else one_network.read(store, config, dtype=target, device=device)
    )
    load_into(network, tensors, source=str(path))
    _ready(network, device, target)
    return network


def load_part(folder: Path, part: str, device: torch.device, dtype: torch.dtype) -> Network:
    """One network of a model's folder in our layout, also of a difference; ready to run. Errors as of a whole model."""
    config = own_config.read(folder)
    network, path = _networks(folder, config)[part], folder / f"{part}.safetensors"
    load_into(network, _folder_tensors([open_store(path)], part, dtype, device), source=str(path))
    _ready(network, device, dtype)
    return network


def load_upscaler(device: torch.device) -> Upscaler:
    """The shipped x4 upscaler, float32, ready to run."""
    path = Path(str(resources("diffuscope"))) / "assets" / "upscaler" / "animevideov3_x4.safetensors"
    with blank():
        upscaler = Upscaler()
    load_into(upscaler, _read(open_store(path), torch.float32, device), source=str(path))
    _ready(upscaler, device, torch.float32)
    return upscaler


def choose_device(device: str | torch.device, argument: str = "device") -> torch.device:
    """The device; "auto" is the first available of ``DEVICES``. Errors name the argument."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": torch.xpu.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name in DEVICES if available[name]))
    if isinstance(device, str):
        check_device(device, argument)
    chosen = torch.device(device)
    if not available.get(chosen.type, False):
        names = ", ".join(name for name in DEVICES if available[name])
        raise InputError(argument, str(device), f"auto or a device of this machine: {names}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(argument, str(device), f"one of this machine's {torch.cuda.device_count()} cuda devices")
    return chosen


def choose_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype; "auto" as in ``load_components``."""
    if dtype == "auto":
        if device.type == "cpu":
            return torch.float32
        native = device.type == "xpu" or (device.type == "cuda" and torch.cuda.is_bf16_supported(False))
        return torch.bfloat16 if native else torch.float16
    name = str(dtype).removeprefix("torch.")
    check_dtype(name)
    chosen: torch.dtype = getattr(torch, name)
    return chosen


def has_bfloat16() -> bool:
    """Whether this processor computes in bfloat16."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _emulated(dtype: torch.dtype, device: torch.device) -> Iterator[str]:
    if dtype == torch.bfloat16 and device.type == "cpu" and not has_bfloat16():
        yield "this processor has no bfloat16, and imitating it takes longer than float32 does, the default here"


def describe_file(store: Store, family: str | None = None) -> Description:
    """The config of a model in a single file, from our metadata or else its family's, and what is not used."""
    document = store.header.metadata.get(single_file.CONFIG_KEY)
    if family is not None or document is None:
        config = families.choose(store.header, family, str(store.path))
    else:
        source, todo = f"{store.path}: the config in its metadata", "give family, such as 'sd15'"
        config = own_config.model_config(documents.parse_json(document, source, todo), source, todo)
    return Description(config, single_file.notes(store, config))


def _base_tensors(path: Path, part: str, device: torch.device) -> dict[str, Tensor]:
    """What the difference in a file is added to: a part of the base that the file's folder names, or a difference too.

    That folder need not be the model's: a model whose base is a difference has parts that are files of its base.
    """
    config = own_config.read(path.parent)
    if config.base is None:
        raise WeightsError(f"{path} is a difference, and {own_config.FILE} names no base; save the model again")
    base = model_files.base_folder(config)
    stores = [open_store(each) for each in model_files.weight_files(base, own_config.read(base))[part]]
    return current_names(_folder_tensors(stores, part, torch.float32, device))


def _is_packed(store: Store) -> bool:
    return packing.is_packed(store.header) or difference.is_difference(store.header)


def _read(store: Store, dtype: torch.dtype | None, device: torch.device) -> dict[str, Tensor]:
    if packing.is_packed(store.header):
        return packing.unpack(store.read(device=_unpacks_on(device, store)), store.header.metadata)
    return store.read(dtype=dtype, device=device)


def _unpacks_on(device: torch.device, store: Store) -> torch.device:
    """Where packed tensors become floats: a CUDA device reads them through pinned memory, but for those of large files.

    The floats of these may not fit beside what is there.
    """
    is_small = store.path.stat().st_size <= UNPACKED_THERE
    return device if device.type == "cuda" and is_small else torch.device("cpu")


def _ready(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    network.to(device, dtype).eval().requires_grad_(False)


def _tokenizer(folder: Path, part: str, config: ModelConfig) -> Tokenizer:
    """The tokenizer of a text encoder: CLIP's merges if the folder has none, and the words that were added to it."""
    encoder: TextEncoderConfig = getattr(config, part)
    subfolder = part if model_files.is_own(folder) else diffusers_folder.subfolder(config, part)
    found = tokenizer_files.read(folder / subfolder.replace("text_encoder", "tokenizer"))
    tokenizer = Tokenizer(found.merges, length=encoder.positions, pad=encoder.pad, vocabulary=encoder.vocabulary)
    found.check(tokenizer.tokens, tokenizer.merges if found.listed else ())
    added = found.beyond(tokenizer.tokens, encoder.vocabulary)
    tokenizer.set_own_words(AddedWord(t.content, ids, whole=t.single_word, any_case=t.normalized) for t, ids in added)
    return tokenizer
