"""From a name, a folder or a file to a Pipeline; and which samplers it has."""

from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch

from diffuscope import counterparts, library, loading, model_files
from diffuscope.config import Prediction
from diffuscope.diffusion.samplers import TABLE, SamplerInfo
from diffuscope.errors import is_out_of_memory
from diffuscope.keywords import takes
from diffuscope.loading import Components
from diffuscope.model_source import ModelSource, Source
from diffuscope.models.vae import VAE
from diffuscope.perf import memory, warming
from diffuscope.perf.offload import HOST, has_own_memory
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.schema import conformed
from diffuscope.weights.layout import diffusers_folder


def open_model(source: ModelSource) -> Pipeline:
    """The Pipeline of a ModelSource; see ``load``."""
    model = model_files.DEFAULT if source.model is None else source.model
    device = loading.choose_device(source.device)
    dtype = loading.choose_dtype(source.dtype, device)
    if source.fast is not False:
        warming.warm(device, dtype)  # while the weights are read
    with memory.phase("loading the model", str(device)):
        components, waits = _loaded(source, model, device, dtype)
        if source.vae is not None:
            path = source.vae
            if source.models_dir is not None and not Path(path).exists():
                path = library.find(source.models_dir, str(path), "vae")
            components = with_vae(components, path, allow_pickle=source.allow_pickle)
    given = {"prediction": (source.prediction, Prediction), "zero_snr": (source.zero_snr, bool)}
    stated = {name: conformed(value, kind, name) for name, (value, kind) in given.items() if value is not None}
    schedule = replace(components.config.schedule, **stated)
    components = replace(components, config=replace(components.config, schedule=schedule))
    second = None if source.second_device is None else loading.choose_device(source.second_device, "second_device")
    pipe = Pipeline(components, fast=source.fast, backend=source.backend, second_device=second)
    pipe.engine.offload.allowed = source.offload is None
    if waits:
        pipe.engine.offload.begin(device, components.networks.values())
    if source.models_dir is not None:
        pipe.adapters.folders = library.folders(source.models_dir, "lora")
    return pipe


def _loaded(source: ModelSource, model: Source, device: torch.device, dtype: torch.dtype) -> tuple[Components, bool]:
    """The parts of a model; and whether they wait in the host's memory until they run."""

    def on(place: torch.device) -> Components:
        pickle, folder = source.allow_pickle, source.models_dir
        return loading.load_components(model, place, dtype, source.family, allow_pickle=pickle, models_dir=folder)

    if source.offload and has_own_memory(device):
        return on(HOST), True
    try:
        return on(device), False
    except Exception as error:
        if source.offload is False or not has_own_memory(device) or not is_out_of_memory(error):
            raise
        memory.release(error)
    return on(HOST), True


@takes(ModelSource, counterparts.LOAD)
def load(source: ModelSource) -> Pipeline:
    """Open a model: the shipped one ("emoji"), a folder in our layout or that of diffusers, or a single file.

    Only a hub id that is not in the cache is downloaded ("owner/name", "owner/name@revision",
    "owner/name/file.safetensors"). No code is imported from a model's folder.

    Raises:
        ModelNotFoundError: nothing of that name or at that path, or a part of the folder is missing.
        InputError: the device or the dtype is not possible, there is no such family, ``family`` is given for a folder,
            or a file needs it.
        WeightsError: a file is damaged, foreign, or does not fit its network or this family.
    """
    return open_model(source)


def with_vae(components: Components, path: str | PathLike[str], *, allow_pickle: bool = False) -> Components:
    """The same components with the VAE at ``path``, on the device and in the dtype of the U-Net."""
    weight = components.unet.conv_in.weight
    found = diffusers_folder.find_vae(Path(path), components.config, allow_pickle=allow_pickle)
    vae = loading.load_network(found.path, found.config, weight.device, weight.dtype, allow_pickle=allow_pickle)
    assert isinstance(vae, VAE)
    config = replace(components.config, vae=found.config)
    files, notes = (*components.files, found.path), (*components.notes, *found.notes)
    return replace(components, vae=vae, vae_name=Path(path).name, config=config, files=files, notes=notes)


def samplers() -> dict[str, SamplerInfo]:
    """The samplers by name: order, network calls a step, noise, where each ends, and its names elsewhere.

    Each is also found by these: "Euler a", "EulerDiscreteScheduler", "sample_euler" ...
    """
    return dict(TABLE)
