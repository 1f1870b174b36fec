"""What a weight file is, from its header alone, and why: its kind, its family, what its network predicts.

Nothing of a tensor is read. A family is a set of presets whose networks have exactly the shapes that stand in the file.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from diffuscope.config import FAMILIES, PRESETS, ModelConfig, Prediction
from diffuscope.errors import InputError, WeightsError, nearest
from diffuscope.weights.adapter.deltas import ROLES
from diffuscope.weights.adapter.lora_names import parse, text_dims
from diffuscope.weights.identify.signatures import UNETS, Shapes, Signature, differences, fitting, signature
from diffuscope.weights.store.files import Header

PARTS = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text encoder": "cond_stage_model.",
    "text encoders": "conditioner.embedders.",
    "moving average": "model_ema.",
}
"""Part of a single file -> what its names begin with."""

FOREIGN = {
    r"(model\.diffusion_model\.)?joint_blocks\.0\..*": "a Stable Diffusion 3 transformer",
    r"(model\.diffusion_model\.)?double_blocks\.0\..*": "a Flux transformer",
    r"(control_model\.|controlnet_cond_embedding\.|input_hint_block\.).*": "a ControlNet",
    r"(.*\.)?motion_modules\.0\..*": "an AnimateDiff motion module",
    r"image_proj\..*|ip_adapter\..*": "an IP-Adapter",
    r"(vision_model|visual)\..*": "a CLIP picture tower",
    r"body\.0\.weight|model\.0\.weight|conv_first\.weight": "an upscaler",
}
"""Kinds of files that people have and that no part of a model here can be made of: a name in them -> what they are."""

WIDTHS = {768: "CLIP-L", 1024: "OpenCLIP-H", 1280: "OpenCLIP-bigG"}
"""Width of a text tower -> which one it is, in released models."""


VAES = {
    "original": ("decoder.mid.block_1.conv1.weight", "decoder.conv_in.weight"),
    "diffusers": ("decoder.mid_block.resnets.0.conv1.weight", "decoder.conv_in.weight"),
    "own": ("decoder.mid.res.0.conv_in.weight", "decoder.stem.weight"),
}
EQUAL_VAES = "the VAEs of SD 1, 2 and XL have equal shapes, and differ in the scale of their latents"

TEXTS = {
    "original (OpenCLIP)": ("token_embedding.weight", "ln_final.weight"),
    "diffusers": ("text_model.embeddings.token_embedding.weight", "text_model.final_layer_norm.weight"),
    "diffusers, without prefix": ("embeddings.token_embedding.weight", "final_layer_norm.weight"),
    "own": ("token.weight", "norm.weight"),
}
"""Layout -> names that only such a file has."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a weight file is."""

    kind: str
    """"model", "unet", "vae", "text encoder", "lora", "embedding", or in words what it is that is not read here."""
    layout: str | None = None
    families: tuple[str, ...] = ()
    """Names of presets whose shapes the file has, the likeliest first."""
    prediction: Prediction | None = None
    """What the network predicts, where the file says so or its family leaves no choice."""
    dtypes: Mapping[str, int]
    """Numbers of each dtype of the format."""
    parts: Mapping[str, int]
    """Numbers in each part."""
    evidence: tuple[str, ...] = ()
    """Why: one clause each."""


def identify(header: Header) -> Identity:
    """What a file is, by names and shapes alone; any header at all has an answer."""
    tensors = header.tensors
    dtypes = Counter[str]()
    for info in tensors.values():
        dtypes[info.dtype] += prod(info.shape)
    found = (
        _foreign(tensors)
        or _lora(tensors)
        or _checkpoint(tensors, header.metadata)
        or _network(tensors)
        or _embedding(tensors)
        or Identity(kind="nothing known", dtypes={}, parts={}, evidence=("no name in it is one of a known layout",))
    )
    parts = found.parts or {found.kind: sum(dtypes.values())}
    return replace(found, dtypes=dict(dtypes.most_common()), parts=parts)


