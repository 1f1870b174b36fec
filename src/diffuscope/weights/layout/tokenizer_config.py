"""What the files of a tokenizer may say beside its words: CLIP's own settings, or those that change nothing here."""

from collections.abc import Mapping
from typing import Any

from diffuscope.errors import WeightsError, shown
from diffuscope.weights.layout.network_config import Json, check, refuse

START, END, FIRST = "<|startoftext|>", "<|endoftext|>", "!"
SPECIAL = {"bos_token": (START,), "eos_token": (END,), "pad_token": (END, FIRST)}  # special token -> what it may be
LONG_CLIP = 248  # positions of LongCLIP (Zhang et al. 2024), CLIP's being 77
FURTHER = ("additional_special_tokens", "extra_special_tokens")
"""Fields with special tokens that must be among the added ones; ``tokenizer_files`` compares."""

SUPPORTED = {"padding_side": "right", "truncation_side": "right"}
IGNORED = {"do_lower_case": True, "add_prefix_space": False}
"""Settings that transformers does not heed in CLIP's tokenizers -> how they work; other values are named."""

BPE = {
    "type": "BPE",
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": "</w>",
    "byte_fallback": False,
    "ignore_merges": False,
}
NORMALIZER = {
    "type": "Sequence",
    "normalizers": [
        {"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Lowercase"},
    ],
}
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
PATTERNS = (WORDS, rf"<\|startoftext\|>|<\|endoftext\|>|{WORDS}")
PRE_TOKENIZERS = [
    {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        ],
    }
    for pattern in PATTERNS
]
POST_PROCESSOR = {"type": "RobertaProcessing", "sep": [END, 49407], "cls": [START, 49406], "add_prefix_space": False}

READ = {
    "tokenizer_config": frozenset(
        [*SPECIAL, *FURTHER, *SUPPORTED, *IGNORED, "added_tokens_decoder", "model_max_length"]
    ),
    "special_tokens_map": frozenset([*SPECIAL, *FURTHER]),
    "tokenizer": frozenset(["added_tokens", "model", "normalizer", "pre_tokenizer", "post_processor"]),
}


def ignored(document: Json) -> list[str]:
    """Settings whose values differ from how CLIP's tokenizers work whatever they say."""
    return [name for name, value in IGNORED.items() if document.get(name, value) is not value]


def check_values(kind: str, file: str, document: Json, positions: int) -> None:
    """Refuse what would give other ids than CLIP's tokenizer, for a text encoder of so many positions."""
    if kind == "tokenizer":
        _check_whole(file, document)
        return
    tokens = {name: document[name] for name in SPECIAL if document.get(name) is not None}
    contents = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    check(file, contents, SPECIAL)
    if kind == "tokenizer_config":
        check(file, document, SUPPORTED)
        if (longest := document.get("model_max_length")) not in (None, positions):
            kind = " (LongCLIP has 248)" if positions == LONG_CLIP else ""
            raise WeightsError(
                f"{file} has model_max_length = {shown(longest)}, and its text encoder {positions} positions{kind}; "
                "write that number there if it was trained on texts of this length"
            )


def _check_whole(file: str, document: Json) -> None:
    model = document.get("model")
    if not isinstance(model, dict):
        return  # for the reader of the vocabulary to refuse
    check(f"{file}: model", model, BPE)
    wanted: dict[str, list[Any]] = {
        "normalizer": [NORMALIZER],
        "pre_tokenizer": PRE_TOKENIZERS,
        "post_processor": [POST_PROCESSOR],
    }
    for key, allowed in wanted.items():
        if not any(_like(document.get(key), each) for each in allowed):
            refuse(file, key, document.get(key), "CLIP's")


def _like(got: object, wanted: object) -> bool:
    """Equal, but that offsets are nobody's matter, and byte levels that say nothing use their pattern."""
    if isinstance(wanted, Mapping):
        if not isinstance(got, Mapping):
            return False
        own = ({"use_regex": True} if wanted.get("type") == "ByteLevel" else {}) | dict(got)
        own.pop("trim_offsets", None)
        return own.keys() == wanted.keys() and all(_like(own[key], value) for key, value in wanted.items())
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(_like, got, wanted))
    return got == wanted
