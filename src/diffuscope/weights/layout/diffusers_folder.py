"""A diffusers folder: where things lie in it, and its JSON files as one config.

The names inside its weight files are a matter of ``layout.diffusers``.
"""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

from diffuscope.config import REFINER_SIZES, ModelConfig, Preset, TextEncoderConfig, VAEConfig
from diffuscope.errors import ModelNotFoundError, WeightMismatchError, WeightsError
from diffuscope.weights.layout import network_config, scheduler_config
from diffuscope.weights.layout.network_config import Json
from diffuscope.weights.store import files, shards

WEIGHTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "text_encoder_2": "text_encoder_2/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
"""Where the tensors of each network lie in the folder, by what diffusers calls it."""

PICKLED = {
    "model.safetensors": "pytorch_model.bin",
    "diffusion_pytorch_model.safetensors": "diffusion_pytorch_model.bin",
}
"""What the files were called before safetensors."""

SCHEDULER = "scheduler/scheduler_config.json"

END_OF_TEXT = 49407
SDXL_CLASSES = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
"""Their default guidance is 5, that of the others 7.5."""

DIFFUSERS = "0.42.1"
"""The version whose folders ours are like; without one it does not open a model for inpainting."""

CLASSES = {
    "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    "text_encoder_2": ("CLIPTextModelWithProjection", "CLIPTextModel"),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
}
"""Part -> the classes whose networks ours equal."""

OWN = "_diffuscope"
"""Key in model_index.json for what diffusers has no place for; it skips keys with an underscore."""


def read_config(folder: str | Path, *, name: str | None = None) -> ModelConfig:
    """The config of the model in a diffusers folder; ``name`` is the folder's own where none is given.

    Raises:
        ModelNotFoundError: a JSON file of the folder is missing.
        WeightsError: one is damaged, or asks for what our networks do not do.
    """
    folder = Path(folder)
    index = _read_json(folder / "model_index.json")
    _check_classes(folder / "model_index.json", index)
    json_of_unet = _read_json(folder / "unet/config.json")
    unet = network_config.unet_from_json(json_of_unet)
    vae = network_config.vae_from_json(_read_json(folder / "vae/config.json"))
    schedule, preset = scheduler_config.from_json(_read_json(folder / SCHEDULER))
    towers = [_read_tower(folder, index, name) for name in ("text_encoder", "text_encoder_2")]
    encoders = [tower for tower in towers if tower is not None]
    large = unet.extra_dim is not None  # SDXL, whose classes read other states, and heed `force_upcast`
    if large:
        encoders = [replace(encoder, states="penultimate") for encoder in encoders]
    if not encoders:
        raise WeightsError(f"{folder}/model_index.json names no text encoder; save the folder again")
    side = json_of_unet.get("sample_size")
    side = 512 if side is None else side * vae.factor
    own = index.get(OWN, {})
    try:
        return ModelConfig(
            name=own.get("name", folder.resolve().name) if name is None else name,
            text_encoder=encoders[0],
            text_encoder_2=None if len(encoders) == 1 else encoders[1],
            unet=unet,
            vae=replace(vae, upcast=vae.upcast and large),
            schedule=schedule,
            preset=Preset(**{"height": side, "width": side, **_usual(index), **preset, **own.get("preset", {})}),
            zero_negative=large and bool(index.get("force_zeros_for_empty_prompt", True)),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"the configuration in {folder} makes no model: {error}; save the folder again") from error


