"""One prompt explained on one page of HTML: tokens, schedule, trajectory, attention, guidance."""

import base64
import io
from collections.abc import Callable
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffuscope.diffusion.prediction import x0_from
from diffuscope.errors import InputError
from diffuscope.lens import figures
from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.lens.capture import Capture
from diffuscope.lens.functions import other_inputs
from diffuscope.lens.recording import Record, snapshots
from diffuscope.lens.run_tap import compose
from diffuscope.lens.text import PromptReport, debug
from diffuscope.lens.word_effects import word_effects
from diffuscope.pipeline import Pipeline
from diffuscope.request import Request

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222;
       background: #fff }
img { max-width: 100%; height: auto }
img.picture { width: 256px; image-rendering: pixelated }
table { border-collapse: collapse } td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left }
p.note { color: #555 }
"""


def explain(pipe: Pipeline, prompt: str | Request, **call: Any) -> str:
    """A self-contained HTML page on how the model makes an image of a prompt.

    Args:
        pipe: the model.
        prompt: one text, with seed 0 by default; or a Request with one.
        call: further arguments of ``pipe(...)`` for one image, without ``tap``.

    Raises:
        InputError: an impossible argument; before the first network call.
    """
    request = prompt if isinstance(prompt, Request) else Request(prompt, seed=0)
    text = request.prompt
    if not isinstance(text, str):
        raise InputError("prompt", text, "one text")
    if "tap" in call:
        raise InputError("tap", call["tap"], "None, since the page has its own")
    count = call.get("num_images_per_prompt", request.num_images_per_prompt)
    if count != 1:
        raise InputError("num_images_per_prompt", count, "1: a page explains one image")
    attention, outputs, record = AttentionCapture(), Capture("unet.conv_out", reduce="all"), Record()
    guidance = call.pop("guidance", ())
    functions = (record, *((guidance,) if callable(guidance) else guidance))
    run = pipe.steps(request, tap=compose(attention, outputs), guidance=functions, **call)
    steps = snapshots(run)
    result = run.result()
    image, maps = result.images[0], attention.maps(pipe.tokenizer)
    syntax = result.receipt["prompt_syntax"]
    is_measured = syntax == "plain" and not other_inputs(pipe)
    effects = word_effects(pipe, text, record, run.levels) if is_measured else {}
    sections = {
        "Tokens": _token_table(debug(pipe, text, peaks=maps.peaks(), effects=effects, prompt_syntax=syntax)),
        "Schedule": _figure(figures.schedule(run.levels)),
        "Trajectory": _figure(figures.trajectory(pipe, steps)),
        "Attention": _figure(figures.attention(maps, image)),
    }
    values = outputs["unet.conv_out"]
    if values.shape[1] == 2:  # rows of a guided run: unconditional, conditional
        difference = figures.difference_over_time(list(values[:, 0]), list(values[:, 1]), record.sigmas)
        sections["Guidance"] = _figure(_guidance(pipe, values, record)) + _figure(difference)
    body = "\n".join(
        [
            f"<h1>{escape(repr(text))}</h1>",
            _image(partial(image.save, format="PNG"), "the image", "picture"),
            f"<p class=note>{escape(_settings(result.receipt))}</p>",
            *(f"<h2>{title}</h2>\n<p class=note>{escape(_NOTES[title])}</p>\n{s}" for title, s in sections.items()),
        ]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(text)}</title>\n'
        f"<style>{_STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )


_NOTES = {
    "Tokens": "The tokens of each word (</w> ends a word), their positions, and the peak of its attention map: 1 is "
    "the mean over all words. The effect of a word is what changes when it is left out of the text: 1 is as much as "
    "without any text, and a word near 0 does nothing here.",
    "Schedule": "Each step takes the latents from one noise level to the next lower one.",
    "Trajectory": "Above, the noisy latents; below, the denoised image that the network predicts from them.",
    "Attention": "Where in the image each word gets attention, averaged over all steps, layers and heads.",
    "Guidance": "The denoised image without the prompt and with it, from the same noise; guidance extrapolates from "
    "the one through the other. Below, how much the prompt changes the U-Net's prediction.",
}


def _guidance(pipe: Pipeline, values: Tensor, record: Record) -> "Figure":
    """Unconditional, conditional and guided images at up to five network calls from the first to the last."""
    last = len(values) - 1
    calls = sorted({round(i * last / 4) for i in range(5)})
    rows: dict[str, list[Tensor]] = {"unconditional": [], "conditional": [], "guided": []}
    for call in calls:
        x0 = x0_from(pipe.config.schedule.prediction, values[call], record.x[call], record.sigmas[call])
        for row, latents in zip(rows.values(), (x0[0], x0[1], record.x0[call][0]), strict=True):
            row.append(latents)
    images = {name: pipe.decode(torch.stack(row)) for name, row in rows.items()}
    return figures.image_rows(images, [f"σ {record.sigmas[call]:.2f}" for call in calls])


def _token_table(report: PromptReport) -> str:
    rows = ["<tr><th>word<th>pieces<th>ids<th>positions<th>effect<th>attention peak"]
    for word, tokens in zip(report.words, report.tokens, strict=True):
        cells = (
            word.word + (" (unknown to this model)" if word.word in report.unknown else ""),
            " + ".join(word.pieces),
            " ".join(map(str, tokens.ids)),
            " ".join(map(str, tokens.positions)) or "cut",
            f"{report.effects[word.word]:.2f}" if word.word in report.effects else "",
            f"{report.peaks[word.word]:.2f}" if word.word in report.peaks else "",
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells))
    note = "" if report.truncated is None else f"<p>{escape(report.truncated)}</p>"
    return "<table>\n" + "\n".join(rows) + f"\n</table>{note}"


def _settings(receipt: Any) -> str:
    names = ("model", "num_inference_steps", "guidance_scale", "sampler", "seed", "dtype", "device")
    return ", ".join(f"{name.replace('_', ' ')} {receipt[name]}" for name in names if name in receipt)


def _figure(figure: "Figure") -> str:
    alt = "; ".join(panel.get_title() for panel in figure.axes if panel.get_title())
    return _image(partial(figure.savefig, format="png", dpi=110), alt)


def _image(save: Callable[[io.BytesIO], None], alt: str, kind: str = "figure") -> str:
    with io.BytesIO() as file:
        save(file)
        data = base64.b64encode(file.getvalue()).decode()
    return f'<p><img class="{kind}" alt="{escape(alt)}" src="data:image/png;base64,{data}"></p>'
