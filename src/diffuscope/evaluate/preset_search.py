"""Scores of samplers, steps and guidance scales at equal network calls, from which a preset is chosen."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from torch import Tensor

from diffuscope.diffusion.samplers import find, network_calls
from diffuscope.diffusion.schedules import Schedule
from diffuscope.evaluate.frechet import frechet_distance
from diffuscope.evaluate.generation import Sampling, generate
from diffuscope.evaluate.intervals import proportion
from diffuscope.evaluate.prompts import PromptSet, prompt_set, seen
from diffuscope.evaluate.retrieval import features
from diffuscope.evaluate.scorer import Scorer
from diffuscope.evaluate.scores import real_images
from diffuscope.pipeline import Pipeline

CALLS = (6, 8, 10, 12, 16, 25)
GUIDANCES = (2.0, 2.5, 3.0, 4.0, 5.0, 7.5)
SAMPLERS = ("dpmpp_2m", "ddim", "euler", "heun")


@dataclass(frozen=True, kw_only=True)
class SettingScore:
    """One setting and its scores on seen pairs."""

    sampler: str
    steps: int
    guidance_scale: float
    calls: int
    """Network calls per image; each is a batch of the prompt and the empty prompt."""
    r1: float
    classifier: float | None
    frechet: float
    """Fréchet distance of image features to those of the real images of the same prompts."""


def settings_grid(
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


def score_settings(
    pipe: Pipeline,
    scorer: Scorer,
    settings: Sequence[tuple[str, int, int, float]],
    images: int = 500,
    notice: Callable[[str], None] = lambda _: None,
) -> list[SettingScore]:
    """The scores of ``settings``, with equal prompts and seeds, the best R@1 first."""
    prompts = prompt_set(seen(scorer.data), images)
    real = features(scorer.feature_net, real_images(scorer.data, prompts.prompts))
    real = real.repeat_interleave(prompts.images_per_prompt, 0)
    scores = []
    for sampler, steps, calls, guidance in settings:
        notice(f"{sampler}, {steps} steps, guidance {guidance:g}")
        sampling = Sampling(
            num_inference_steps=steps,
            guidance_scale=guidance,
            sampler=sampler,
            sigmas=pipe.config.preset.sigmas,
        )
        made = generate(pipe, prompts.texts, range(len(prompts.texts)), sampling)
        scores.append(_setting_score(scorer, prompts, made, real, sampling, calls))
    return sorted(scores, key=lambda score: (-score.r1, score.calls, score.frechet))


def _setting_score(
    scorer: Scorer, prompts: PromptSet, images: Tensor, real: Tensor, sampling: Sampling, calls: int
) -> SettingScore:
    styles = [prompt.style for prompt in prompts.prompts for _ in range(prompts.images_per_prompt)]
    correct = scorer.concepts(prompts, images, styles)
    classifier = correct.get("classifier")
    return SettingScore(
        sampler=sampling.sampler,
        steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        calls=calls,
        r1=proportion(correct["r1"]).value,
        classifier=None if classifier is None else proportion(classifier).value,
        frechet=frechet_distance(features(scorer.feature_net, images), real),
    )


def as_json(scores: Sequence[SettingScore]) -> list[dict[str, Any]]:
    """One object for each setting."""
    return [asdict(score) for score in scores]


def as_table(scores: Sequence[SettingScore]) -> str:
    """Markdown with a row for each setting."""
    lines = ["| sampler | steps | calls | guidance | R@1 | classifier | Fréchet |", "|---|---|---|---|---|---|---|"]
    for score in scores:
        classifier = "" if score.classifier is None else f"{score.classifier:.3f}"
        setting = f"| {score.sampler} | {score.steps} | {score.calls} | {score.guidance_scale:g}"
        lines.append(f"{setting} | {score.r1:.3f} | {classifier} | {score.frechet:.2f} |")
    return "\n".join(lines) + "\n"
