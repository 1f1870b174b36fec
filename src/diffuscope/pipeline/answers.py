"""What the Denoiser of a run answered, call by call: the steps of a run that is branched need no network again."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from torch import Tensor

from diffuscope.adapters.merging import Loras
from diffuscope.errors import InputError
from diffuscope.request import Request
from diffuscope.types import Denoiser, Step

BUDGET = 64 << 20  # bytes of the answers that a run keeps: 1,000 of SD 1.5 at 512x512, 250 of SDXL at 1024x1024


class Answer(NamedTuple):
    """One call."""

    sigma: float
    x0: Tensor  # [B,C,H,W] the clean estimate that the sampler got


class Answers:
    """The answers of a run's Denoiser, in the order of the calls, and the number of the step that makes them.

    A sampler is a function of these answers and of its noise. So one that gets them again makes the same steps, bit for
    bit, whatever its order, its number of calls and its history.

    Attributes:
        request: of the run, with nothing left open.
        loras: of the run, and of those from which it branches.
        notes: of the run's receipt.
        step: index of the step that is computed now.
        budget: bytes that may be kept; what comes later is not, and is computed again.
        size: bytes that are kept.
    """

    def __init__(self, request: Request, loras: list[Loras], notes: list[str], budget: int = BUDGET) -> None:
        self.request, self.loras, self.notes = request, loras, notes
        self.step = 0
        self.budget = budget
        self._steps: list[list[Answer]] = []
        self.size = 0
        self._end = sys.maxsize  # the first step whose answers are not all kept

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, step: int) -> tuple[Answer, ...]:
        """The answers in a step: one for each call of the network."""
        return tuple(self._steps[step])

    @property
    def complete(self) -> int:
        """How many steps have all their answers here."""
        return min(self.step, len(self._steps), self._end)

    def counted(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The steps; while one is computed, ``step`` is its index."""
        for step in steps:
            if not isinstance(step, Step):
                raise InputError("sampler", step, "a generator of a Step for each interval of the noise levels")
            self.step = step.index + 1
            yield step

    def recorded(self, denoise: Denoiser) -> Denoiser:
        """The same Denoiser, whose answers are kept."""

        def call(x: Tensor, sigma: float) -> Tensor:
            x0 = denoise(x, sigma)
            self._keep(sigma, x0)
            return x0

        return call

    def replayed(self, denoise: Denoiser, steps: int, now: "Answers") -> Denoiser:
        """``denoise``, but in the first ``steps`` steps (at most ``complete``) what was recorded; ``now`` counts."""
        left = [iter(answers) for answers in self._steps[:steps]]

        def call(x: Tensor, sigma: float) -> Tensor:
            if now.step >= steps:
                return denoise(x, sigma)
            answer = next(left[now.step])
            assert answer.sigma == sigma  # the same sampler with the same levels
            return answer.x0.to(x.device, copy=True)

        return call

    def covers(self, request: Request, steps: int) -> bool:
        """Whether the first ``steps`` steps of a request are the first ones here: it is this one, or its beginning.

        How many images are computed at once does not matter: what was answered was answered.
        """
        own, request = _unbatched(self.request), _unbatched(request)
        while own != request:
            if own.branch is None or own.branch.step < steps:
                return False
            own = own.branch.request
        return True

    def to_cpu(self) -> None:
        """Move what is kept into the machine's memory."""
        self._steps = [[Answer(sigma, x0.cpu()) for sigma, x0 in step] for step in self._steps]

    def _keep(self, sigma: float, x0: Tensor) -> None:
        size = x0.numel() * x0.element_size()
        if self.size + size > self.budget or self.step > self._end:
            self._end = min(self._end, self.step)
            return
        self.size += size
        while len(self._steps) <= self.step:
            self._steps.append([])
        self._steps[self.step].append(Answer(sigma, x0.detach().clone()))


def _unbatched(request: Request) -> Request:
    """A request without ``batch_size``, which memory may have chosen."""
    branch = request.branch
    branch = None if branch is None else replace(branch, request=_unbatched(branch.request))
    return replace(request, batch_size=None, branch=branch)
