"""One run of a sampler as an iterator: the loop is the caller's."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from diffuscope.diffusion.noise import BrownianNoise, PerImageNoise
from diffuscope.errors import InputError, NonFiniteError, Unquoted, shown
from diffuscope.perf import memory
from diffuscope.pipeline.answers import Answers
from diffuscope.pipeline.branching import depth_of, with_edit
from diffuscope.pipeline.codec import Check
from diffuscope.pipeline.plan import Branched, Plan
from diffuscope.pipeline.receipt import Receipt, branch_of, checked_steps, checksums
from diffuscope.pipeline.result import Result
from diffuscope.request import MOST_BRANCHES, Latents
from diffuscope.types import Denoiser, Levels, Noise, Step

_UNREPEATED = {
    "step.x0": "a run whose step.x0 was not changed in place; step.x may be assigned",
    "step.x": "a run whose latents are float32, and were not changed in more than 64 steps",
    "generator": "a run from seeds, or from generators that had drawn nothing before",
}
"""What a branch cannot make again, and what it needs."""


def sampler_steps(plan: Plan, denoise: Denoiser, x: Tensor, noise: PerImageNoise) -> Iterator[Step]:
    """The steps of the plan's sampler, with the noise and the options of its kind; of a branch, those before too."""
    if plan.branch is not None and plan.branch.continues:
        return sampler_steps(plan.branch.plan, denoise, x, noise)
    if plan.branch is not None:
        return _two_samplers(plan, plan.branch, denoise, x, noise)
    return islice(_steps(plan, 0, denoise, x, noise), len(plan.levels.sigmas) - 1)


def _two_samplers(plan: Plan, branch: Branched, denoise: Denoiser, x: Tensor, noise: PerImageNoise) -> Iterator[Step]:
    """The steps that a branch keeps, then those of its own sampler, which starts from their latents."""
    for step in islice(sampler_steps(branch.plan, denoise, x, noise), branch.step):
        yield step
        x = step.x
    for step in islice(_steps(plan, branch.step, denoise, x, noise), len(plan.levels.sigmas) - 1 - branch.step):
        step.index += branch.step
        yield step


def _steps(plan: Plan, first: int, denoise: Denoiser, x: Tensor, noise: PerImageNoise) -> Iterator[Step]:
    """The steps of the plan's own sampler from its ``first`` level on."""
    info, levels = plan.sampler, plan.levels
    sampler_noise: Noise = noise
    if info.noise == "brownian":  # up to the model's highest level, so that a seed's path is the same in every run
        sampler_noise = BrownianNoise(plan.seeds, max(levels.sigmas[0], math.exp(levels.log_sigmas[-1])))
    extra = {"log_sigmas": levels.log_sigmas} if info.takes_log_sigmas else {}
    sigmas = plan.planned_sigmas[first:]
    if len(sigmas) < 2:
        return iter(())
    return info.function(denoise, x, sigmas, noise=sampler_noise, **extra, **plan.preset.sampler_options)


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
        finish: Callable[[Tensor, Receipt, Check, Check], Result],
        answers: Answers,
        branch: Callable[[int, Mapping[int, Latents], Answers, Mapping[str, Any]], "Run"],
    ) -> None:
        """Wrap a sampler's ``steps``. ``finish`` makes the result, and calls a check that ends a cancelled run.

        ``branch`` begins a run that goes on from a step of this one, with its edits, its answers and changes.
        """
        self.levels = levels
        self.answers = answers
        self._branch = branch
        self._edits: dict[int, Latents] = {}
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
        done, prompts = self.done, self._receipt["prompt"]
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

    @property
    def done(self) -> int:
        """How many steps have been made."""
        return 0 if self._last is None else self._last.index + 1

    @property
    def receipt(self) -> Receipt:
        """What is known of the result's receipt before it is there: the request, and the hashes of its inputs."""
        return dict(self._receipt)

    def branch(self, step: int, *, x: Tensor | None = None, **changes: Any) -> "Run":
        """A run that goes on from a step of this one, with something changed; it begins with the steps that are kept.

        What this run has computed is not computed again, so these steps come at once. The sampler is the same, with its
        history and its noise: with nothing changed, every step is the same, bit for bit. With another sampler, other
        ``sampler_options`` or another spacing, the rest is a run of its own, from the latents there on.

        Args:
            step: how many steps are kept: 4 keeps those with the indices 0 to 3.
            x: [N,C,h,w] latents from which it goes on, such as ``step.x`` painted over.
            changes: arguments of a call from there on: ``prompt``, ``guidance_scale``, ``sampler`` ... A ``tap`` is for
                these steps alone.

        Raises:
            InputError: no such step, or a change of what holds for a whole run, such as its size.
        """
        self._notice_edit()
        for name, want in _UNREPEATED.items():
            if name in self._receipt["edits"]:
                raise InputError("run", Unquoted(f"one with {name}"), want)
        return self._branch(step, self._edits, self.answers, changes | ({} if x is None else {"x": x}))

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
        if self._last is None or self.done < len(self):
            end = "it was cancelled" if self._cancelled else "the sampler ended"
            raise InputError("run", Unquoted(f"{self.done} of {len(self)} steps, then {end}"), "all steps")
        latents = (self._last.x * self.levels.end_scale).float()
        finite = latents.isfinite().all()  # looked at once the decoder is launched: a GPU need not wait here

        def valid() -> None:
            if not finite:
                raise NonFiniteError(
                    f"after {self.done} steps the latents are not finite in {self._receipt['dtype']}; lower "
                    'guidance_scale or the weight of a LoRA, or load the model with dtype="float32"'
                )

        if latents.device.type == "cpu":  # which waits for nothing, and decodes for long
            valid()
        self._receipt |= branch_of(self.answers.request, self._receipt["edits"])
        with torch.no_grad():
            result = self._finish(latents, self._receipt, self._check, valid)
        self._receipt["checks"] += [{"step": index, "x0": checksums(x0)} for index, x0 in self._estimates]
        self._estimates.clear()
        return result

    def _notice_edit(self) -> None:
        """Keep the latents that the caller changed; note in the receipt what it cannot hold."""
        if self._last is None or self._seen is None:
            return
        (x, version), (x0, version_of_x0) = self._seen
        if x0._version != version_of_x0:  # a multistep sampler remembers its estimates
            self._note("step.x0")
        if self._last.x is x and x._version == version:
            return
        step = self._last  # the run goes on from other latents: a branch of what it was
        if getattr(step.x, "shape", None) != x.shape:
            raise InputError("step.x", step.x, f"latents of the same shape, {list(x.shape)}")
        self._seen = ((step.x, step.x._version), (step.x0, step.x0._version))
        if step.x.dtype != torch.float32 or len(self._edits) >= MOST_BRANCHES:
            self._note("step.x")
            return
        latents, count = Latents.of(step.x), step.index + 1
        self._edits[count] = latents
        if (depth := depth_of(self.answers.request, count)) is not None:  # both sides of it have the same LoRAs
            self.answers.loras.insert(depth, self.answers.loras[depth])
            entries = [self._receipt["loras"], *self._receipt["branch_loras"]]
            self._receipt["branch_loras"].insert(depth, entries[depth])
        self.answers.request = with_edit(self.answers.request, count, latents)

    def _note(self, name: str) -> None:
        if name not in self._receipt["edits"]:
            self._receipt["edits"].append(name)
