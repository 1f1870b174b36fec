"""A diffusers folder: where things lie in it, and its JSON files as one config.

The names inside its weight files are a matter of ``layouts``.
"""

import json
from dataclasses import asdict
from pathlib import Path

from diffuscope.config import ModelConfig, Preset
from diffuscope.errors import ModelNotFoundError, WeightsError
from diffuscope.weights import configs, files, schedulers
from diffuscope.weights.configs import Json

WEIGHTS = {
    "text_encoder": "text_encoder/model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
}
"""Where the tensors of each network lie in the folder."""

CONFIGS = {part: f"{part}/config.json" for part in WEIGHTS} | {"scheduler": "scheduler/scheduler_config.json"}

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
    parts = {part: _read_json(folder / path) for part, path in CONFIGS.items()}
    vae, unet = configs.vae_from_json(parts["vae"]), configs.unet_from_json(parts["unet"])
    schedule, preset = schedulers.from_json(parts["scheduler"])
    side = parts["unet"].get("sample_size")
    side = 512 if side is None else side * vae.factor
    own = index.get(OWN, {})
    try:
        return ModelConfig(
            name=own.get("name", folder.resolve().name) if name is None else name,
            text_encoder=configs.text_encoder_from_json(parts["text_encoder"]),
            unet=unet,
            vae=vae,
            schedule=schedule,
            preset=Preset(**{"height": side, "width": side, **preset, **own.get("preset", {})}),
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
    unet = configs.unet_to_json(config.unet) | {"sample_size": config.preset.height // config.vae.factor}
    scheduler = schedulers.to_json(config.schedule, config.preset)
    documents = {
        "model_index.json": model_index(config, scheduler["_class_name"]),
        CONFIGS["text_encoder"]: configs.text_encoder_to_json(config.text_encoder),
        CONFIGS["unet"]: unet,
        CONFIGS["vae"]: configs.vae_to_json(config.vae) | {"sample_size": config.preset.height},
        CONFIGS["scheduler"]: scheduler,
    }
    for path, document in documents.items():
        files.make_folder((folder / path).parent)
        files.write_text(folder / path, json.dumps(document, indent=2) + "\n")


def model_index(config: ModelConfig, scheduler_class: str) -> Json:
    """``model_index.json``: which class reads which part. Ours reads its preset back from here."""
    return {
        "_class_name": "StableDiffusionPipeline",
        OWN: {"name": config.name, "preset": asdict(config.preset)},
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler_class],
        # The pipeline reads states, so it takes this class even where a projection lies beside them.
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def find_weights(folder: str | Path, part: str) -> Path:
    """The safetensors file of ``part`` (a key of ``WEIGHTS``) in a diffusers folder, half precision if only that.

    Raises:
        ModelNotFoundError: there is none.
        WeightsError: there is a pickled one only.
    """
    path = Path(folder) / WEIGHTS[part]
    half = path.with_suffix(".fp16.safetensors")
    for candidate in (path, half):
        if candidate.is_file():
            return candidate
    pickles = sorted(path.parent.glob("*.bin"))
    if pickles:
        raise WeightsError(
            f"{pickles[0]} is a pickle, which can run code; wanted {path.name} beside it: "
            "save the model again as safetensors"
        )
    raise ModelNotFoundError(f"{path} is missing; give a folder with {', '.join(WEIGHTS.values())}")


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
