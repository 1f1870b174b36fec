"""The fields of a diffusers folder's configuration files: read, irrelevant for a stated reason, or named in a report.

A field that no table knows may change the picture, so ``unused`` names it, for ``info`` and the notes of a call.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffuscope.config import ModelConfig
from diffuscope.errors import shown
from diffuscope.weights.layout import edm_config, network_config, scheduler_config, tokenizer_config
from diffuscope.weights.layout.network_config import Json
from diffuscope.weights.store import documents


@dataclass(frozen=True)
class Description:
    """What a model's files say of it, besides its weights."""

    config: ModelConfig
    notes: tuple[str, ...] = ()  # a sentence on each file with what is not used, or read otherwise than written
    unused: tuple[str, ...] = ()  # known fields of the scheduler that have no effect beside the others


Kind = Literal[
    "model_index", "text_encoder", "unet", "vae", "scheduler", "tokenizer_config", "special_tokens_map", "tokenizer"
]

TOKENIZER: tuple[Kind, ...] = ("tokenizer_config", "special_tokens_map", "tokenizer")  # any may be missing
END_OF_TEXT = 49407  # id of the token
ORIGIN = "where the file comes from"
OUTPUT = "form of the output in other programs"
TRAINING = "for training"
PRECISION = "precision of the computation, which dtype decides here"

COMMON = {
    "_class_name": "checked where it decides",
    **dict.fromkeys(("_commit_hash", "_diffusers_version", "_name_or_path"), ORIGIN),
    "_use_default_values": "fields that were left out",
}

IRRELEVANT: dict[Kind, dict[str, str]] = {
    "model_index": {
        "add_watermarker": "images get no watermark here",
        "is_cosxl_edit": "refused where it is true",
        "feature_extractor": "of the safety checker",
        "image_encoder": "of IP-Adapters",
        **dict.fromkeys(("requires_safety_checker", "safety_checker"), "no image is judged here"),
    },
    "text_encoder": {
        **dict.fromkeys(("bos_token_id", "pad_token_id"), "the tokenizer has its own"),
        **dict.fromkeys(("dtype", "torch_dtype", "_attn_implementation_autoset"), PRECISION),
        **dict.fromkeys(("dropout", "gradient_checkpointing", "initializer_factor", "initializer_range"), TRAINING),
        **dict.fromkeys(("chunk_size_feed_forward", "id2label", "label2id", "output_attentions"), OUTPUT),
        **dict.fromkeys(("output_hidden_states", "problem_type", "return_dict", "use_cache"), OUTPUT),
        **dict.fromkeys(("is_decoder", "is_encoder_decoder", "tie_word_embeddings"), "of other transformers"),
        "transformers_version": ORIGIN,
    },
    "unet": {
        "addition_embed_type_num_heads": "of other kinds of added conditioning",
        "class_embeddings_concat": "of class embeddings",
        **dict.fromkeys(("decay", "inv_gamma", "min_decay", "optimization_step", "power"), TRAINING),
        **dict.fromkeys(("update_after_step", "use_ema_warmup"), TRAINING),
        "upcast_attention": PRECISION,
    },
    "vae": {"sample_size": "size of training images, or of tiles"},
    "scheduler": {
        **dict.fromkeys(("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"), "without clipping"),
        **dict.fromkeys(("flow_shift", "shift_terminal", "time_shift_type", "use_dynamic_shifting"), "of flow models"),
        "noise_sampler_seed": "a call has its own seed",
        "variance_type": "of networks that predict their variance",
    },
    "tokenizer_config": {
        **dict.fromkeys(("backend", "is_local", "local_files_only", "name_or_path", "special_tokens_map_file"), ORIGIN),
        **dict.fromkeys(("clean_up_tokenization_spaces", "errors", "model_input_names", "processor_class"), OUTPUT),
        **dict.fromkeys(("tokenizer_class", "use_fast"), "the index has the class"),
        "unk_token": "every text has tokens",
    },
    "special_tokens_map": {"unk_token": "every text has tokens"},
    "tokenizer": {
        "decoder": OUTPUT,
        **dict.fromkeys(("padding", "truncation"), "each call of transformers sets them"),
        "version": ORIGIN,
    },
}
"""File -> field that says nothing about the picture -> the reason."""

READ: dict[Kind, frozenset[str]] = {
    "model_index": frozenset(("_diffuscope", "force_zeros_for_empty_prompt", "requires_aesthetics_score")).union(
        ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
    ),
    "text_encoder": frozenset(["architectures", "projection_dim"]).union(
        network_config.TEXT_ENCODER, network_config.TEXT_ENCODER_SUPPORTED
    ),
    "unet": frozenset(("down_block_types", "mid_block_type", "up_block_types", "sample_size")).union(
        ("attention_head_dim", "num_attention_heads"),
        ("transformer_layers_per_block", "reverse_transformer_layers_per_block"),
        (*network_config.UNET, *network_config.UNET_SUPPORTED),
    ),
    "vae": frozenset(["down_block_types", "out_channels", "up_block_types"]).union(
        network_config.VAE, network_config.VAE_SUPPORTED
    ),
    "scheduler": scheduler_config.FIELDS | edm_config.FIELDS,
    **{kind: tokenizer_config.READ[kind] for kind in TOKENIZER},
}
"""File -> the fields that decide something here, or are refused where they would."""

ADVICE = "save the whole folder again"
MOST = 8  # fields that a note names


def unused(kind: Kind, file: str, document: Json) -> list[str]:
    """One note on the fields of a file that nothing here reads, if it has any."""
    names = document.keys() - READ[kind] - IRRELEVANT[kind].keys() - COMMON.keys()
    return note(file, "fields", sorted({*names, *tokenizer_config.ignored(document)}))


def tokenizer_notes(folder: Path, subfolder: str, positions: int) -> list[str]:
    """Notes on the settings in a tokenizer's subfolder, for a text encoder of so many positions; others are refused."""
    notes = []
    for kind in TOKENIZER:
        file = f"{subfolder}/{kind}.json"
        if (folder / file).is_file():
            document = documents.read_json(folder / file, ADVICE)
            tokenizer_config.check_values(kind, file, document, positions)
            notes += unused(kind, file, document)
    return notes


def stated_pad(folder: Path, subfolder: str) -> int | None:
    """The id that fills up short texts, if a tokenizer's subfolder says which."""
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / subfolder / name
        token = documents.read_json(path, ADVICE).get("pad_token") if path.is_file() else None
        content = token.get("content") if isinstance(token, dict) else token
        if content is not None:
            return 0 if content == "!" else END_OF_TEXT
    return None


def note(file: str, what: str, names: Iterable[str]) -> list[str]:
    """One note on the ``names`` in a file that are not used, or none."""
    names = [*names]
    listed = ", ".join(map(shown, names[:MOST])) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
    return [f"{file} has {what} that are not used: {listed}"] if names else []
