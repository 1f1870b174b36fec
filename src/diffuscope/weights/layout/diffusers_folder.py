"""A diffusers folder: its weight files, and its JSON files as one config, both ways."""

import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from diffuscope.config import REFINER_SIZES, ModelConfig, Preset, ScheduleConfig, TextEncoderConfig, VAEConfig
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError, shown
from diffuscope.weights.layout import edm_config, fields, network_config, own_config, scheduler_config
from diffuscope.weights.layout.network_config import Json
from diffuscope.weights.store import documents, headers, shards

WEIGHTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
"""Subfolder -> its weight file."""

PICKLED = {
    "model.safetensors": "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin",
}
"""Names of the files before safetensors."""

SCHEDULER = scheduler_config.FILE
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
EDITING = ("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLInstructPix2PixPipeline")
_EDITS = {"num_inference_steps": 100, "image_guidance_scale": 1.5}
PIPELINES: dict[str, Json] = {
    EDITING[0]: _EDITS | {"guidance_scale": 7.5},
    EDITING[1]: _EDITS | {"guidance_scale": 5.0},
    "LatentConsistencyModelImg2ImgPipeline": {"num_inference_steps": 4, "guidance_scale": 8.5},
    "LatentConsistencyModelPipeline": {"num_inference_steps": 4, "guidance_scale": 8.5},
    "StableDiffusionImg2ImgPipeline": {},
    "StableDiffusionInpaintPipeline": {},
    "StableDiffusionPipeline": {},
    "StableDiffusionXLImg2ImgPipeline": {"guidance_scale": 5.0},
    "StableDiffusionXLInpaintPipeline": {},
    "StableDiffusionXLPipeline": {"guidance_scale": 5.0},
}
"""The pipelines that we equal -> their defaults where they differ from ours."""

OTHER_PIPELINES = {
    r".*Depth2Img.*": "its U-Net reads a depth map",
    r"Marigold.*": "it measures depth or surfaces of an image",
    r".*Upscale.*": "its U-Net reads a small image",
    r"Zero123.*": "it paints other views of an image",
    r".*ControlNet.*|.*Adapter.*": "it has a second network beside the U-Net",
    r".*ImageVariation.*|.*UnCLIP.*": "it reads an image in place of a text",
    r"StableDiffusion3.*|Flux.*|PixArt.*|Sana.*|Kolors.*|Kandinsky.*|HunyuanDiT.*": "it is another architecture",
    r".*(Video|Animate).*": "it makes films",
}
"""Pattern of others' names -> why they are refused."""

DIFFUSERS = "0.42.1"  # the version written into folders; diffusers opens no inpainting model without one

CLASSES = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection", "CLIPTextModel"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
"""Subfolder -> the classes that our networks equal."""

OWN = "_diffuscope"  # key of model_index.json for our name and preset; diffusers skips keys with an underscore
ADVICE = fields.ADVICE
MOST_SIDE = 1024  # of latents


