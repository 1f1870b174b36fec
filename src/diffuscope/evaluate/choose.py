"""Chooses a model's preset: which sampler, steps and guidance give the best pictures for the calls they cost."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from torch import Tensor

from diffuscope.diffusion.samplers import find, network_calls
from diffuscope.diffusion.schedules import Schedule
from diffuscope.evaluate import questions
from diffuscope.evaluate.frechet import frechet_distance
from diffuscope.evaluate.intervals import proportion
from diffuscope.evaluate.judges import Judges
from diffuscope.evaluate.painting import Sampling, paint
from diffuscope.evaluate.questions import Exam
from diffuscope.evaluate.retrieval import features
from diffuscope.evaluate.scores import real_pictures
from diffuscope.pipeline import Pipeline

CALLS = (6, 8, 10, 12, 16, 25)
GUIDANCES = (2.0, 2.5, 3.0, 4.0, 5.0, 7.5)
SAMPLERS = ("dpmpp_2m", "ddim", "euler", "heun")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One setting and what it scores on seen pairs."""

    sampler: str
    steps: int
    guidance_scale: float
    calls: int
    """Network calls a picture, each for the prompt and the empty prompt together."""
    r1: float
    classifier: float | None
    frechet: float
    """Frechet distance of the feature network's features to those of the real pictures of the same prompts."""


def grid(
    schedule: Schedule,
    calls: Sequence[int] = CALLS,
    guidances: Sequence[float] = GUIDANCES,
    samplers: Sequence[str] = SAMPLERS,
) -> Iterator[tuple[str, int, int, float]]:
    """(sampler, steps, calls, guidance) of every setting: as many steps as fit into the network calls."""
    for sampler, wanted, guidance in product(samplers, calls, guidances):
        for steps in range(wanted, 0, -1):
            sigmas = schedule.levels(steps, sampler=sampler).sigmas
            used = sum(network_calls(find(sampler).info.function, sigmas))
            if used <= wanted or steps == 1:
                yield sampler, steps, used, guidance
                break


def choose(
    pipe: Pipeline,
    judges: Judges,
    settings: Sequence[tuple[str, int, int, float]],
    pictures: int = 500,
    notice: Callable[[str], None] = lambda _: None,
) -> list[Choice]:
    """What each of ``settings`` scores, the best R@1 first; equal prompts and seeds for all."""
    exam = questions.exam(questions.seen(judges.material), pictures)
    real = features(judges.feature_net, real_pictures(judges.material, exam.questions)).repeat_interleave(exam.each, 0)
    found = []
    for sampler, steps, calls, guidance in settings:
        notice(f"{sampler}, {steps} steps, guidance {guidance:g}")
        sampling = Sampling(
            num_inference_steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            sigmas=pipe.config.preset.sigmas,
        )
        shown = paint(pipe, exam.prompts, range(len(exam.prompts)), sampling)
        found.append(_choice(judges, exam, shown, real, sampling, calls))
    return sorted(found, key=lambda choice: (-choice.r1, choice.calls, choice.frechet))


def _choice(judges: Judges, exam: Exam, shown: Tensor, real: Tensor, sampling: Sampling, calls: int) -> Choice:
    right = judges.names(exam, shown, [question.style for question in exam.questions for _ in range(exam.each)])
    classifier = right.get("classifier")
    return Choice(
        sampler=sampling.sampler,
        steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        calls=calls,
        r1=proportion(right["r1"]).value,
        classifier=None if classifier is None else proportion(classifier).value,
        frechet=frechet_distance(features(judges.feature_net, shown), real),
    )


def as_json(choices: Sequence[Choice]) -> list[dict[str, Any]]:
    """One object for each choice."""
    return [asdict(choice) for choice in choices]


def as_table(choices: Sequence[Choice]) -> str:
    """Markdown, a row for each choice."""
    lines = ["| sampler | steps | calls | guidance | R@1 | classifier | Fréchet |", "|---|---|---|---|---|---|---|"]
    for c in choices:
        classifier = "" if c.classifier is None else f"{c.classifier:.3f}"
        setting = f"| {c.sampler} | {c.steps} | {c.calls} | {c.guidance_scale:g}"
        lines.append(f"{setting} | {c.r1:.3f} | {classifier} | {c.frechet:.2f} |")
    return "\n".join(lines) + "\n"
