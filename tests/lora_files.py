"""Random LoRAs in every dialect, written by hand from the names of diffusers and of the original files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.ldm import to_ldm
from diffuscope.weights.store import files

Tensors = dict[str, Tensor]
RANK, ALPHA = 3, 2.0
XL_PREFIXES = {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
TOWERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}


@dataclass(frozen=True)
class Layer:
    """One layer's factors, with what diffusers and the original files call it."""

    part: str
    ours: str
    theirs: str
    original: str
    up: Tensor
    down: Tensor
    magnitude: Tensor | None


def layers(pipe: Pipeline, *, dora: bool = False, wanted: Callable[[str], bool] = bool) -> list[Layer]:
    """Factors for each linear and convolution layer of U-Net and text encoders whose diffusers name is wanted."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    found = []
    for part, network in pipe.components.networks.items():
        if part == "vae":
            continue
        tensors = network.state_dict()
        ours = {id(tensor): name for name, tensor in tensors.items()}
        original = to_ldm(tensors, network.config) if part == "unet" else {}
        originals = {ours[id(tensor)]: name for name, tensor in original.items()}
        for key, tensor in to_diffusers(tensors, network.config).items():
            name, _, leaf = key.rpartition(".")
            is_layer = tensor.ndim > 1 and leaf == "weight" and "embeddings" not in key
            if is_layer and wanted(f"{part}.{name}"):
                kernel = [1] * (tensor.ndim - 2)
                found.append(
                    Layer(
                        part,
                        ours[id(tensor)],
                        name,
                        originals.get(ours[id(tensor)], key).removesuffix(".weight"),
                        draw(tensor.shape[0], RANK).reshape(-1, RANK, *kernel),
                        draw(RANK, *tensor.shape[1:]),
                        draw(tensor.shape[0]).abs() + 0.5 if dora else None,
                    )
                )
    return found


def weights_of(pipe: Pipeline) -> Tensors:
    """A copy of every tensor that a LoRA may change."""
    return {
        f"{part}.{k}": v.clone()
        for part in ("unet", "text_encoder")
        for k, v in getattr(pipe, part).state_dict().items()
    }


def equal(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def attention_only(name: str) -> bool:
    """What old diffusers could train: the four linear layers of each attention."""
    return ".to_" in name or "self_attn" in name


def trained(name: str) -> bool:
    """What kohya's script trains: attention, feed-forward, and what enters and leaves the transformers."""
    return "attentions" in name or "encoder.layers" in name


def kohya(found: list[Layer]) -> Tensors:
    """sd-scripts for SD 1 and 2."""
    return _kohya(found, lambda layer: layer.theirs, {"unet": "lora_unet", "text_encoder": "lora_te"})


def kohya_original(found: list[Layer]) -> Tensors:
    """sd-scripts for SDXL, which names the U-Net's layers as the original files do."""
    return _kohya(found, lambda layer: layer.original, XL_PREFIXES)


def peft(found: list[Layer]) -> Tensors:
    """diffusers of today."""
    tensors: Tensors = {}
    for layer in found:
        stem = f"{layer.part}.{layer.theirs}"
        tensors |= {f"{stem}.lora_A.weight": layer.down, f"{stem}.lora_B.weight": layer.up * ALPHA / RANK}
        if layer.magnitude is not None:
            shape = [-1] if layer.down.ndim == 2 else [1, -1, 1, 1]
            tensors[f"{stem}.lora_magnitude_vector"] = layer.magnitude.reshape(shape)
    return tensors


def processors(found: list[Layer]) -> Tensors:
    """diffusers before PEFT: attention processors in the U-Net, patched linear layers in the text encoder."""
    tensors: Tensors = {}
    for layer in found:
        above, _, last = layer.theirs.removesuffix(".0").rpartition(".")
        stem = f"unet.{above}.processor.{last}_lora" if layer.part == "unet" else f"{layer.part}.{layer.theirs}"
        stem += "" if layer.part == "unet" else ".lora_linear_layer"
        tensors |= {f"{stem}.down.weight": layer.down, f"{stem}.up.weight": layer.up * ALPHA / RANK}
    return tensors


def dotted(found: list[Layer]) -> Tensors:
    """diffusers between the two: ``.lora.down``."""
    tensors: Tensors = {}
    for layer in found:
        stem = f"{layer.part}.{layer.theirs}.lora"
        tensors |= {f"{stem}.down.weight": layer.down, f"{stem}.up.weight": layer.up * ALPHA / RANK}
    return tensors


def comfy(found: list[Layer]) -> Tensors:
    """ComfyUI: the original names with their dots."""
    tensors: Tensors = {}
    for layer in found:
        stem = f"diffusion_model.{layer.original}"
        if layer.part in TOWERS:
            stem = f"text_encoders.{TOWERS[layer.part]}.transformer.{layer.theirs}"
        tensors |= {f"{stem}.lora_A.weight": layer.down, f"{stem}.lora_B.weight": layer.up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return tensors


def onetrainer(found: list[Layer]) -> Tensors:
    """OneTrainer's names of today: the original ones of the U-Net, those of transformers in clip_l and clip_g."""
    tensors: Tensors = {}
    for layer in found:
        stem = f"unet.{layer.original}" if layer.part == "unet" else f"{TOWERS[layer.part]}.{layer.theirs}"
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
    return tensors


def wrapped(found: list[Layer]) -> Tensors:
    """PEFT by itself, with the adapter's name in the middle; the U-Net alone."""
    tensors: Tensors = {}
    for layer in found:
        if layer.part == "unet":
            stem = f"base_model.model.{layer.theirs}"
            tensors |= {f"{stem}.lora_A.default.weight": layer.down, f"{stem}.lora_B.default.weight": layer.up}
    return tensors


DIALECTS = {f.__name__: f for f in (kohya, kohya_original, peft, processors, dotted, comfy, onetrainer)}


def write(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    files.write(path, tensors, metadata)
    return path


def _kohya(found: list[Layer], name: Callable[[Layer], str], prefixes: Mapping[str, str]) -> Tensors:
    tensors: Tensors = {}
    for layer in found:
        path = name(layer) if layer.part == "unet" else layer.theirs
        stem = f"{prefixes[layer.part]}_{path.replace('.', '_')}"
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        if layer.magnitude is not None:
            tensors[f"{stem}.dora_scale"] = layer.magnitude.reshape(-1, *[1] * (layer.down.ndim - 1))
    return tensors