def describe(folder: str | Path, *, name: str | None = None) -> fields.Description:
    """The config of the model in a folder, called ``name`` or else like it, and what of its files is not used."""
    folder, notes = Path(folder), list[str]()

    def read(kind: fields.Kind, file: str) -> Json:
        document: Json = documents.read_json(folder / file, ADVICE)
        notes.extend(fields.unused(kind, file, document))
        return document

    index = read("model_index", "model_index.json")
    _check_classes(folder / "model_index.json", index)
    network_config.check("model_index.json", index, {"is_cosxl_edit": (None, False)})
    unet_json = read("unet", "unet/config.json")
    unet = network_config.unet_from_json(unet_json)
    vae = network_config.vae_from_json(read("vae", "vae/config.json"))
    document = read("scheduler", SCHEDULER)
    if index.get("scheduler") is not None:  # diffusers takes this class, whatever the scheduler's own file says
        document["_class_name"] = index["scheduler"][1]
    if document.get("_class_name") in tuple(edm_config.CLASSES):
        scheduler = edm_config.from_json(document)
        vae = replace(vae, scale=vae.scale / scheduler.schedule.sigma_data)
    else:
        scheduler = scheduler_config.from_json(document, index.get("_class_name"))
    notes.extend(scheduler.notes)
    parts = [part for part in TEXT_ENCODERS if _has(index, part)]
    encoders = [_text_encoder(folder, part, read("text_encoder", f"{part}/config.json")) for part in parts]
    for part, encoder in zip(parts, encoders, strict=True):
        notes.extend(fields.tokenizer_notes(folder, part.replace("text_encoder", "tokenizer"), encoder.positions))
    sdxl = unet.extra_dim is not None  # only its classes read penultimate states and heed `force_upcast`
    if sdxl:
        encoders = [replace(encoder, states="penultimate") for encoder in encoders]
    if not encoders:
        raise WeightsError(f"{folder}/model_index.json names no text encoder; {ADVICE}")
    own, pipeline = index.get(OWN, {}), index.get("_class_name", "StableDiffusionPipeline")
    try:
        found = {**_size(unet_json, vae), **PIPELINES[pipeline], **scheduler.preset}
        config = ModelConfig(
            name=own.get("name", folder.resolve().name) if name is None else name,
            text_encoder=encoders[0],
            text_encoder_2=None if len(encoders) == 1 else encoders[1],
            unet=unet,
            vae=replace(vae, upcast=vae.upcast and sdxl),
            schedule=scheduler.schedule,
            preset=Preset(**{**found, **_own_preset(own, found, scheduler.schedule, vae)}),
            draws=own.get("draws", ""),
            examples=own_config.tuples(own.get("examples", ())),
            zero_negative=sdxl and bool(index.get("force_zeros_for_empty_prompt", True)),
        )
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WeightsError(f"the configuration in {folder} makes no model: {error}; {ADVICE}") from error
    if config.edits is not (pipeline in EDITING):
        raise WeightsError(
            f"{folder} has _class_name = {shown(pipeline)} and a U-Net of {unet.in_channels} input channels, expected "
            f"{2 * vae.latent_channels} with {EDITING[0]} and only there; other models of so many are not supported"
        )
    known = fields.READ["scheduler"].union(fields.IRRELEVANT["scheduler"])
    unused = tuple(f"{SCHEDULER}: {entry}" for entry in scheduler.unused if entry.split()[0] in known)
    return fields.Description(config, tuple(notes), unused)


