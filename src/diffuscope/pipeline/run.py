"""One run of a sampler as an iterator: the loop is the caller's."""

import math
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Self

import torch
from torch import Tensor

from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from diffuscope.errors import InputError, NonFiniteError, Unquoted, shown
from diffuscope.pipeline import memory
from diffuscope.pipeline.codec import Check
from diffuscope.pipeline.plan import Plan
from diffuscope.pipeline.receipt import Receipt, checked_steps, checksums
from diffuscope.pipeline.result import Result
from diffuscope.types import Denoiser, Levels, Noise, Step


def sampler_steps(plan: Plan, denoise: Denoiser, x: Tensor, noise: PerImageNoise) -> Iterator[Step]:
    """The steps of the plan's sampler, with the noise and the options of its kind."""
    info, levels = plan.sampler, plan.levels
    sampler_noise: Noise = noise
    if info.noise == "brownian":  # up to the model's highest level, so that a seed's path is the same in every run
        sampler_noise = BrownianNoise(plan.seeds, max(levels.sigmas[0], math.exp(levels.log_sigmas[-1])))
    extra = {"log_sigmas": levels.log_sigmas} if info.takes_log_sigmas else {}
    steps = info.function(denoise, x, plan.planned_sigmas, noise=sampler_noise, **extra, **plan.sampler_options)
    return islice(steps, len(levels.sigmas) - 1)


class Run(Iterator[Step]):
    """The steps of one call, each as soon as it is done; ``result()`` runs the remaining steps and decodes the images.

    Rows of ``step.x`` and ``step.x0`` are images. ``len(run)`` is the number of steps of the whole run. Leaving the
    loop stops the run; nothing has to be closed.
    """

    def __init__(
        self,
        steps: Iterator[Step],
        levels: Levels,
        receipt: Receipt,
        finish: Callable[[Tensor, Receipt, Check], Result],
    ) -> None:
        """Wrap a sampler's ``steps``; ``finish`` makes the result, and calls a check that ends a cancelled run."""
        self.levels = levels
        self._steps = steps
        self._receipt = receipt
        self._finish = finish
        self._checked = checked_steps(len(self))
        self._estimates: list[tuple[int, Tensor]] = []
        self._last: Step | None = None
        self._seen: tuple[tuple[Tensor, int], tuple[Tensor, int]] | None = None  # x and x0, with their versions
        self._cancelled = False
        self._result: Result | None = None

    def __repr__(self) -> str:
        done = 0 if self._last is None else self._last.index + 1
        prompts = self._receipt["prompt"]
        more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
        return f"Run({shown(prompts[0])}{more}: {done} of {len(self)} steps, sigma {self.levels.sigmas[done]:.4g})"

    def __len__(self) -> int:
        return len(self.levels.sigmas) - 1

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Step:
        self._notice_edit()
        if self._cancelled:
            raise StopIteration
        with memory.phase("sampling", self._receipt["device"]), torch.inference_mode(False), torch.no_grad():
            step = next(self._steps)  # as inference tensors they would hide the caller's edits
        if step.index in self._checked:
            self._estimates.append((step.index, step.x0.clone()))  # hashed at the end: a GPU need not wait here
        self._last, self._seen = step, ((step.x, step.x._version), (step.x0, step.x0._version))
        return step

    @property
    def notes(self) -> list[str]:
        """What the call has to say so far: words that the model never learned, sizes far from its own ..."""
        return list(self._receipt["notes"])

    def cancel(self) -> None:
        """End the run after the current step, or while it decodes. May be called from another thread."""
        self._cancelled = True

    def _check(self) -> None:
        if self._cancelled:
            got = Unquoted(f"{len(self)} of {len(self)} steps, then it was cancelled while decoding")
            raise InputError("run", got, "all steps and the decoded images")

    def result(self) -> Result:
        """Run the remaining steps and decode the images.

        Raises:
            InputError: the run was cancelled before its end.
            NonFiniteError: the final latents or the pixels are not finite.
            OutOfMemoryError: while sampling, decoding or upscaling; the first ends the run, after the others this may
                be called again.
        """
        if self._result is None:
            for _ in self:
                pass
            self._result = self._make_result()
        return self._result

    def _make_result(self) -> Result:
        self._notice_edit()
        done = 0 if self._last is None else self._last.index + 1
        if self._last is None or done < len(self):
            raise InputError("run", Unquoted(f"{done} of {len(self)} steps, then it was cancelled"), "all steps")
        latents = (self._last.x * self.levels.end_scale).float()
        if not latents.isfinite().all():
            raise NonFiniteError(
                f"after {done} steps the latents are not finite in {self._receipt['dtype']}; load the model with "
                'dtype="float32", or lower guidance_scale'
            )
        self._receipt["checks"] += [{"step": index, "x0": checksums(x0)} for index, x0 in self._estimates]
        self._estimates.clear()
        with torch.no_grad():
            return self._finish(latents, self._receipt, self._check)

    def _notice_edit(self) -> None:
        """Note in the receipt that the caller changed the latents, which no receipt can hold."""
        if self._last is None or self._seen is None:
            return
        (x, version), (x0, version_of_x0) = self._seen
        if x0._version != version_of_x0:  # a multistep sampler remembers its estimates
            self._note("step.x0")
        if self._last.x is x and x._version == version:
            return
        if self._last.x.shape != x.shape:
            raise InputError("step.x", self._last.x, f"latents of the same shape, {list(x.shape)}")
        self._note("step.x")

    def _note(self, name: str) -> None:
        if name not in self._receipt["edits"]:
            self._receipt["edits"].append(name)