def choose(header: Header, family: str | None, source: str) -> ModelConfig:
    """The config of the model in a single file.

    Args:
        header: of the file.
        family: a preset's name, where the file cannot tell; None takes what it says.
        source: the file, for errors.

    Raises:
        InputError: there is no such family, or the file fits several that predict different things.
        WeightsError: the file holds no whole model, or one of another family.
    """
    if family is not None and family not in PRESETS:
        raise InputError("family", family, f"one of {', '.join(FAMILIES)}", nearest(family, FAMILIES))
    identity = identify(header)
    if identity.kind != "model":
        raise WeightsError(f"{source} is {article(identity.kind)}, not a whole model ({reasons(identity)})")
    if not identity.families:
        raise WeightsError(f"{source} is of no family that is known here: {reasons(identity)}")
    if family is not None and family not in identity.families:
        raise WeightsError(
            f"{source} is {' or '.join(identity.families)}, not {family}: {reasons(identity)}; leave family out"
        )
    config = PRESETS[family or identity.families[0]]
    likely = {PRESETS[name].schedule.prediction for name in identity.families}
    if family is None and identity.prediction is None and len(likely) > 1:
        raise InputError(
            "family",
            family,
            f"one of {', '.join(identity.families)} for {source}",
            "Their networks have equal shapes but predict different things, and the file does not say which",
        )
    if family is None and identity.prediction is not None and identity.prediction != config.schedule.prediction:
        config = replace(config, schedule=replace(config.schedule, prediction=identity.prediction))
    if "ztsnr" in header.tensors:
        config = replace(config, schedule=replace(config.schedule, zero_snr=True))
    return config


def article(kind: str) -> str:
    """``kind`` as it stands in a sentence."""
    if kind.startswith(("a ", "an ", "nothing")):
        return kind
    return {"unet": "a U-Net", "vae": "a VAE", "lora": "a LoRA", "embedding": "an embedding"}.get(kind, f"a {kind}")


def reasons(identity: Identity) -> str:
    """The evidence as one line."""
    return "; ".join(identity.evidence) or "no name in it says more"


def _foreign(tensors: Shapes) -> Identity | None:
    for pattern, kind in FOREIGN.items():
        compiled = re.compile(pattern)
        name = next((name for name in tensors if compiled.fullmatch(name)), None)
        if name is not None:
            return Identity(kind=kind, dtypes={}, parts={}, evidence=(f"it has {name}",))
    return None


def _checkpoint(tensors: Shapes, metadata: Mapping[str, str]) -> Identity | None:
    counts = Counter[str]()
    for name, info in tensors.items():
        part = next((part for part, prefix in PARTS.items() if name.startswith(prefix)), "other")
        counts[part] += prod(info.shape)
    if "unet" not in counts:
        return None
    found = signature(tensors, PARTS["unet"], UNETS["original"])
    families, evidence = judged(found)
    missing = [part for part in ("vae", "text encoder") if part not in counts]
    if "text encoders" in counts and "text encoder" in missing:
        missing.remove("text encoder")
    kind = "model" if not missing else "unet"
    evidence += tuple(f"it has no {part}" for part in missing)
    families, prediction, said = _prediction(families, tensors, metadata)
    return Identity(
        kind=kind,
        layout="original",
        families=families,
        prediction=prediction,
        dtypes={},
        parts=dict(counts),
        evidence=evidence + said,
    )


