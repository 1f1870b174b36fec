"""What a weight file is, from its header: its kind, its family, what its network predicts, and the evidence.

A family is the presets whose networks have exactly the file's shapes.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod

from diffuscope.config import EMOJI, FAMILIES, PRESETS, ModelConfig, Prediction, VAEConfig
from diffuscope.errors import InputError, WeightsError
from diffuscope.model_source import check_family
from diffuscope.weights.adapter.deltas import ROLES
from diffuscope.weights.adapter.lora_names import parse, text_dims
from diffuscope.weights.identify.signatures import UNETS, Shapes, Signature, differences, fitting, signature
from diffuscope.weights.store.headers import Header
from diffuscope.weights.store.old_names import current_names

PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text encoder": "cond_stage_model.",
    "text encoders": "conditioner.embedders.",
    "moving average": "model_ema.",
}
"""Part of a single file -> the prefix of its names."""

FOREIGN = {
    r"(model\.diffusion_model\.)?joint_blocks\.0\..*": "a Stable Diffusion 3 transformer",
    r"(model\.diffusion_model\.)?double_blocks\.0\..*": "a Flux transformer",
    r"(control_model\.|controlnet_cond_embedding\.|input_hint_block\.).*": "a ControlNet",
    r"(.*\.)?motion_modules\.0\..*": "an AnimateDiff motion module",
    r"image_proj\..*|ip_adapter\..*": "an IP-Adapter",
    r"(vision_model|visual)\..*": "a CLIP image encoder",
    r"body\.0\.weight|model\.0\.weight|conv_first\.weight": "an upscaler",
}
"""Name in a file that is not supported -> what the file is."""

INPUTS = {5: "depth2img does", 7: "an upscaler does", 8: "InstructPix2Pix does", 9: "for inpainting"}
"""Input channels of a U-Net -> the models that have them."""

TEXT_ENCODERS = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "OpenCLIP-bigG"}  # by their widths

VAES = {
    "ldm": ("decoder.mid.block_1.conv1.weight", r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight"),
    "diffusers": (
        "decoder.mid_block.resnets.0.conv1.weight",
        r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv1\.weight",
    ),
    "own": ("decoder.mid.resnet.0.conv1.weight", r"encoder\.down\.(\d+)\.resnet\.(\d+)\.conv1\.weight"),
}
"""Layout -> a name that only its files have, and the pattern of those that show the encoder's levels and blocks."""

EQUAL_VAES = "the VAEs of SD 1, 2 and XL have equal shapes, and differ in the scale of their latents"

TEXTS = {
    "ldm (OpenCLIP)": ("token_embedding.weight", "ln_final.weight"),
    "diffusers": ("text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"),
    "diffusers, without prefix": ("embeddings.token_embedding.weight", "final_layer_norm.weight"),
    "own": ("token_embedding.weight", "final_norm.weight"),
}
"""Layout -> names that only its files have."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a weight file is."""

    kind: str
    """"model", "unet", "vae", "text encoder", "lora", "embedding", or a description of what is not supported."""
    layout: str | None = None
    families: tuple[str, ...] = ()
    """Names of presets with the file's shapes, the likeliest first."""
    prediction: Prediction | None = None
    """What the network predicts, if the file states it or its family has no choice."""
    parts: Mapping[str, int] = field(default_factory=dict)  # part of a single file -> its number of parameters
    evidence: tuple[str, ...] = ()  # one clause each


def identify(header: Header) -> Identity:
    """What a file is, by names and shapes; every header has an answer."""
    tensors = current_names(header.tensors)
    return (
        _foreign(tensors)
        or _lora(tensors)
        or _checkpoint(tensors, header.metadata)
        or _network(tensors)
        or _embedding(tensors)
        or Identity(kind="nothing known", evidence=("no tensor has a name of a known layout",))
    )


