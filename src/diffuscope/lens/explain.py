"""One prompt explained on one page of HTML: tokens, schedule, trajectory, attention, guidance."""

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from diffuscope.diffusion.prediction import x0_from
from diffuscope.errors import InputError
from diffuscope.lens import figures
from diffuscope.lens.animation import Record, snapshots
from diffuscope.lens.attention_maps import AttentionCapture
from diffuscope.lens.capture import Capture
from diffuscope.lens.run_tap import compose
from diffuscope.lens.text import PromptReport, debug
from diffuscope.pipeline import Pipeline

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


def explain(pipe: Pipeline, prompt: str, *, seed: int = 0, **call: Any) -> str:
    """An HTML page, whole in itself, of how the model paints a prompt.

    Args:
        pipe: the model.
        prompt: one text.
        seed: of the picture.
        call: further arguments of ``pipe(...)``, but no ``tap``, and one picture.

    Raises:
        InputError: an impossible argument, or matplotlib is not there; before the first network call.
    """
    if not isinstance(prompt, str):
        raise InputError(f"prompt is a {type(prompt).__name__}; a page explains one text")
    if "tap" in call or call.get("num_images_per_prompt", 1) != 1:
        raise InputError(
            "a page explains one picture and makes the taps itself; leave tap and num_images_per_prompt out"
        )
    figures.schedule(pipe.schedule.levels(2))  # says so now, if nothing can be drawn
    heat, outputs, record = AttentionCapture(), Capture("unet.out", reduce="all"), Record()
    further = call.pop("guidance", ())
    functions = (record, *((further,) if callable(further) else further))
    run = pipe.steps(prompt, seed=seed, tap=compose(heat, outputs), guidance=functions, **call)
    steps = snapshots(run)
    result = run.result()
    maps = heat.maps(pipe.tokenizer)
    told = debug(pipe, prompt, peaks=maps.peaks())
    parts = [
        f"<h1>{escape(repr(prompt))}</h1>",
        _image(result.images[0], "the picture", "picture"),
        f"<p class=note>{escape(_settings(result.receipt))}</p>",
        _section("Tokens", _NOTES["tokens"], _tokens(told)),
        _section("Schedule", _NOTES["schedule"], _figure(figures.schedule(run.levels))),
        _section("Trajectory", _NOTES["trajectory"], _figure(figures.trajectory(pipe, steps))),
        _section("Attention", _NOTES["attention"], _figure(figures.attention(maps, result.images[0]))),
    ]
    values = outputs["unet.out"]
    if values.shape[1] == 2:  # rows of a guided run: without the text, with it
        drawing = _figure(_guidance(pipe, values, record))
        drawing += _figure(figures.difference_over_time(list(values[:, 0]), list(values[:, 1]), record.sigmas))
        parts.append(_section("Guidance", _NOTES["guidance"], drawing))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(prompt)}</title>\n'
        f"<style>{_STYLE}</style>\n<body>\n{body}\n</body>\n</html>\n"
    )


_NOTES = {
    "tokens": "How the words became tokens (</w> ends a word), where they stand, and how far each landed in the "
    "picture: 1 is an average word, and well below it a word that the picture neglects.",
    "schedule": "Each step takes the latents from one noise level to the next lower one.",
    "trajectory": "Above what the sampler has, below what the network believes the picture will be.",
    "attention": "Where each word was looked at, over all steps, layers and heads.",
    "guidance": "The picture that the network believes in without the text and with it, from the same noise; guidance "
    "goes from the one over to the other and beyond. Below how much the text changes what the network says.",
}


def _guidance(pipe: Pipeline, values: Tensor, record: Record) -> "Figure":
    """Estimates without the text, with it and guided, at up to five calls from the first to the last."""
    last = len(values) - 1
    calls = sorted({round(i * last / 4) for i in range(5)})
    rows: dict[str, list[Tensor]] = {"without text": [], "with text": [], "guided": []}
    for call in calls:
        x0 = x0_from(pipe.config.schedule.prediction, values[call], record.x[call], record.sigmas[call])
        for row, latents in zip(rows.values(), (x0[0], x0[1], record.x0[call][0]), strict=True):
            row.append(latents)
    pictures = {name: pipe.decode(torch.stack(row)) for name, row in rows.items()}
    return figures.image_rows(pictures, [f"σ {record.sigmas[call]:.2f}" for call in calls])


def _section(title: str, note: str, body: str) -> str:
    return f"<h2>{title}</h2>\n<p class=note>{escape(note)}</p>\n{body}"


def _tokens(told: PromptReport) -> str:
    rows = ["<tr><th>word<th>pieces<th>ids<th>positions<th>landed"]
    for word, tokens in zip(told.words, told.tokens, strict=True):
        cells = (
            word.word + (" (unknown to this model)" if word.word in told.unknown else ""),
            " + ".join(word.pieces),
            " ".join(map(str, tokens.ids)),
            " ".join(map(str, tokens.positions)) or "cut",
            f"{told.peaks[word.word]:.2f}" if word.word in told.peaks else "",
        )
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}" for cell in cells))
    note = "" if told.cut is None else f"<p>{escape(told.cut)}</p>"
    return "<table>\n" + "\n".join(rows) + f"\n</table>{note}"


def _settings(receipt: Any) -> str:
    names = ("model", "num_inference_steps", "guidance_scale", "sampler", "seed", "dtype", "device")
    return ", ".join(f"{name.replace('_', ' ')} {receipt[name]}" for name in names if name in receipt)


def _figure(figure: "Figure") -> str:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110)
        return _data(file.getvalue(), "; ".join(panel.get_title() for panel in figure.axes if panel.get_title()), "")


def _image(picture: Image.Image, alt: str, kind: str) -> str:
    with io.BytesIO() as file:
        picture.save(file, format="PNG")
        return _data(file.getvalue(), alt, kind)


def _data(png: bytes, alt: str, kind: str) -> str:
    chosen = f' class="{kind}"' if kind else ""
    return f'<p><img{chosen} alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'