def judged(found: Signature | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The presets with a U-Net of that signature, and why: one clause each."""
    if found is None:
        return (), ("its U-Net lacks the tensors that every Stable Diffusion has",)
    evidence = [f"its U-Net reads text of width {found.context}"]
    evidence += [f"its U-Net takes {found.in_channels} channels, as inpainting does"] if found.in_channels == 9 else []
    evidence += [f"its U-Net reads extra conditioning of width {found.extra}"] if found.extra is not None else []
    evidence += ["its U-Net reads the guidance scale, as distilled ones do"] if found.guidance is not None else []
    families = fitting(found)
    if families:
        return families, tuple(evidence)
    nearest = min(FAMILIES.values(), key=lambda preset: len(differences(found, preset)))
    difference = ", ".join(differences(found, nearest))
    return (), (*evidence, f"the nearest family is {nearest.name}, from which it differs in {difference}")


def _prediction(
    families: tuple[str, ...], tensors: Shapes, metadata: Mapping[str, str]
) -> tuple[tuple[str, ...], Prediction | None, tuple[str, ...]]:
    """The families that agree with what the file says it predicts; what that is; and where it says so."""
    said = metadata.get("modelspec.prediction_type", "").lower()
    prediction: Prediction | None = None
    evidence: tuple[str, ...] = ()
    if "v_pred" in tensors:
        prediction, evidence = "v", ("it has the key v_pred, by which v prediction is marked",)
    elif said in ("v", "v_prediction", "vpred", "epsilon", "eps"):
        prediction = "v" if said.startswith("v") else "epsilon"
        evidence = (f"its metadata says that it predicts {prediction}",)
    kinds = {PRESETS[name].schedule.prediction for name in families}
    if prediction is None:
        only = next(iter(kinds)) if len(kinds) == 1 else None
        more = ("epsilon and v prediction have the same shapes, and it does not say which",) if len(kinds) > 1 else ()
        return families, only, more
    agreeing = tuple(name for name in families if PRESETS[name].schedule.prediction == prediction)
    return agreeing or families, prediction, evidence


def _network(tensors: Shapes) -> Identity | None:
    """One network by itself, in any layout."""
    for layout, names in UNETS.items():
        found = signature(tensors, "", names)
        if found is not None:
            families, evidence = judged(found)
            return Identity(kind="unet", layout=layout, families=families, dtypes={}, parts={}, evidence=evidence)
    for layout, wanted in VAES.items():
        if all(name in tensors for name in wanted):
            width = next(iter(tensors[wanted[0]].shape), 0)
            families = tuple(name for name, preset in PRESETS.items() if preset.vae.channels[-1] == width)
            evidence = (f"its widest layer has {width} channels",)
            evidence += (EQUAL_VAES,) if families and families[0] in FAMILIES else ()
            return Identity(kind="vae", layout=layout, families=families, dtypes={}, parts={}, evidence=evidence)
    for layout, wanted in TEXTS.items():
        if all(name in tensors for name in wanted) and len(tensors[wanted[0]].shape) == 2:
            width = tensors[wanted[0]].shape[1]
            why = (f"its width is {width}" + (f", that of {WIDTHS[width]}" if width in WIDTHS else ""),)
            families = _by_width(width, FAMILIES.values())
            return Identity(kind="text encoder", layout=layout, families=families, dtypes={}, parts={}, evidence=why)
    return None


def _by_width(width: int, presets: Iterable[ModelConfig]) -> tuple[str, ...]:
    return tuple(preset.name for preset in presets if any(each.width == width for each in preset.text_encoders))


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
    dialect, _ = Counter(key.dialect for key in keys).most_common(1)[0]
    return Identity(kind="lora", layout=dialect, families=families, dtypes={}, parts={}, evidence=evidence)


def _embedding(tensors: Shapes) -> Identity | None:
    """A textual inversion: one or two tables of vectors and nothing else."""
    if not 1 <= len(tensors) <= 2 or any(not 1 <= len(info.shape) <= 2 for info in tensors.values()):
        return None
    widths = [info.shape[-1] for info in tensors.values()]
    encoders = {preset.name: [each.width for each in preset.text_encoders] for preset in FAMILIES.values()}
    families = tuple(name for name, own in encoders.items() if sorted(own) == sorted(widths))
    evidence = tuple(f"{name} has vectors of width {info.shape[-1]}" for name, info in tensors.items())
    return Identity(kind="embedding", families=families, dtypes={}, parts={}, evidence=evidence)
