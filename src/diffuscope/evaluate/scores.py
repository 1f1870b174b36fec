"""All scores of a model as one JSON document, with the settings, prompts and hashes behind them."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from diffuscope.data.captions import COUNTS
from diffuscope.data.foreground import background_word, foreground_mask, foreground_word
from diffuscope.data.palette import COLOUR_WORDS, COLOURS
from diffuscope.data.split import stable_hash
from diffuscope.errors import InputError
from diffuscope.evaluate import prompts
from diffuscope.evaluate.counting import count_things
from diffuscope.evaluate.eval_data import WHITE, EvalData
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.evaluate.intervals import Score, mean, proportion, ratio
from diffuscope.evaluate.prompts import EvalPrompt, PromptSet
from diffuscope.evaluate.scorer import Scorer
from diffuscope.models.fidelity import fidelity
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline

FORMAT = 5
"""Version of the document; it changes with the definition of a score or with a key."""

REAL, THROUGH_VAE = "real", "through the VAE"
VAE_SCORES = "vae"
GUIDANCE = 5.0
"""Every model is also scored at this guidance scale, so that models can be compared."""

PROMPT_SETS: dict[str, Callable[[EvalData], list[EvalPrompt]]] = {
    "held_out": prompts.held_out,
    "seen": prompts.seen,
    "colours": prompts.colours,
    "colours_of_one_style": prompts.colours,
    "backgrounds": prompts.backgrounds,
    "both": prompts.both,
    "tag_words": prompts.tag_words,
    "held_out_everyday": prompts.held_out_everyday,
    "icons": prompts.icons,
    "counts": prompts.counts,
    "several": prompts.several,
}
_MEASURED = ("colours", "colours_of_one_style", "backgrounds", "both", "counts", "several")
"""Sets that are judged by measuring pixels, so that the real images of a prompt can be asked first."""


@dataclass(frozen=True)
class Entry:
    """One score of the document."""

    measure: str
    """Such as "held_out.r1"; docs/explanation/scores.md defines each."""
    source: str
    """Of the images: "real", "through the VAE", or a setting of the model such as "guidance 5"."""
    score: Score

    def json(self) -> dict[str, Any]:
        """As a flat JSON object."""
        return {"measure": self.measure, "source": self.source, **asdict(self.score)}


def evaluate(
    pipe: Pipeline,
    scorer: Scorer,
    images: int = prompts.IMAGES,
    notice: Callable[[str], None] = lambda _: None,
    names: Sequence[str] = (VAE_SCORES, *PROMPT_SETS),
    guidance: Sequence[float | None] = (None, GUIDANCE),
) -> dict[str, Any]:
    """The scores of ``pipe``.

    Args:
        pipe: the model.
        scorer: networks and real images.
        images: for each prompt set, at least; fewer than the default is a smoke test.
        notice: called with the name of each part.
        names: the prompt sets to be scored, and "vae" for the autoencoder.
        guidance: guidance scales; None is the preset's.

    Returns:
        The document, of JSON values.

    Raises:
        InputError: a name is of no prompt set.
    """
    for name in names:
        if name not in (VAE_SCORES, *PROMPT_SETS):
            raise InputError("names", name, f"one of {', '.join((VAE_SCORES, *PROMPT_SETS))}")
    data = scorer.data
    notice("the prompts")
    sets = {name: make_prompt_set(data, name, images) for name in PROMPT_SETS if name in names}
    entries: list[Entry] = []
    if VAE_SCORES in names:
        notice("the autoencoder")
        entries += reconstruction_scores(pipe.vae, data, images)
    for name, prompt_set in sets.items():
        if prompt_set.prompts:
            entries += _set_scores(pipe, scorer, name, prompt_set, guidance, notice)
    return _described(pipe, data, sets) | {"scores": [entry.json() for entry in entries]}


def _set_scores(
    pipe: Pipeline,
    scorer: Scorer,
    name: str,
    prompt_set: PromptSet,
    guidance: Sequence[float | None],
    notice: Callable[[str], None],
) -> Iterator[Entry]:
    classified: dict[str, Tensor] = {}
    for source, sampling in sources(pipe, name, guidance):
        notice(f"{name}, {source}")
        correct = _correct(pipe, scorer, name, prompt_set, source, sampling)
        yield from (Entry(f"{name}.{measure}", source, proportion(value)) for measure, value in correct.items())
        if name == "held_out" and "classifier" in correct:
            classified[source] = correct["classifier"]
    for source, value in classified.items():
        if source != REAL:
            yield Entry("held_out.classifier_ratio", source, ratio(value, classified[REAL]))


def _described(pipe: Pipeline, data: EvalData, sets: Mapping[str, PromptSet]) -> dict[str, Any]:
    """Everything in the document but the scores."""
    return {
        "format": FORMAT,
        "model": {"name": pipe.config.name, "weights": pipe.weights, "dtype": str(pipe.dtype).removeprefix("torch.")},
        "preset": asdict(Sampling.of(pipe.config.preset)),
        "split": data.split.hash,
        "corpus": data.corpus_hash,
        "machine": device_name(pipe.device),
        "versions": {"diffuscope": version("diffuscope"), "torch": torch.__version__},
        "seeds": "image i of a set has prompt i // images_per_prompt and seed i",
        "prompt_sets": {
            name: {"images_per_prompt": own.images_per_prompt, "prompts": [prompt.text for prompt in own.prompts]}
            for name, own in sets.items()
        },
    }


def make_prompt_set(data: EvalData, name: str, images: int) -> PromptSet:
    """The prompt set ``name``; measured prompts only if their real images in every style are measured as correct.

    Other prompts (a landscape that hides its background, a comet as light as the paper) would score the measure,
    or the style that the model chose. "colours_of_one_style" has more: only the real image of the prompt itself counts.
    """

    def are_valid(part: Sequence[EvalPrompt]) -> Sequence[bool]:
        if name in ("colours_of_one_style", "several"):
            versions = [[prompt] for prompt in part]
        else:
            versions = [prompts.in_every_style(data, prompt) for prompt in part]
        every = [prompt for own in versions for prompt in own]
        correct = torch.stack(list(measured(real_images(data, every), every).values())).all(0)
        return [bool(own.all()) for own in correct.split([len(own) for own in versions])]

    return prompts.prompt_set(PROMPT_SETS[name](data), images, are_valid if name in _MEASURED else None)


def reconstruction_scores(vae: VAE, data: EvalData, sprites: int) -> Iterator[Entry]:
    """PSNR of held-out sprites on white and on a colour, and the largest decoder activation.

    All held-out sprites are measured, or ``sprites`` of them if there are more.
    """

    def row_hash(purpose: str, row: int) -> float:
        return stable_hash(purpose, data.pictures[row].concept, data.pictures[row].style)

    rows = [row for row in range(len(data.pictures)) if data.is_held_out(row)]
    rows = sorted(rows, key=lambda row: row_hash("sprite", row))[:sprites]
    colours = [COLOURS[word] for word in COLOUR_WORDS if word != "white"]
    chosen = [colours[int(row_hash("background", row) * len(colours))] for row in rows]
    on_white, on_colour = data.images(rows), data.images(rows, backgrounds=chosen)
    measured = fidelity(vae, torch.cat([on_white, on_colour]).float() / 127.5 - 1)
    psnr = measured.psnr.view(2, -1).T  # [R,2]
    yield Entry("vae.psnr", THROUGH_VAE, mean(psnr))
    yield Entry("vae.psnr_white", THROUGH_VAE, mean(psnr[:, :1]))
    yield Entry("vae.psnr_coloured", THROUGH_VAE, mean(psnr[:, 1:]))
    largest = measured.largest_activation
    yield Entry("vae.largest_activation", THROUGH_VAE, Score(largest, largest, largest, 2 * len(rows), len(rows)))


def sources(
    pipe: Pipeline, name: str, guidance: Sequence[float | None] = (None, GUIDANCE)
) -> list[tuple[str, Sampling | None]]:
    """The sources of images for the prompt set ``name``; a source with sampling options is the model."""
    preset = Sampling.of(pipe.config.preset)
    samplings = dict.fromkeys(preset if scale is None else replace(preset, guidance_scale=scale) for scale in guidance)
    real: list[tuple[str, Sampling | None]] = [(REAL, None)]
    if name in ("held_out", "seen", "held_out_everyday", "counts", "several"):
        real.append((THROUGH_VAE, None))
    return real + [(f"guidance {sampling.guidance_scale:g}", sampling) for sampling in samplings]


def _correct(
    pipe: Pipeline, scorer: Scorer, name: str, prompt_set: PromptSet, source: str, sampling: Sampling | None
) -> dict[str, Tensor]:
    """Measure -> [P,S] whether each image is correct."""
    if sampling is not None:
        images = generate(pipe, prompt_set.texts, range(len(prompt_set.texts)), sampling)
    else:
        images = real_images(scorer.data, prompt_set.prompts)
        if source == THROUGH_VAE:
            images = reconstruct(pipe.vae, images)
    count = len(images) // len(prompt_set.prompts)
    by_image = [prompt for prompt in prompt_set.prompts for _ in range(count)]
    styles = [prompt.style for prompt in by_image]
    if name in ("held_out", "seen", "icons"):
        correct = scorer.concepts(prompt_set, images, styles)
        return {"r1": correct["r1"]} if name == "icons" else correct
    if name == "held_out_everyday":
        return scorer.everyday(prompt_set, images, styles)
    if name == "tag_words":
        own = [scorer.data.pictures[prompt.row].style if sampling is None else None for prompt in by_image]
        return scorer.tag_words(prompt_set, images, own)
    correct = {measure: value.view(-1, count) for measure, value in measured(images, by_image).items()}
    if name == "counts":
        asked = torch.tensor([prompt.count for prompt in prompt_set.prompts])
        by_number = {f"right_{number}": correct["right"][(asked == number).to(images.device)] for number in COUNTS}
        correct |= {measure: value for measure, value in by_number.items() if len(value)}
    return correct


def measured(images: Tensor, prompts: Sequence[EvalPrompt]) -> dict[str, Tensor]:
    """Measure -> [N] whether what can be measured in each image is as its prompt says.

    All prompts ask for the same attributes: a number, or the colour of the thing, that of the background, and a place.
    """
    correct: dict[str, Tensor] = {}
    if prompts[0].count > 1:
        asked = torch.tensor([prompt.count for prompt in prompts], device=images.device)
        return {"right": count_things(images) == asked}
    if prompts[0].colour is not None:
        words = [COLOUR_WORDS.index(prompt.colour or "") for prompt in prompts]
        correct["thing"] = foreground_word(images) == torch.tensor(words, device=images.device)
    if prompts[0].background is not None:
        words = [COLOUR_WORDS.index(prompt.background or "") for prompt in prompts]
        correct["background"] = background_word(images) == torch.tensor(words, device=images.device)
    if prompts[0].place is not None:
        correct["place"] = is_at(images, [prompt.place or "" for prompt in prompts])
        correct["all"] = correct["thing"] & correct["background"] & correct["place"]
    elif len(correct) == 2:
        correct["both"] = correct["thing"] & correct["background"]
    return correct


def is_at(images: Tensor, places: Sequence[str]) -> Tensor:
    """[N] whether the middle of the foreground's box, in thirds of the image, is in the place of ``PLACES``."""
    mask = foreground_mask(images)
    middles = []
    for axis in (1, 2):
        used = mask.any(3 - axis).double()
        size = used.shape[1]
        first, last = used.argmax(1), size - used.flip(1).argmax(1)
        middles.append(((first + last) / (2 * size) * 3).long().clamp(max=2))
    down, across = middles
    asked = torch.tensor(
        [(1, 1) if "middle" in place else (2 * ("bottom" in place), 2 * ("right" in place)) for place in places],
        device=images.device,
    )
    return mask.flatten(1).any(1) & (down == asked[:, 0]) & (across == asked[:, 1])


def real_images(data: EvalData, prompts: Sequence[EvalPrompt]) -> Tensor:
    """[N,3,P,P] uint8: the real image of each prompt, with the prompt's colour and background."""
    colours = [-1 if prompt.colour is None else COLOUR_WORDS.index(prompt.colour) for prompt in prompts]
    backgrounds = [WHITE if prompt.background is None else COLOURS[prompt.background] for prompt in prompts]
    return data.images([prompt.row for prompt in prompts], colours, backgrounds, [prompt.at for prompt in prompts])


@torch.no_grad()
def reconstruct(vae: VAE, images: Tensor, batch: int = 128) -> Tensor:
    """[N,3,H,W] uint8 images, encoded to their mean latents and decoded."""
    parts = [vae((part.float() / 127.5 - 1).to(vae.quant_conv.weight)).float() for part in images.split(batch)]
    return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def device_name(device: torch.device) -> str:
    """The GPU's name, or the type of the processor."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {platform.machine()}"