def write_config(folder: str | Path, config: ModelConfig) -> None:
    """Write the JSON files that make ``folder`` a diffusers folder; tensors and tokenizer are written elsewhere.

    Raises:
        OutputError: a file cannot be written.
        WeightsError: the config has no equal in diffusers.
    """
    folder = Path(folder)
    unet = network_config.unet_to_json(config.unet) | {"sample_size": config.preset.height // config.vae.factor}
    scheduler = scheduler_config.to_json(config.schedule, config.preset)
    documents = {
        "model_index.json": model_index(config, scheduler["_class_name"]),
        "unet/config.json": unet,
        "vae/config.json": network_config.vae_to_json(config.vae) | {"sample_size": config.preset.height},
        SCHEDULER: scheduler,
    }
    for part, encoder in zip(("text_encoder", "text_encoder_2"), config.text_encoders, strict=False):
        documents[f"{place(config, part)}/config.json"] = network_config.text_encoder_to_json(encoder)
    for path, document in documents.items():
        files.make_folder((folder / path).parent)
        files.write_text(folder / path, json.dumps(document, indent=2) + "\n")


def place(config: ModelConfig, part: str) -> str:
    """What diffusers calls ``part``: our own name, but for the one text encoder of SDXL's refiner."""
    alone = config.unet.extra_dim is not None and config.text_encoder_2 is None
    return "text_encoder_2" if alone and part == "text_encoder" else part


def model_index(config: ModelConfig, scheduler_class: str) -> Json:
    """``model_index.json``: which class reads which part. Ours reads its preset back from here."""
    absent = [None, None]
    index: Json = {
        "_class_name": pipeline_class(config),
        "_diffusers_version": DIFFUSERS,
        OWN: {"name": config.name, "preset": asdict(config.preset)},
        "feature_extractor": absent,
        "image_encoder": absent,
        "scheduler": ["diffusers", scheduler_class],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if config.unet.extra_dim is None:
        index |= {
            "requires_safety_checker": False,
            "safety_checker": absent,
            # The pipeline reads states, so it takes this class even where a projection lies beside them.
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
        }
        return index
    first = config.text_encoder_2 is not None
    index |= {
        "force_zeros_for_empty_prompt": config.zero_negative,
        "text_encoder": ["transformers", "CLIPTextModel"] if first else absent,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"] if first else absent,
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    }
    return index | ({"requires_aesthetics_score": True} if config.sizes == REFINER_SIZES else {})


def pipeline_class(config: ModelConfig) -> str:
    """The class of diffusers that runs the model as its preset says."""
    if config.unet.extra_dim is not None:
        image = "Img2Img" if config.sizes == REFINER_SIZES else ""
        return f"StableDiffusionXL{'Inpaint' if config.inpaints else image}Pipeline"
    if config.unet.guidance_dim is not None:
        return "LatentConsistencyModelPipeline"
    return "StableDiffusionInpaintPipeline" if config.inpaints else "StableDiffusionPipeline"


def _check_classes(path: Path, index: Json) -> None:
    """Refuse parts of other classes than ours are equal to. None is imported; but another class is another network."""
    for part, classes in CLASSES.items():
        entry = index.get(part)
        if entry is None or entry == [None, None]:
            continue
        if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in classes:
            wanted = " or ".join(classes)
            raise WeightsError(f"{path} has {part} = {entry!r}, wanted {wanted}; code of a model's folder is never run")
    if not isinstance(index.get("_class_name", ""), str):
        raise WeightsError(
            f"{path} has _class_name = {index['_class_name']!r}, which names code in the folder; such code is never run"
        )


def _usual(index: Json) -> Json:
    """Steps and guidance that are the defaults of the folder's class in diffusers."""
    name = str(index.get("_class_name"))
    if name.startswith("LatentConsistency"):
        return {"steps": 4, "guidance_scale": 8.5}
    return {"guidance_scale": 5.0} if name in SDXL_CLASSES else {}


def _read_tower(folder: Path, index: Json, name: str) -> TextEncoderConfig | None:
    """The config of a text encoder with its tokenizer's padding, or None where the model has none of that name."""
    entry = index.get(name, [None, None] if name == "text_encoder_2" else name)
    if entry is None or entry == [None, None]:
        return None
    config = network_config.text_encoder_from_json(_read_json(folder / name / "config.json"))
    pad = _pad(folder / name.replace("text_encoder", "tokenizer"))
    if pad is None:
        pad = 0 if config.activation == "gelu" else END_OF_TEXT  # OpenCLIP's towers, and OpenAI's
    return replace(config, pad=pad)


def _pad(folder: Path) -> int | None:
    """The id that fills up short texts, as the JSON files of a tokenizer's folder name it."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        if not path.is_file():
            continue
        token = _read_json(path).get("pad_token")
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            return 0 if content == "!" else END_OF_TEXT
    return None


def find_weights(folder: str | Path, part: str, *, allow_pickle: bool = False) -> tuple[Path, ...]:
    """The safetensors file of ``part`` (a key of ``WEIGHTS``) in a diffusers folder, or the shards of it.

    Half precision is taken where there is nothing else, and then, if they are allowed, what torch pickled. What else
    lies in the folder, such as a safety checker, is not looked for and not missed.

    Raises:
        ModelNotFoundError: there is none, or a shard is missing.
        WeightsError: there is a pickled one only, which is not allowed, or the shards' index is damaged.
    """
    path = Path(folder) / WEIGHTS[part]
    found = _whole(path)
    if found is not None:
        return (found,)
    index = shards.find_index(path)
    if index is not None:
        return shards.read_index(index)
    found = _whole(path.with_name(PICKLED[path.name]))
    if found is not None and allow_pickle:
        return (found,)
    pickles = [found] if found is not None else sorted(path.parent.glob("*.bin"))
    if pickles:
        raise WeightsError(
            f"{pickles[0]} is a pickle, which can run code; wanted {path.name} beside it: "
            f"save the model again as safetensors{'' if found is None else files.PICKLES}"
        )
    raise ModelNotFoundError(f"{path} is missing; give a folder with {', '.join(WEIGHTS.values())}")


def _whole(path: Path) -> Path | None:
    """The file, or that of the same name in half precision; None where there is neither."""
    half = path.with_suffix(f".fp16{path.suffix}")
    return next((candidate for candidate in (path, half) if candidate.is_file()), None)


def find_vae(path: str | Path, config: VAEConfig, *, allow_pickle: bool = False) -> tuple[Path, VAEConfig]:
    """The file of a VAE that shall take the place of a model's, and its config there.

    Args:
        path: a file, a folder of diffusers with a VAE alone in it, or a model's folder of diffusers.
        config: of the model's own VAE. A file cannot say how it differs, a folder does.
        allow_pickle: also find a folder's file that torch pickled.

    Raises:
        ModelNotFoundError: there is none.
        WeightsError: the folder's JSON is damaged, or asks for what our autoencoder does not do.
        WeightMismatchError: its latents are scaled otherwise than the model's U-Net reads them: another family's.
    """
    path = Path(path)
    if path.is_file():
        return path, config
    base = path / "vae" if (path / "vae").is_dir() else path
    name = Path(WEIGHTS["vae"]).name
    found = _whole(base / name)
    if found is None and allow_pickle:
        found = _whole(base / PICKLED[name])
    if found is None:
        raise ModelNotFoundError(f"no VAE at {path}; give a .safetensors file, or a folder with {name} in it")
    vae = network_config.vae_from_json(_read_json(base / "config.json"))
    if not math.isclose(vae.scale, config.scale):
        raise WeightMismatchError(
            f"the VAE in {path} is for latents times {vae.scale:g}, and this model's U-Net reads latents times "
            f"{config.scale:g}; give a VAE of the model's family"
        )
    return found, replace(vae, upcast=vae.upcast and config.upcast)


def _read_json(path: Path) -> Json:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelNotFoundError(f"{path} is missing; give a whole diffusers folder") from error
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as JSON: {error}; save the folder again") from error
    if not isinstance(document, dict):
        raise WeightsError(f"{path} holds {type(document).__name__}, wanted a JSON object; save the folder again")
    return document
