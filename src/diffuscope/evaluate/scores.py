"""All scores of a model, as one JSON document that says how each number came about."""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from diffuscope.data.foreground import background_word, foreground_word
from diffuscope.data.palette import COLOUR_WORDS, COLOURS
from diffuscope.data.split import stable_hash
from diffuscope.evaluate import questions
from diffuscope.evaluate.intervals import Score, mean, proportion, ratio
from diffuscope.evaluate.judges import Judges
from diffuscope.evaluate.material import WHITE, Material
from diffuscope.evaluate.painting import Sampling, paint
from diffuscope.evaluate.questions import Exam, Question
from diffuscope.models.fidelity import fidelity
from diffuscope.models.vae import VAE
from diffuscope.pipeline import Pipeline

FORMAT = 3
"""Version of the document; it changes when a measure's definition does."""

REAL, THROUGH_VAE = "real", "through the VAE"
GUIDANCE = 5.0
"""Scores are also given at this guidance, whatever the preset says, so that models can be compared."""

EXAMS: dict[str, Callable[[Material], list[Question]]] = {
    "held_out": questions.held_out,
    "seen": questions.seen,
    "colours": questions.colours,
    "colours_of_one_style": questions.colours,
    "backgrounds": questions.backgrounds,
    "both": questions.both,
    "words": questions.tag_words,
}


@dataclass(frozen=True)
class Entry:
    """One number of the document."""

    measure: str
    """Such as "held_out.r1"; docs/explanation/scores.md defines each."""
    source: str
    """Whose pictures: "real", "through the VAE", or the model's, such as "guidance 5"."""
    score: Score

    def json(self) -> dict[str, Any]:
        """As a flat JSON object."""
        return {"measure": self.measure, "source": self.source, **asdict(self.score)}