def choose(header: Header, family: str | None, source: str) -> ModelConfig:
    """The config of the model in a single file; ``family`` decides where the file cannot, ``source`` is for errors."""
    if family is not None:
        check_family(family)
    identity = identify(header)
    names = " or ".join(identity.families)
    if "edm_mean" in header.tensors:  # its latents and noise levels are others, and the file does not state them all
        raise WeightsError(f"{source} is Playground v2.5, whose noise levels are in its folder alone; open the folder")
    if identity.kind != "model":
        raise WeightsError(f"{source} is {article(identity.kind)}, not a whole model ({reasons(identity)})")
    if not identity.families:
        raise WeightsError(f"{source} is of no known family: {reasons(identity)}")
    if family is not None and family not in identity.families:
        raise WeightsError(f"{source} is {names}, not {family}: {reasons(identity)}; leave family out")
    config = PRESETS[family or identity.families[0]]
    if family is None:
        prediction = identity.prediction
        if prediction is None and len(_predictions(identity.families)) > 1:
            hint = "They have equal shapes but predict different things, and the file does not state which"
            raise InputError("family", family, f"{names} for {source}", hint)
        config = replace(config, schedule=replace(config.schedule, prediction=prediction or config.schedule.prediction))
    if "ztsnr" in header.tensors:
        config = replace(config, schedule=replace(config.schedule, zero_snr=True))
    return config


def article(kind: str) -> str:
    """``kind`` with its article."""
    if kind.startswith(("a ", "an ", "nothing")):
        return kind
    return {"unet": "a U-Net", "vae": "a VAE", "lora": "a LoRA", "embedding": "an embedding"}.get(kind, f"a {kind}")


def reasons(identity: Identity) -> str:
    """The evidence as one line."""
    return "; ".join(identity.evidence) or "its names show no more"


def _foreign(tensors: Shapes) -> Identity | None:
    for pattern, kind in FOREIGN.items():
        compiled = re.compile(pattern)
        name = next((name for name in tensors if compiled.fullmatch(name)), None)
        if name is not None:
            return Identity(kind=kind, evidence=(f"it has {name[:100]}",))
    return None


def _checkpoint(tensors: Shapes, metadata: Mapping[str, str]) -> Identity | None:
    """A single file, whole or of the U-Net alone."""
    parts = Counter[str]()
    for name, info in tensors.items():
        parts[next((part for part, prefix in PREFIXES.items() if name.startswith(prefix)), "other")] += prod(info.shape)
    if "unet" not in parts:
        return None
    families, evidence = judged(signature(tensors, PREFIXES["unet"], UNETS["ldm"]))
    missing = [] if "vae" in parts else ["vae"]
    missing += [] if {"text encoder", "text encoders"} & parts.keys() else ["text encoder"]
    prediction, stated = _prediction(tensors, metadata)
    if prediction is not None:
        families = tuple(name for name in families if _predictions([name]) == {prediction}) or families
    elif len(predictions := _predictions(families)) > 1:
        stated = ("epsilon and v prediction have the same shapes, and it does not state which",)
    else:
        prediction = next(iter(predictions), None)
    return Identity(
        kind="unet" if missing else "model",
        layout="ldm",
        families=families,
        prediction=prediction,
        parts=dict(parts),
        evidence=(*evidence, *(f"it has no {part}" for part in missing), *stated),
    )


