"""The scores' document as Markdown, and texts whose numbers are filled in from it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffuscope.errors import InputError

TITLES = {
    "vae.psnr": "VAE, PSNR on held-out sprites, half on colours (dB)",
    "vae.psnr_white": "VAE, PSNR on white (dB)",
    "vae.psnr_coloured": "VAE, PSNR on colours (dB)",
    "vae.largest_activation": "VAE, largest decoder activation (standard deviations)",
    "held_out.r1": "held-out (concept, style), R@1",
    "held_out.r5": "held-out (concept, style), R@5",
    "held_out.towers": "held-out (concept, style), own towers, R@1",
    "held_out.classifier": "held-out (concept, style), independent classifier, top-1",
    "held_out.classifier_ratio": "the same, as a part of the real pictures' top-1",
    "seen.r1": "seen (concept, style), R@1",
    "seen.r5": "seen (concept, style), R@5",
    "seen.towers": "seen (concept, style), own towers, R@1",
    "seen.classifier": "seen (concept, style), independent classifier, top-1",
    "colours.thing": "held-out (colour, concept), colour right",
    "colours_of_one_style.thing": "the same, asking whatever a real picture in one style answers",
    "backgrounds.background": "background colour right",
    "both.both": "colour on colour, both right",
    "both.thing": "colour on colour, thing right",
    "both.background": "colour on colour, background right",
    "words.r1": "words known only from tags, R@1",
}
"""Measure -> its row in the table."""

_INLINE = re.compile(r"(<!-- score ([a-z0-9_.]+) \\?\| ([^|]+?) -->).*?(<!-- /score -->)", re.DOTALL)
_TABLE = re.compile(r"(<!-- scores -->\n).*?(<!-- /scores -->)", re.DOTALL)


def read(path: Path) -> dict[str, Any]:
    """The document that ``diffuscope eval`` wrote.

    Raises:
        InputError: it is no such document.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} holds no scores ({error}); write them with `diffuscope eval --out`") from error
    if not isinstance(document, dict) or "scores" not in document:
        raise InputError(f"{path} holds no scores; write them with `diffuscope eval --out`")
    return document


def table(document: Mapping[str, Any]) -> str:
    """Markdown: a row for each measure, a column for each source of pictures; values with their 95% intervals."""
    columns = list(dict.fromkeys(entry["source"] for entry in document["scores"]))
    cells = {(entry["measure"], entry["source"]): entry for entry in document["scores"]}
    rows = dict.fromkeys(entry["measure"] for entry in document["scores"])
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for measure in rows:
        values = [number(cells[measure, column]) if (measure, column) in cells else "" for column in columns]
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


def number(entry: Mapping[str, Any]) -> str:
    """A score as people read it: ".712 (.684 to .739)", "31.2 (30.9 to 31.5)", or one number where nothing varies."""
    digits = 3 if abs(entry["value"]) <= 2 and not entry["measure"].startswith("vae.") else 1
    value, low, high = (f"{entry[key]:.{digits}f}".removeprefix("0") or "0" for key in ("value", "low", "high"))
    return value if entry["low"] == entry["high"] else f"{value} ({low} to {high})"


def fill(text: str, document: Mapping[str, Any]) -> str:
    """``text`` with every place for a number filled in.

    Places are ``<!-- score MEASURE | SOURCE -->...<!-- /score -->`` within a line, where a SOURCE of "preset" means the
    model at its own preset, and ``<!-- scores -->``, ``<!-- /scores -->`` around the whole table. A document without a
    model, that of ``benchmarks/autoencoder.py``, fills the places of its own scores and leaves the others alone.

    Raises:
        InputError: a place names a score that the document of a whole model does not have.
    """
    found = {(entry["measure"], entry["source"]): entry for entry in document["scores"]}
    is_whole = "model" in document
    preset = f"guidance {document['preset']['guidance_scale']:g}" if is_whole else "preset"

    def one(place: re.Match[str]) -> str:
        key = (place[2], preset if place[3] == "preset" else place[3])
        if key not in found and not is_whole:
            return place[0]
        if key not in found:
            raise InputError(f"no score {key[0]!r} of {key[1]!r}; there are {sorted(found)}: mend the text's place")
        return f"{place[1]}{number(found[key])}{place[4]}"

    text = _INLINE.sub(one, text)
    if not is_whole:
        return text
    return _TABLE.sub(lambda place: f"{place[1]}{table(document)}{place[2]}", text)
