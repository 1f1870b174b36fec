"""The document of scores as a Markdown table, and as numbers in other texts."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffuscope.data.captions import COUNTS
from diffuscope.errors import InputError, Unquoted

TITLES = {
    "vae.psnr": "VAE, PSNR on held-out sprites, half on colours (dB)",
    "vae.psnr_white": "VAE, PSNR on white (dB)",
    "vae.psnr_coloured": "VAE, PSNR on colours (dB)",
    "vae.largest_activation": "VAE, largest decoder activation (standard deviations)",
    "held_out.r1": "held-out (concept, style), R@1",
    "held_out.r5": "held-out (concept, style), R@5",
    "held_out.clip": "held-out (concept, style), own CLIP, R@1",
    "held_out.classifier": "held-out (concept, style), independent classifier, top-1",
    "held_out.classifier_ratio": "the same, divided by that of real images",
    "seen.r1": "seen (concept, style), R@1",
    "seen.r5": "seen (concept, style), R@5",
    "seen.clip": "seen (concept, style), own CLIP, R@1",
    "seen.classifier": "seen (concept, style), independent classifier, top-1",
    "colours.thing": "held-out (colour, concept), colour right",
    "colours_of_one_style.thing": "the same, with prompts checked in one style only",
    "backgrounds.background": "background colour right",
    "both.both": "colour on colour, both right",
    "both.thing": "colour on colour, thing right",
    "both.background": "colour on colour, background right",
    "tag_words.r1": "words that occur only as tags, R@1",
    "held_out_everyday.r1": "held-out (concept, style) of all everyday concepts, R@1",
    "held_out_everyday.r5": "held-out (concept, style) of all everyday concepts, R@5",
    "icons.r1": "a concept in a style that has it under another name, R@1",
    "counts.right": "two to nine things, number right",
    **{f"counts.right_{number}": f"{word} things, number right" for number, word in COUNTS.items()},
    "several.thing": "four attributes, colour of the thing right",
    "several.background": "four attributes, background right",
    "several.place": "four attributes, place right",
    "several.all": "four attributes, all of these right",
}
"""Measure -> its row in the table."""

_INLINE = re.compile(r"(<!-- score ([a-z0-9_.]+) \\?\| ([^|]+?) -->).*?(<!-- /score -->)", re.DOTALL)
_TABLE = re.compile(r"(<!-- scores -->\n).*?(<!-- /scores -->)", re.DOTALL)


def read(path: Path) -> dict[str, Any]:
    """The document of ``diffuscope eval``."""
    want, hint = "a document of scores", "Write one with `diffuscope eval --out`"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("path", Unquoted(f"{path} ({error})"), want, hint) from error
    if not isinstance(document, dict) or "scores" not in document:
        raise InputError("path", Unquoted(f"{path}"), want, hint)
    return document


def table(document: Mapping[str, Any]) -> str:
    """Markdown with a row for each measure and a column for each source of images; values with 95% intervals."""
    columns = list(dict.fromkeys(entry["source"] for entry in document["scores"]))
    cells = {(entry["measure"], entry["source"]): entry for entry in document["scores"]}
    rows = dict.fromkeys(entry["measure"] for entry in document["scores"])
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for measure in rows:
        values = [score_text(cells[measure, column]) if (measure, column) in cells else "" for column in columns]
        lines.append(f"| {TITLES.get(measure, measure)} | {' | '.join(values)} |")
    about = document["model"]
    weights = ", ".join(f"{name} {digest[:12]}" for name, digest in about["weights"].items())
    preset = document["preset"]
    lines += [
        "",
        f"Model `{about['name']}` ({weights}; {about['dtype']}), {preset['sampler']} with "
        f"{preset['num_inference_steps']} steps; split `{document['split']}`, corpus `{document['corpus'][:12]}`; "
        f"{document['machine']}.",
    ]
    return "\n".join(lines) + "\n"


def score_text(entry: Mapping[str, Any]) -> str:
    """A score as text: ".712 (.684 to .739)", "31.2 (30.9 to 31.5)", or one number without an interval."""
    digits = 3 if abs(entry["value"]) <= 2 and not entry["measure"].startswith("vae.") else 1
    value, low, high = (f"{entry[key]:.{digits}f}".removeprefix("0") or "0" for key in ("value", "low", "high"))
    return value if entry["low"] == entry["high"] else f"{value} ({low} to {high})"


def fill(text: str, document: Mapping[str, Any]) -> str:
    """``text`` with the scores of ``document`` at their marks.

    ``<!-- score MEASURE | SOURCE -->...<!-- /score -->`` marks a score; the SOURCE "preset" is that of the preset.
    ``<!-- scores -->...<!-- /scores -->`` marks the table. A document without a model, as that of
    ``benchmarks/autoencoder.py``, fills only the marks of its own scores.
    """
    scores = {(entry["measure"], entry["source"]): entry for entry in document["scores"]}
    is_whole = "model" in document
    preset = f"guidance {document['preset']['guidance_scale']:g}" if is_whole else "preset"

    def filled(mark: re.Match[str]) -> str:
        key = (mark[2], preset if mark[3] == "preset" else mark[3])
        if key not in scores and not is_whole:
            return mark[0]
        if key not in scores:
            raise InputError("text", Unquoted(f"a mark of {key[0]!r} from {key[1]!r}"), f"one of {sorted(scores)}")
        return f"{mark[1]}{score_text(scores[key])}{mark[4]}"

    text = _INLINE.sub(filled, text)
    if not is_whole:
        return text
    return _TABLE.sub(lambda mark: f"{mark[1]}{table(document)}{mark[2]}", text)