def evaluate(
    pipe: Pipeline,
    judges: Judges,
    pictures: int = questions.PICTURES,
    notice: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Every score of ``pipe``.

    Args:
        pipe: the model.
        judges: who judges, with the real pictures.
        pictures: of each exam, at least; fewer than the default is a smoke test, no score.
        notice: told what is done next.

    Returns:
        The document: JSON values only.
    """
    material = judges.material
    notice("the questions")
    exams = {name: make_exam(material, name, pictures) for name in EXAMS}
    notice("the autoencoder")
    entries = list(reconstruction(pipe.vae, material, pictures))
    for name, exam in exams.items():
        if not exam.questions:
            continue
        held: dict[str, Tensor] = {}
        for source, sampling in sources(pipe, name):
            notice(f"{name}, {source}")
            right = _answers(pipe, judges, name, exam, source, sampling)
            entries += [Entry(f"{name}.{measure}", source, proportion(value)) for measure, value in right.items()]
            if name == "held_out" and "classifier" in right:
                held[source] = right["classifier"]
        entries += [
            Entry("held_out.classifier_ratio", source, ratio(value, held[REAL]))
            for source, value in held.items()
            if source != REAL
        ]
    return {
        "format": FORMAT,
        "model": {"name": pipe.config.name, "weights": pipe.weights, "dtype": str(pipe.dtype).removeprefix("torch.")},
        "preset": asdict(Sampling.of(pipe.config.preset)),
        "split": material.split.hash,
        "corpus": material.corpus_hash,
        "machine": machine(pipe.device),
        "versions": {"diffuscope": version("diffuscope"), "torch": torch.__version__},
        "seeds": "picture i of an exam is of prompt i // each and has the seed i",
        "exams": {name: {"each": e.each, "prompts": [q.prompt for q in e.questions]} for name, e in exams.items()},
        "scores": [entry.json() for entry in entries],
    }


def make_exam(material: Material, name: str, pictures: int) -> Exam:
    """The exam ``name``. A question of colours is asked only where its real pictures are judged right in every style.

    Where they are not (a landscape that hides its background, a comet that is clear as the paper) the measure would be
    scored, or the style that the model happened to choose. "colours_of_one_style" asks more: whatever
    the one real picture of the question answers.
    """
    is_coloured = name in ("colours", "colours_of_one_style", "backgrounds", "both")

    def answerable(asked: Sequence[Question]) -> Sequence[bool]:
        if name == "colours_of_one_style":
            every = [[question] for question in asked]
        else:
            every = [questions.in_every_style(material, question) for question in asked]
        shown = [question for part in every for question in part]
        right = torch.stack(list(colours_right(real_pictures(material, shown), shown).values())).all(0)
        return [bool(part.all()) for part in right.split([len(part) for part in every])]

    return questions.exam(EXAMS[name](material), pictures, answerable if is_coloured else None)


def reconstruction(vae: VAE, material: Material, sprites: int) -> Iterator[Entry]:
    """PSNR of held-out sprites, once on white and once on a colour, and the largest decoder activation.

    Every held-out sprite is measured, or ``sprites`` of them where there are more.
    """

    def lot(purpose: str, row: int) -> float:
        return stable_hash(purpose, material.pictures[row].concept, material.pictures[row].style)

    rows = [row for row in range(len(material.pictures)) if material.is_held_out(row)]
    rows = sorted(rows, key=lambda row: lot("sprite", row))[:sprites]
    plain = [COLOURS[word] for word in COLOUR_WORDS if word != "white"]
    chosen = [plain[int(lot("background", row) * len(plain))] for row in rows]
    on_white, on_colour = material.drawn(rows), material.drawn(rows, backgrounds=chosen)
    found = fidelity(vae, torch.cat([on_white, on_colour]).float() / 127.5 - 1)
    psnr = found.psnr.view(2, -1).T  # [R,2]
    yield Entry("vae.psnr", THROUGH_VAE, mean(psnr))
    yield Entry("vae.psnr_white", THROUGH_VAE, mean(psnr[:, :1]))
    yield Entry("vae.psnr_coloured", THROUGH_VAE, mean(psnr[:, 1:]))
    largest = found.largest_activation
    yield Entry("vae.largest_activation", THROUGH_VAE, Score(largest, largest, largest, 2 * len(rows), len(rows)))


def sources(pipe: Pipeline, exam: str) -> list[tuple[str, Sampling | None]]:
    """Where the pictures of an exam come from: real ones, through the autoencoder where names count, the model's."""
    preset = Sampling.of(pipe.config.preset)
    samplings = dict.fromkeys([preset, replace(preset, guidance_scale=GUIDANCE)])
    found: list[tuple[str, Sampling | None]] = [(REAL, None)]
    if exam in ("held_out", "seen"):
        found.append((THROUGH_VAE, None))
    return found + [(f"guidance {sampling.guidance_scale:g}", sampling) for sampling in samplings]


def _answers(
    pipe: Pipeline, judges: Judges, name: str, exam: Exam, source: str, sampling: Sampling | None
) -> dict[str, Tensor]:
    """Measure -> [P,S] whether each picture is right."""
    if sampling is not None:
        shown = paint(pipe, exam.prompts, range(len(exam.prompts)), sampling)
    else:
        shown = real_pictures(judges.material, exam.questions)
        if source == THROUGH_VAE:
            shown = through(pipe.vae, shown)
    count = len(shown) // len(exam.questions)
    asked = [question for question in exam.questions for _ in range(count)]
    if name in ("held_out", "seen"):
        return judges.names(exam, shown, [question.style for question in asked])
    if name == "words":
        is_real = sampling is None
        styles = [judges.material.pictures[question.row].style if is_real else None for question in asked]
        return judges.words(exam, shown, styles)
    return {measure: value.view(-1, count) for measure, value in colours_right(shown, asked).items()}


def colours_right(pictures: Tensor, asked: Sequence[Question]) -> dict[str, Tensor]:
    """Measure -> [N] whether the thing, the background, and both where both are asked for, have the right colour."""
    right: dict[str, Tensor] = {}
    if asked[0].colour is not None:
        wanted = torch.tensor([COLOUR_WORDS.index(question.colour or "") for question in asked], device=pictures.device)
        right["thing"] = foreground_word(pictures) == wanted
    if asked[0].background is not None:
        wanted = torch.tensor(
            [COLOUR_WORDS.index(question.background or "") for question in asked], device=pictures.device
        )
        right["background"] = background_word(pictures) == wanted
    if len(right) == 2:
        right["both"] = right["thing"] & right["background"]
    return right


def real_pictures(material: Material, asked: Sequence[Question]) -> Tensor:
    """[N,3,P,P] uint8: the real picture of each question, recoloured and on a background as the prompt says."""
    colours = [-1 if question.colour is None else COLOUR_WORDS.index(question.colour) for question in asked]
    backgrounds = [WHITE if question.background is None else COLOURS[question.background] for question in asked]
    return material.drawn([question.row for question in asked], colours, backgrounds)


@torch.no_grad()
def through(vae: VAE, pictures: Tensor, chunk: int = 128) -> Tensor:
    """[N,3,H,W] uint8 pictures as the autoencoder gives them back from their mean latents."""
    parts = [vae((part.float() / 127.5 - 1).to(vae.quant_conv.weight)).float() for part in pictures.split(chunk)]
    return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def machine(device: torch.device) -> str:
    """The name of what computes."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {platform.machine()}"
