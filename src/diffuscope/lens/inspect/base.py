"""What all inspections have: the calls that they make, and a file of tensors as outcome."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from diffuscope.diffusion.samplers import network_calls
from diffuscope.errors import InputError
from diffuscope.output import replacing
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import plan
from diffuscope.pipeline.result import Result
from diffuscope.request import Request
from diffuscope.types import Brief


class Seen(NamedTuple):
    """What is known of one call so far."""

    states: Sequence[tuple[Tensor, Tensor]]
    """Latents and clean estimates after each step, [N,C,h,w] each."""
    result: Result | None


@dataclass(frozen=True)
class Inspection:
    """An experiment that can be run: by ``inspect``, or by an Engine with other jobs."""

    calls: Sequence[Call]
    gather: Callable[[Sequence[Seen]], dict[str, Tensor]]
    """The tensors of what is known of each call, also while they run."""
    describe: Callable[[], dict[str, Any]] = dict
    """Labels of the tensors' axes; complete once the first call has begun."""
    keeps_states: bool = False
    """Whether ``gather`` reads the states of the steps."""


@dataclass(frozen=True, repr=False)
class Inspected(Brief):
    """The outcome: named tensors, and the labels of their axes."""

    tensors: Mapping[str, Tensor] = field(repr=False)
    about: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        """A tensor by its name.

        Raises:
            InputError: there is none.
        """
        if name not in self.tensors:
            raise InputError("name", name, f"one of {', '.join(self.tensors)}")
        return self.tensors[name]

    def to_bytes(self) -> bytes:
        """A safetensors file; ``about`` is JSON in its metadata, under "diffuscope"."""
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        return save(tensors, {"diffuscope": json.dumps(self.about, ensure_ascii=False)})

    def save(self, path: str | Path) -> None:
        """Write ``to_bytes`` to a file, which appears whole or not at all."""
        with replacing(Path(path)) as part:
            part.write_bytes(self.to_bytes())


def one_text(request: Request) -> str:
    """The prompt of a request that is inspected.

    Raises:
        InputError: none, or several.
    """
    prompt = request.prompt
    if not isinstance(prompt, str):
        if prompt is None or len(prompt) != 1:
            raise InputError("prompt", prompt, "one text")
        return prompt[0]
    return prompt


def call_of(request: Request, **inputs: Any) -> Call:
    """A call of one image with the options and pictures of a request, not upscaled, and further inputs."""
    values = {each.name: getattr(request, each.name) for each in fields(request)}
    return Call(**values | {"num_images_per_prompt": 1, "upscale": 1} | inputs)


def calls_per_step(pipe: Pipeline, call: Call) -> list[int]:
    """How many network calls each step of a call makes; none for the steps that a branch keeps of another run."""
    planned = plan(pipe.config, pipe.schedule, call)
    counts = network_calls(planned.sampler.function, planned.planned_sigmas, **planned.preset.sampler_options)
    kept = 0 if call.branch is None else call.branch.step
    return [0 if step < kept else count for step, count in enumerate(counts[: len(planned.levels.sigmas) - 1])]


def pictures(seen: Sequence[Seen]) -> dict[str, Tensor]:
    """``pictures`` uint8 [n,H,W,3], one of each image of each call, and ``done`` uint8 [n]; zeros where none is yet."""
    found: list[Tensor | None] = []
    for each in seen:
        images = [None] if each.result is None else each.result.images
        found += [None if image is None else torch.from_numpy(np.asarray(image).copy()) for image in images]
    some = next((picture for picture in found if picture is not None), None)
    if some is None:
        return {"done": torch.zeros(len(found), dtype=torch.uint8)}
    empty = torch.zeros_like(some)
    return {
        "pictures": torch.stack([empty if picture is None else picture for picture in found]),
        "done": torch.tensor([picture is not None for picture in found], dtype=torch.uint8),
    }
