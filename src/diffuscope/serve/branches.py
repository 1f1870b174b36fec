"""Jobs of several images as calls of one image each, and jobs that go on from a step of another job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from diffuscope.errors import InputError, Unquoted
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan
from diffuscope.request import WHOLE_RUN, Branch, Latents, Request


@dataclass(frozen=True)
class Origin:
    """The job from whose step another one goes on."""

    job: str
    step: int
    """How many of its steps are kept."""
    image: int | None = None
    """Its only image that goes on; None is all."""

    def unit(self, index: int) -> tuple[str, int]:
        """The job and image from which image ``index`` goes on."""
        return self.job, index if self.image is None else self.image


def call_of(request: Request) -> Call:
    """A request as a call."""
    if isinstance(request, Call):
        return request
    values: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(request)}
    return Call(**values)


def singles(call: Call, planned: Plan) -> list[Call]:
    """The call of each image."""
    prompts = None if call.prompt is None else planned.per_image(_texts(planned.request.prompt))
    negative = None if call.negative_prompt is None else planned.per_image(planned.negative_prompts)
    branches: Sequence[Branch | None] = [None] * planned.images
    if planned.branch is not None and planned.request.branch is not None:
        x, step = planned.request.branch.x, planned.branch.step
        firsts = enumerate(singles(planned.branch.plan.call, planned.branch.plan))
        branches = [Branch(step, first, None if x is None else x.row(index)) for index, first in firsts]
    return [
        replace(
            call,
            prompt=None if prompts is None else prompts[index],
            negative_prompt=None if negative is None else negative[index],
            seed=planned.seeds[index],
            num_images_per_prompt=1,
            branch=branches[index],
        )
        for index in range(planned.images)
    ]


def branched(
    origin: Origin, parent: Request, planned: Plan, changes: Mapping[str, Any], x: Latents | None = None
) -> Call:
    """The call that goes on from a step of a job.

    Args:
        origin: which step, and of which image.
        parent: the job's request.
        planned: its plan.
        changes: options from there on; all others, and inputs such as an image, are those of the job.
        x: latents in the place of those after these steps.

    Raises:
        InputError: no such image, or a change of what holds for the whole job.
    """
    changes = dict(changes)
    for name in [name for name in WHOLE_RUN if name in changes]:
        got, same = changes.pop(name), (getattr(Request, name), getattr(parent, name), getattr(planned.request, name))
        if got not in same and origin.image is None:
            raise InputError(name, got, f"{same[2]!r}, as in the job that branches")
    is_other = changes.get("sampler", parent.sampler) != parent.sampler
    if is_other and changes.get("sampler_options") == parent.sampler_options:
        del changes["sampler_options"]  # they are those of the job's sampler
    if origin.image is None:
        return replace(call_of(parent), seed=planned.seeds).branched(origin.step, x, **changes)
    if not 0 <= origin.image < planned.images:
        raise InputError("from.image", origin.image, f"a number from 0 to {planned.images - 1}")
    for name in ("prompt", "negative_prompt"):
        if not isinstance(changes.get(name), str | None):
            changes[name] = _of_image(changes[name], planned, origin.image, name)
    return singles(call_of(parent), planned)[origin.image].branched(origin.step, x, **changes)


def _of_image(texts: Sequence[str], planned: Plan, image: int, name: str) -> str:
    if len(texts) not in (1, len(planned.prompts)):
        raise InputError(name, Unquoted(f"{len(texts)} texts"), f"one, or {len(planned.prompts)} as in the job")
    return planned.per_image(texts)[image]


def _texts(texts: object) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)  # type: ignore[arg-type]  # texts or one
