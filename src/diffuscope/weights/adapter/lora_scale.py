"""The scale of an adapter, alpha over rank: from the file, its metadata, or PEFT's settings beside it.

Each of PEFT's settings is used here, or shows in the tensors, or matters to training alone; one that changes what the
tensors mean is refused, and an unknown one is reported.
"""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import regex
from torch import Tensor

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.adapter.lora_names import unwrapped
from diffuscope.weights.store import documents
from diffuscope.weights.store.headers import Header

PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"

METADATA = "lora_adapter_metadata"  # key of the metadata in which diffusers stores PEFT's settings
ALPHA_LIMIT = 1e9  # alpha is about as large as the rank

SECONDS, PATTERN_LIMIT = 5.0, 1000  # for all of a file's regular expressions together; characters of one

USED = {"r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"}
USED |= {"coft", "use_cayley_neumann", "num_cayley_neumann_terms"}
IN_TENSORS = {"use_dora", "lora_bias", "bias", "modules_to_save", "peft_type", "block_share", "oft_block_size"}
IN_TENSORS |= {"use_effective_conv2d", "decompose_both", "decompose_factor", "trainable_token_indices"}
IN_TENSORS |= {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
TRAINING = {"task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"}
TRAINING |= {"lora_dropout", "rank_dropout", "module_dropout", "rank_dropout_scale", "init_weights", "eps"}
TRAINING |= {"megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"}
TRAINING |= {"velora_config", "qalora_group_size", "runtime_config", "ensure_weight_tying"}
TRAINING |= {"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step"}
REFUSED = {"fan_in_fan_out", "use_qalora", "layer_replication", "alora_invocation_tokens", "target_parameters"}
REFUSED |= {"use_bdlora", "arrow_config", "kasa_config", "monteclora_config"}
"""Settings of PEFT that change what the tensors mean, or when they apply."""

CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ``init_lora_weights`` that change the base model
PEFT_TYPES = {"LORA": "LoRA", "ADALORA": "LoRA", "LOHA": "LoHa", "LOKR": "LoKr", "OFT": "OFT"}
"""PEFT's name of a kind of adapter -> ours; whole tensors stand beside any."""

NETWORKS = ("unet", "text_encoder", "text_encoder_2")
"""The first word of diffusers' names of tensors, and of its settings in a file for several networks."""

_LITERAL = re.compile(r"[\w.]+")
_LEAF = re.compile(r"\.(?:lora|hada|lokr|oft)_")


class PeftSettings:
    """PEFT's settings of a LoRA: those of one network, or of each with its name before a dot.

    Raises:
        WeightsError: a setting changes what the tensors mean, or its value is not possible.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._seconds = SECONDS
        self._unknown = [name for name, value in values.items() if value and not _is_known(name, value)]
        self._applied: set[str] = set()

    @classmethod
    def of(cls, path: Path, header: Header) -> "PeftSettings":
        """From the file's metadata or the JSON file beside it; empty where there are none."""
        todo = "save the LoRA again"
        if METADATA in header.metadata:
            return cls(documents.parse_json(header.metadata[METADATA], f"metadata {METADATA} of {path}", todo))
        config = path.with_name(PEFT_CONFIG)
        return cls(documents.read_json(config, todo) if path.name == PEFT_FILE and config.is_file() else {})

    @property
    def unused(self) -> list[str]:
        """Settings of which nothing is known here, and "text_encoder.*" for those of a network that no tensor is of."""
        networks = dict.fromkeys(name.split(".")[0] for name, value in self._values.items() if value and "." in name)
        return [*self._unknown, *(f"{network}.*" for network in networks if network not in self._applied)]

    def scale(self, key: str, rank: int | None) -> float:
        """Alpha / r of the layer with this tensor, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023).

        Where shapes show no ``rank``, the settings have it. Without any settings it is 1, as in diffusers.
        """
        own, layer = self._own(key)
        rank = rank or max(1, int(self._number("r", own.get("r", 1), own.get("rank_pattern"), layer)))
        default = own.get("lora_alpha", own.get("alpha", rank))
        alpha = self._number("alpha", default, own.get("alpha_pattern"), layer)
        return alpha / (math.sqrt(rank) if own.get("use_rslora") else rank)

    def adalora_scale(self, key: str, rank: int) -> float:
        """AdaLoRA's, which PEFT divides by the rank and a little more."""
        own, layer = self._own(key)
        alpha = self._number("alpha", own.get("lora_alpha", rank), None, layer)
        return (alpha if alpha > 0 else rank) / (rank + 1e-5)

    def check_kind(self, key: str, kind: str, has_magnitude: bool) -> None:
        """Refuse settings that are not those of a layer with this tensor: of another kind, or DoRA's without its m."""
        own, _ = self._own(key)
        if kind == "full":
            return
        stated = own.get("peft_type")
        name = stated.rpartition(".")[2].upper() if isinstance(stated, str) else ""
        if stated is not None and PEFT_TYPES.get(name) != kind:
            raise WeightsError(f"peft_type is {shown(stated)}, and {shown(key)} is of {kind}; save the adapter again")
        if own.get("use_dora") and kind == "LoRA" and not has_magnitude:
            raise WeightsError(f"use_dora is set, and {shown(key)} has no magnitude beside it; save the LoRA again")

    def terms(self, key: str) -> int | None:
        """The terms of PEFT's OFT, None with the inverse; defaults are PEFT's."""
        own, _ = self._own(key)
        if own.get("coft"):
            raise WeightsError("the OFT is constrained (coft), which is not supported; train without")
        terms = own.get("num_cayley_neumann_terms", 5) if own.get("use_cayley_neumann", True) else None
        if terms is not None and (isinstance(terms, bool) or not isinstance(terms, int) or not 4 <= terms <= 100):
            raise WeightsError(f"num_cayley_neumann_terms is {shown(terms)}, expected 4 to 100")
        return terms

    def _own(self, key: str) -> tuple[dict[str, Any], str]:
        """The settings for the network of a tensor, and the tensor's layer as PEFT names it."""
        part, layer = key.split(".", 1)[0], _LEAF.split(key)[0]
        start = f"{part}."
        own = {name.removeprefix(start): value for name, value in self._values.items() if name.startswith(start)}
        if own:
            self._applied.add(part)
            return own, unwrapped(layer.removeprefix(start))
        own = {name: value for name, value in self._values.items() if "." not in name}
        if self._values and not own and part not in NETWORKS:
            network = next(iter(self._values)).split(".")[0]
            raise WeightsError(
                f"the LoRA's settings are of {shown(network)}, and {shown(key)} names no network; save the LoRA again"
            )
        return own, unwrapped(layer)

    def _number(self, name: str, default: Any, patterns: object, layer: str) -> float:
        value = self._matching(patterns, layer, default) if isinstance(patterns, dict) else default
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < ALPHA_LIMIT:
            raise WeightsError(f"{name} of the LoRA is {shown(value)}, expected a number; save it again")
        return float(value)

    def _matching(self, patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
        """The value of the first pattern that is the layer's name, or the end of it from a dot on, as in PEFT.

        Patterns are regular expressions of a stranger, so all of them together have limited time.
        """
        for pattern, value in patterns.items():
            if _LITERAL.fullmatch(pattern):  # the usual ones; there may be one for each layer
                if _ends_in(layer, pattern):
                    return value
                continue
            start = time.monotonic()
            try:
                if regex.match(rf"(.*\.)?({pattern[:PATTERN_LIMIT]})$", layer, timeout=max(self._seconds, 1e-3)):
                    return value
            except (regex.error, ValueError, TimeoutError, RecursionError) as error:
                raise WeightsError(
                    f"the pattern {shown(pattern)} of the LoRA's settings is refused: {error}"
                ) from error
            self._seconds -= time.monotonic() - start
        return default


def _ends_in(layer: str, pattern: str) -> bool:
    """Whether a pattern of letters, digits and dots is the layer's name, or the end of it; a dot is any character."""
    start = len(layer) - len(pattern)
    if start < 0 or (start > 0 and layer[start - 1] != "."):
        return False
    return all(sign in (own, ".") for sign, own in zip(pattern, layer[start:], strict=True))


def _is_known(full: str, value: object) -> bool:
    """Whether anything is known about a setting; an error for one that changes what the tensors mean."""
    name = full.rpartition(".")[2]
    if name == "init_lora_weights" and str(value).lower().startswith(CHANGES_BASE):
        raise WeightsError(
            f"the LoRA was trained with init_lora_weights={shown(value)}, which changes the base model's weights; "
            "save it as a plain LoRA, with path_initial_model_for_weight_conversion of PEFT's save_pretrained"
        )
    if name in REFUSED:
        raise WeightsError(f"the LoRA was trained with {name}={shown(value)}, which is not supported")
    return name in USED | IN_TENSORS | TRAINING


def alpha_over_rank(key: str, alpha: Tensor, rank: int | None) -> float:
    """The scale of a layer with an alpha of its own; 1 if it has no rank."""
    scale = 1.0 if rank is None else float(alpha) / rank
    if not math.isfinite(scale):
        raise WeightsError(f"the alpha of {shown(key)} is not finite; fetch the file again")
    return scale