def judged(unet: Signature | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The presets with a U-Net of that signature, and the evidence."""
    if unet is None:
        return (), ("its U-Net lacks tensors that every Stable Diffusion has",)
    evidence = [f"its U-Net takes {unet.context}-dim text embeddings"]
    if unet.in_channels in INPUTS:
        evidence += [f"its U-Net takes {unet.in_channels} channels, as {INPUTS[unet.in_channels]}"]
    evidence += [f"its U-Net takes {unet.extra}-dim added conditioning"] if unet.extra is not None else []
    evidence += ["its U-Net takes the guidance scale, as a distilled one does"] if unet.guidance is not None else []
    families = fitting(unet)
    if families:
        return families, tuple(evidence)
    closest = min(FAMILIES.values(), key=lambda preset: len(differences(unet, preset)))
    difference = ", ".join(differences(unet, closest))
    return (), (*evidence, f"the nearest family is {closest.name}, from which it differs in {difference}")


def _predictions(families: Iterable[str]) -> set[Prediction]:
    return {PRESETS[name].schedule.prediction for name in families}


def _prediction(tensors: Shapes, metadata: Mapping[str, str]) -> tuple[Prediction | None, tuple[str, ...]]:
    """What the file states that it predicts, and where."""
    stated = metadata.get("modelspec.prediction_type", "").lower()
    if "v_pred" in tensors:
        return "v", ("it has the key v_pred, which marks v prediction",)
    if stated in ("v", "v_prediction", "vpred"):
        return "v", ("its metadata states v prediction",)
    return ("epsilon", ("its metadata states epsilon prediction",)) if stated in ("epsilon", "eps") else (None, ())


def _network(tensors: Shapes) -> Identity | None:
    """One network, in any layout."""
    for layout, names in UNETS.items():
        unet = signature(tensors, "", names)
        if unet is not None:
            families, evidence = judged(unet)
            return Identity(kind="unet", layout=layout, families=families, evidence=evidence)
    for layout, (name, pattern) in VAES.items():
        if name in tensors and "decoder.conv_in.weight" in tensors:
            families, evidence = _judged_vae(tensors, re.compile(pattern))
            return Identity(kind="vae", layout=layout, families=families, evidence=evidence)
    for layout, (embedding, norm) in TEXTS.items():
        if embedding in tensors and norm in tensors and len(tensors[embedding].shape) == 2:
            width = tensors[embedding].shape[1]
            families = tuple(name for name, widths in _text_widths().items() if width in widths)
            known = f", like {TEXT_ENCODERS[width]}" if width in TEXT_ENCODERS else ""
            evidence = (f"its token embeddings have {width} dims{known}",)
            return Identity(kind="text encoder", layout=layout, families=families, evidence=evidence)
    return None


def _judged_vae(tensors: Shapes, convolution: re.Pattern[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The presets with a VAE of these widths, blocks and latents, and the evidence."""
    found = {match.groups(): info.shape for name, info in tensors.items() if (match := convolution.fullmatch(name))}
    widths = tuple(shape[0] for (_, j), shape in sorted(found.items()) if j == "0" and shape)
    blocks, latents = sum(i == "0" for i, _ in found), tensors["decoder.conv_in.weight"].shape[1:2]

    def differences(vae: VAEConfig) -> list[str]:
        pairs = {"channels": (widths, vae.channels), "blocks": ((blocks,), (vae.blocks,))}
        pairs["latent channels"] = latents, (vae.latent_channels,)
        listed = {what: [", ".join(map(str, each)) or "none" for each in pair] for what, pair in pairs.items()}
        return [f"{what} {theirs} instead of {ours}" for what, (theirs, ours) in listed.items() if theirs != ours]

    differing = {name: differences(preset.vae) for name, preset in PRESETS.items()}
    families = tuple(name for name, clauses in differing.items() if not clauses)
    if families:
        shared = (EQUAL_VAES,) if families[0] in FAMILIES else ()
        return families, (f"its widest layer has {widths[-1]} channels", *shared)
    known = {name: abs(PRESETS[name].vae.channels[-1] - sum(widths[-1:])) for name in (*FAMILIES, EMOJI.name)}
    nearest = min(known, key=lambda name: (len(differing[name]), known[name]))
    return (), (f"the nearest family is {nearest}, from which it differs in {', '.join(differing[nearest])}",)


def _text_widths() -> dict[str, list[int]]:
    """Family -> the widths of its text encoders."""
    return {name: [encoder.width for encoder in preset.text_encoders] for name, preset in FAMILIES.items()}


def _lora(tensors: Shapes) -> Identity | None:
    keys = [key for name in tensors if (key := parse(name)) is not None and key.role in ROLES]
    if not keys:
        return None
    dims = text_dims(tensors)
    families = tuple(preset.name for preset in FAMILIES.values() if preset.unet.context_dim in dims)
    evidence = tuple(f"its cross-attention takes {dim}-dim text embeddings" for dim in dims)
    if any(key.part == "text_encoder_2" for key in keys):
        families = tuple(name for name in families or FAMILIES if FAMILIES[name].text_encoder_2 is not None)
        evidence += ("it changes a second text encoder",)
    if not evidence:
        evidence = ("it has no cross-attention layers, so its base model cannot be inferred",)
    layout, _ = Counter(key.layout for key in keys).most_common(1)[0]
    return Identity(kind="lora", layout=layout, families=families, evidence=evidence)


def _embedding(tensors: Shapes) -> Identity | None:
    """A textual inversion: one or two tables of vectors and nothing else."""
    if not 1 <= len(tensors) <= 2 or any(not 1 <= len(info.shape) <= 2 for info in tensors.values()):
        return None
    dims = {name: info.shape[-1] for name, info in tensors.items()}
    families = tuple(name for name, widths in _text_widths().items() if sorted(widths) == sorted(dims.values()))
    evidence = tuple(f"{name[:100]} has {dim}-dim vectors" for name, dim in dims.items())
    return Identity(kind="embedding", families=families, evidence=evidence)