def _own_preset(own: Json, found: Json, schedule: ScheduleConfig, vae: VAEConfig) -> Json:
    """Our preset in the index, without sampler or size where their own files are no longer as we wrote them."""
    entries: Json = own.get("preset", {})
    preset = {key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()}
    if not preset:
        return preset
    whole = Preset(**{**found, **preset})
    layout = _scheduler_layout(schedule)
    written = layout.from_json(layout.to_json(schedule, whole)).preset
    written |= _size({"sample_size": whole.height // vae.factor}, vae)
    for group in (("sampler", "sampler_options", "sigmas", "final_sigma"), ("height", "width")):
        if any(written.get(key) != found.get(key) for key in group):
            preset = {key: value for key, value in preset.items() if key not in group}
    return preset


def _scheduler_layout(schedule: ScheduleConfig) -> ModuleType:
    return edm_config if schedule.betas == "edm" else scheduler_config


def _size(unet: Json, vae: VAEConfig) -> dict[str, int]:
    """The preset's height and width: of latents of the U-Net's ``sample_size``, one number or two."""
    size = unet.get("sample_size")
    if size is None:
        return {"height": 512, "width": 512}
    sides = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= MOST_SIDE for side in sides):
        network_config.refuse("unet/config.json", "sample_size", size, f"one or two whole numbers to {MOST_SIDE}")
    return dict(zip(("height", "width"), (side * vae.factor for side in sides), strict=True))


def write_config(folder: str | Path, config: ModelConfig) -> None:
    """Write the JSON files of a diffusers folder; tensors and tokenizer are written elsewhere."""
    folder = Path(folder)
    unet = network_config.unet_to_json(config.unet) | {"sample_size": config.preset.height // config.vae.factor}
    schedule = config.schedule
    scheduler = _scheduler_layout(schedule).to_json(schedule, config.preset)
    vae = replace(config.vae, scale=config.vae.scale * schedule.sigma_data)
    contents = {
        "model_index.json": model_index(config, scheduler["_class_name"]),
        "unet/config.json": unet,
        "vae/config.json": network_config.vae_to_json(vae) | {"sample_size": config.preset.height},
        SCHEDULER: scheduler,
    }
    for part, encoder in zip(TEXT_ENCODERS, config.text_encoders, strict=False):
        contents[f"{subfolder(config, part)}/config.json"] = network_config.text_encoder_to_json(encoder)
    for path, document in contents.items():
        documents.make_folder((folder / path).parent)
        documents.write_text(folder / path, json.dumps(document, indent=2, sort_keys=True) + "\n")


def subfolder(config: ModelConfig, part: str) -> str:
    """The subfolder of ``part``: its name, but for the only text encoder of SDXL's refiner."""
    refiner = config.unet.extra_dim is not None and config.text_encoder_2 is None
    return "text_encoder_2" if refiner and part == "text_encoder" else part


def model_index(config: ModelConfig, scheduler_class: str) -> Json:
    """``model_index.json``: the class of each part, and our preset."""
    absent = [None, None]
    index: Json = {
        "_class_name": pipeline_class(config),
        "_diffusers_version": DIFFUSERS,
        OWN: {"name": config.name, "preset": asdict(config.preset), "draws": config.draws, "examples": config.examples},
        "feature_extractor": absent,
        "image_encoder": absent,
        "scheduler": ["diffusers", scheduler_class],
        # The pipeline reads hidden states, so it uses this class even for a file with a projection.
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if config.unet.extra_dim is None:
        return index | {"requires_safety_checker": False, "safety_checker": absent}
    index |= {"text_encoder": absent, "tokenizer": absent} if config.text_encoder_2 is None else {}
    index |= {"requires_aesthetics_score": True} if config.sizes == REFINER_SIZES else {}
    return index | {
        "force_zeros_for_empty_prompt": config.zero_negative,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }


def pipeline_class(config: ModelConfig) -> str:
    """The diffusers class that runs the model as its preset does."""
    if config.unet.extra_dim is not None:
        image = "Img2Img" if config.sizes == REFINER_SIZES else ""
        return EDITING[1] if config.edits else f"StableDiffusionXL{'Inpaint' if config.inpaints else image}Pipeline"
    if config.unet.guidance_dim is not None:
        return "LatentConsistencyModelPipeline"
    if config.edits:
        return EDITING[0]
    return "StableDiffusionInpaintPipeline" if config.inpaints else "StableDiffusionPipeline"


def _has(index: Json, part: str) -> bool:
    """Whether the model has a part; SDXL's refiner states that it has no first text encoder."""
    return index.get(part, None if part == "text_encoder_2" else part) not in (None, [None, None])


def _check_classes(path: Path, index: Json) -> None:
    """Refuse other pipelines and parts, which are other networks. No class that the folder names is ever imported."""
    entry = index.get("scheduler")
    if entry is not None and not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)):
        raise WeightsError(f"{path} has scheduler = {shown(entry)}, expected ['diffusers', its class]; {ADVICE}")
    for part, classes in CLASSES.items():
        entry = index.get(part)
        if entry in (None, [None, None]):
            continue
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in classes:
            expected = " or ".join(classes)
            raise WeightsError(
                f"{path} has {part} = {shown(entry)}, expected {expected}; code in a folder is never run"
            )
    name = index.get("_class_name", "StableDiffusionPipeline")
    if isinstance(name, str) and name in PIPELINES:
        return
    why = "code in a folder is never run"
    if isinstance(name, str) and len(name) < 100:
        why = next((reason for other, reason in OTHER_PIPELINES.items() if re.fullmatch(other, name)), why)
    raise WeightsError(
        f"{path} has _class_name = {shown(name)}, and {why}; expected one of {', '.join(PIPELINES)}. If the model is "
        "one of these with another sampling, write that class there"
    )


def _text_encoder(folder: Path, part: str, document: Json) -> TextEncoderConfig:
    """The config of a text encoder, with the padding of its tokenizer."""
    config = network_config.text_encoder_from_json(document)
    pad = fields.stated_pad(folder, part.replace("text_encoder", "tokenizer"))
    usual = 0 if config.activation == "gelu" else fields.END_OF_TEXT  # OpenCLIP's and OpenAI's
    return replace(config, pad=usual if pad is None else pad)


def find_weights(folder: str | Path, part: str, *, allow_pickle: bool = False) -> tuple[Path, ...]:
    """The weight file of the subfolder ``part``, or its shards; half precision and pickles only for want of others."""
    path = Path(folder) / WEIGHTS[part]
    whole = _full_or_half(path)
    if whole is not None:
        return (whole,)
    index = shards.find_index(path)
    if index is not None:
        return shards.read_index(index)
    pickled = _full_or_half(path.with_name(PICKLED[path.name]))
    if pickled is not None and allow_pickle:
        return (pickled,)
    pickles = [pickled] if pickled is not None else sorted(path.parent.glob("*.bin"))
    if pickles:
        raise WeightsError(
            f"{pickles[0]} is a pickle, which can run code, expected {path.name}; "
            f"save the model again as safetensors{'' if pickled is None else headers.PICKLES}"
        )
    raise ModelNotFoundError(f"{path} is missing; give a folder with {', '.join(WEIGHTS.values())}")


def _full_or_half(path: Path) -> Path | None:
    """The file, or its half-precision variant, or None."""
    half = path.with_suffix(f".fp16{path.suffix}")
    return next((candidate for candidate in (path, half) if candidate.is_file()), None)


class FoundVAE(NamedTuple):
    """A VAE in a file of its own."""

    path: Path
    config: VAEConfig
    notes: tuple[str, ...] = ()  # which fields of its configuration are not used


def find_vae(path: str | Path, model: ModelConfig, *, allow_pickle: bool = False) -> FoundVAE:
    """The file and config of a VAE to use in a model.

    ``path`` is a file, which cannot tell how its config differs; a folder with only a VAE; or a model's folder.
    """
    path, config = Path(path), model.vae
    if path.is_file():
        return FoundVAE(path, config)
    folder = path / "vae" if (path / "vae").is_dir() else path
    name = Path(WEIGHTS["vae"]).name
    file = _full_or_half(folder / name) or (_full_or_half(folder / PICKLED[name]) if allow_pickle else None)
    if file is None:
        raise ModelNotFoundError(f"no VAE at {path}; give a .safetensors file, or a folder with {name} in it")
    document = documents.read_json(folder / "config.json", ADVICE)
    vae = network_config.vae_from_json(document)
    vae = replace(vae, scale=vae.scale / model.schedule.sigma_data, upcast=vae.upcast and config.upcast)
    for what, found, wanted in (
        ("scales latents by", vae.scale, config.scale),
        ("has latent channels", vae.latent_channels, config.latent_channels),
        ("has latents of mean and deviation", (vae.mean, vae.std), (config.mean, config.std)),
    ):
        if found != wanted and not (isinstance(wanted, float) and math.isclose(vae.scale, wanted)):
            raise WeightMismatchError(
                f"the VAE in {path} {what} {found}, this model's U-Net expects {wanted}; "
                "give a VAE of the model's family"
            )
    return FoundVAE(file, vae, tuple(fields.unused("vae", f"{folder.name}/config.json", document)))
