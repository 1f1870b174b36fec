"""Opening: from a name, a folder or a file to a Pipeline; and which samplers it has."""

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import get_args

import torch

from diffuscope import library, loading
from diffuscope.config import Prediction
from diffuscope.diffusion.samplers import TABLE, SamplerInfo
from diffuscope.errors import InputError
from diffuscope.loading import Components
from diffuscope.models.vae import VAE
from diffuscope.pipeline.pipeline import Pipeline
from diffuscope.weights.layout import diffusers_folder

SCHEDULE = ("prediction", "zero_snr")
"""What a file of weights cannot tell of its schedule."""


def load(
    name_or_path: str | PathLike[str],
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    family: str | None = None,
    *,
    allow_pickle: bool = False,
    models_dir: str | PathLike[str] | None = None,
    vae: str | PathLike[str] | None = None,
    schedule: Mapping[str, object] | None = None,
) -> Pipeline:
    """The Pipeline of a shipped model ("emoji"), of a folder in our layout or that of diffusers, or of a single file.

    Nothing is fetched from a network but a hub id that is not in the cache, and no code is taken from the folder.

    Args:
        name_or_path: a shipped model's name, a folder, a .safetensors file with a whole model in it, a name in
            ``models_dir``, or a hub id: "owner/name", "owner/name@revision", "owner/name/file.safetensors".
        device: "auto" is the first that is there of cuda, mps, xpu, cpu; or "cpu", "cuda:1" and so on.
        dtype: "float32", "bfloat16" or "float16". "auto" is float32 on the CPU, where halves are slower and less
            exact; elsewhere bfloat16 where it is native, as nothing overflows in it, else float16.
        family: only for single files that cannot tell what they are: "sd21" and "sd21-v" have the same shapes. The
            names are those of ``config.FAMILIES``. A folder says it itself, so leave it out.
        allow_pickle: also read files that torch pickled (.ckpt, .pt, or the .bin of a folder), by its restricted
            reader (``weights_only=True``), which builds tensors and runs nothing.
        models_dir: the folder of AUTOMATIC1111's web UI or ComfyUI, or its ``models``, used in place: models are found
            there by name, VAEs likewise, and the LoRAs that prompts name.
        vae: takes the place of the model's own VAE: a file in any layout, a folder of diffusers, or a name in
            ``models_dir``. Those of SD 1, 2 and XL have equal shapes, so that a file cannot tell which it is for;
            a folder can.
        schedule: what the model was trained to, where it does not say so itself: {"prediction": "epsilon", "v" or
            "x0", "zero_snr": True or False}, one or both. Zero terminal SNR rescales the noise levels so that the last
            is pure noise (Lin et al. 2024, Algorithm 1).

    Raises:
        ModelNotFoundError: nothing of that name or at that path, or a part of the folder is missing.
        InputError: the device or the dtype is not possible, there is no such family, ``family`` is given for a folder,
            a file needs it, or the schedule is none.
        WeightsError: a file is damaged, foreign, or does not fit its network or this family.
    """
    components = loading.load_components(
        name_or_path, device, dtype, family, allow_pickle=allow_pickle, models_dir=models_dir
    )
    if vae is not None:
        place = library.find(models_dir, str(vae), "vae") if models_dir is not None and not Path(vae).exists() else vae
        components = with_vae(components, place, allow_pickle=allow_pickle)
    if schedule is not None:
        components = with_schedule(components, schedule)
    pipe = Pipeline(components)
    if models_dir is not None:
        pipe.adapters.folders = library.folders(models_dir, "lora")
    return pipe


def with_vae(components: Components, path: str | PathLike[str], *, allow_pickle: bool = False) -> Components:
    """The same components with the VAE at ``path``, on the device and in the dtype of the U-Net. They are not modified.

    Args:
        components: of a model.
        path: a file with a VAE in any layout, or a folder of diffusers with one.
        allow_pickle: also read a file that torch pickled, by ``stores.open_store``.

    Raises:
        ModelNotFoundError: there is none.
        WeightsError: it is damaged, holds something else, or does not fit the model.
    """
    weight = components.unet.stem.weight
    file, config = diffusers_folder.find_vae(Path(path), components.config.vae, allow_pickle=allow_pickle)
    vae = loading.load_network(file, config, weight.device, weight.dtype, allow_pickle=allow_pickle)
    assert isinstance(vae, VAE)
    return replace(components, vae=vae, vae_name=Path(path).name, config=replace(components.config, vae=config))


def with_schedule(components: Components, schedule: Mapping[str, object]) -> Components:
    """The same components, with ``schedule`` in the place of what their configuration says. They are not modified.

    Raises:
        InputError: there is no such setting, or no such value of it.
    """
    for name, value in schedule.items():
        if name not in SCHEDULE:
            raise InputError(f"the schedule has no {name!r} to be set; give {' or '.join(SCHEDULE)}")
        if name == "zero_snr" and not isinstance(value, bool):
            raise InputError(f"zero_snr is {value!r}; give True or False")
        if name == "prediction" and value not in get_args(Prediction):
            raise InputError(f"prediction is {value!r}; give one of {', '.join(get_args(Prediction))}")
    config = components.config
    return replace(components, config=replace(config, schedule=replace(config.schedule, **schedule)))  # type: ignore[arg-type]


def samplers() -> dict[str, SamplerInfo]:
    """The samplers by name: order, network calls a step, noise, where each ends, and its names elsewhere.

    Each is also found by these: "Euler a", "EulerDiscreteScheduler", "sample_euler" ...
    """
    return dict(TABLE)
