"""The U-Net as a Denoiser of the run's texts, with classifier-free guidance; the texts may change between steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffuscope.config import ModelConfig
from diffuscope.diffusion.prediction import Predict, denoiser
from diffuscope.errors import InputError, Unquoted, is_out_of_memory
from diffuscope.models.unet import UNet
from diffuscope.perf import memory
from diffuscope.perf.engine import EXACT, Approximation, Engine
from diffuscope.pipeline import guidance
from diffuscope.pipeline.answers import Answers
from diffuscope.pipeline.conditioning import Encoded, Stage, UNetInputs, entries_at, stage_at
from diffuscope.pipeline.guidance import CondUncond
from diffuscope.pipeline.plan import Plan
from diffuscope.types import Denoiser, Tap, sent


class Estimates(NamedTuple):
    """The Denoiser of a run, and the conditional estimate in it."""

    guided: Denoiser
    cond: Denoiser


def denoisers_of(
    unet: UNet,
    config: ModelConfig,
    plan: Plan,
    texts: Encoded,
    channels: Tensor | None,
    tap: Tap | None,
    now: Answers,
    engine: Engine,
) -> Estimates:
    """The U-Net as Denoisers of the texts; an InputError for a tap where one call of it is not enough for a step.

    ``channels`` [N,C,h,w] are further inputs of a model that inpaints or edits an image; ``now`` counts the steps.
    """
    device = engine.device(unet)
    entries = [entries_at(plan, step) for step in range(len(plan.levels.sigmas) - 1)]
    approximation = Approximation(plan.request.step_caching, plan.request.token_merging)
    first = {key: entries.index(key) for key in entries}  # equal steps share one stage

    def estimates(step: int) -> Estimates:
        stage = stage_at(config, plan, texts, step, device)
        return _in_batches(
            [
                _estimates(
                    _Network(unet, tap, engine, plan.levels.timesteps, now.notes, approximation),
                    config,
                    plan,
                    stage.some(images),
                    None if channels is None else channels[images],
                )
                for images in plan.batches
            ],
            plan.batches,
        )

    stages = {key: estimates(step) for key, step in first.items()}
    if len(stages) == 1:
        return stages[entries[0]]

    def current() -> Estimates:
        return stages[entries[min(now.step, len(entries) - 1)]]

    return Estimates(lambda x, sigma: current().guided(x, sigma), lambda x, sigma: current().cond(x, sigma))


def _in_batches(parts: list[Estimates], batches: list[slice]) -> Estimates:
    """Estimates of some images each as those of all."""
    if len(parts) == 1:
        return parts[0]

    def joined(denoisers: list[Denoiser]) -> Denoiser:
        return lambda x, sigma: torch.cat(
            [denoise(x[images], sigma) for denoise, images in zip(denoisers, batches, strict=True)]
        )

    return Estimates(joined([part.guided for part in parts]), joined([part.cond for part in parts]))


def _estimates(unet: "_Network", config: ModelConfig, plan: Plan, stage: Stage, channels: Tensor | None) -> Estimates:
    tap = unet.tap

    def one(rows: UNetInputs, channels: Tensor | None = channels, *, pairs: bool = False) -> Denoiser:
        network = unet.of(rows, pairs=pairs)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if channels is not None:
                x = torch.cat([x, channels.repeat(len(x) // len(channels), 1, 1, 1)], dim=1)
            return network(x.to(unet.dtype), time)

        return denoiser(predict, plan.levels, config.schedule.prediction)

    cond, negative = one(stage.parts[0]), stage.negative
    if tap is not None and (len(stage.parts) > 1 or len((stage.parts[0] + (negative or stage.parts[0])).lengths()) > 1):
        got = Unquoted("a tap, and prompts joined by AND or of several lengths")
        raise InputError("tap", got, "None with them, since they take several calls of the U-Net in a step")
    if negative is None:
        return Estimates(cond, cond)
    uncond, bare, rows = one(negative), None, None
    same = len((negative + stage.parts[0]).lengths()) == 1
    if bool((stage.weights != 1).any()) or len(stage.parts) > 1:
        rows = _composed([one(part) for part in stage.parts], stage.weights, uncond)
        cond = _second_half(rows)
    elif config.edits:  # without the text, and without text and image
        assert channels is not None
        none = torch.zeros_like(channels)
        bare = one(negative, none)
        if same:
            rows = one(negative + negative + stage.parts[0], torch.cat([none, channels, channels]))
    elif same:
        rows = one(negative + stage.parts[0], pairs=True)
    estimates = CondUncond(cond, uncond, rows, bare, always_all=tap is not None)
    levels, see = plan.levels.sigmas, plan.call.on_guidance
    return Estimates(guidance.denoiser_of(estimates, plan.request, levels, config.schedule.prediction, see), cond)


@dataclass(frozen=True)
class _Network:
    """The U-Net as a run calls it."""

    unet: UNet
    tap: Tap | None
    engine: Engine
    times: Sequence[float]
    """Timesteps of the run."""
    notes: list[str]
    approximation: Approximation

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.unet.conv_in.weight.dtype

    def of(self, rows: UNetInputs, *, pairs: bool) -> Predict:
        """Conditioned on one text for each row: one call for each length of a text.

        With ``pairs`` the second half of the latents is always the same as the first.
        """
        lengths = rows.lengths().values()
        groups = [(images, self._on(rows, images, pairs=pairs and len(lengths) == 1)) for images in lengths]
        if len(groups) == 1:
            return groups[0][1]
        order = torch.tensor(
            [image for images in lengths for image in images], device=self.engine.device(self.unet)
        ).argsort()
        return lambda x, time: torch.cat([predict(x[images], time) for images, predict in groups])[order]

    def _on(self, rows: UNetInputs, images: Sequence[int], *, pairs: bool) -> Predict:
        """For some rows; where memory does not suffice, each half of them by itself from then on."""
        context, extra = rows.rows(images)
        device = self.engine.device(self.unet)
        context = context.to(device, self.dtype)
        extra = None if extra is None else {name: sent(value, device) for name, value in extra.items()}
        times, left_out = self.times, self.approximation
        fast = self.engine.predictor(self.unet, context, extra, pairs=pairs, times=times, approximation=left_out)
        halves: list[Predict] = []

        def whole(x: Tensor, time: Tensor) -> Tensor:
            if (self.approximation != EXACT or self.engine.runs(self.unet, self.tap)) and not torch.is_grad_enabled():
                return fast(x, time)
            return self.unet(x, time, context, extra=extra, tap=self.tap)

        def predict(x: Tensor, time: Tensor) -> Tensor:
            if not halves:
                try:
                    return whole(x, time)
                except Exception as error:
                    if len(images) == 1 or self.tap is not None or not is_out_of_memory(error):
                        raise
                    memory.release(error)
                self.engine.release()
                if memory.SPLIT not in self.notes:
                    self.notes.append(memory.SPLIT)
                middle = len(images) // 2
                halves.extend(self._on(rows, some, pairs=False) for some in (images[:middle], images[middle:]))
            parts = x[: len(images) // 2], x[len(images) // 2 :]
            return torch.cat([half(part, time) for half, part in zip(halves, parts, strict=True)])

        return predict


def _composed(parts: list[Denoiser], weights: Tensor, uncond: Denoiser) -> Denoiser:
    """Composable diffusion (Liu et al. 2022, equation 11): ``uncond + sum of weight * (part - uncond)``.

    Takes and returns 2N rows, [unconditional, conditional], as guidance does.
    """
    alone = (weights[0] == 1) & (weights[1:] == 0).all(0)  # an image whose prompt has one part, as without AND

    def both(x: Tensor, sigma: float) -> Tensor:
        x = x.chunk(2)[1]
        without, each = uncond(x, sigma), [part(x, sigma) for part in parts]
        factors, chosen = (sent(each, x.device)[..., None, None, None] for each in (weights.to(x.dtype), alone))
        total = without + sum(factor * (cond - without) for factor, cond in zip(factors, each, strict=True))
        return torch.cat([without, torch.where(chosen, each[0], total)])

    return both


def _second_half(both: Denoiser) -> Denoiser:
    return lambda x, sigma: both(torch.cat((x, x)), sigma).chunk(2)[1]
