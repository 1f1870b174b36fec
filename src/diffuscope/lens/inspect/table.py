"""All inspections by their names."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from diffuscope.errors import InputError, nearest
from diffuscope.fitting import seeds_of
from diffuscope.images import ImageSources
from diffuscope.lens.inspect import attention, change, text
from diffuscope.lens.inspect.base import Inspected, Inspection, Seen
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.inputs import Call
from diffuscope.request import Request
from diffuscope.schema import Options


class Kind(NamedTuple):
    """One kind of inspection."""

    options: type[Options]
    begin: Callable[[Pipeline, Request, Any], Inspection]

    @property
    def help(self) -> str:
        """What its tensors are."""
        return " ".join((self.begin.__doc__ or "").split())


KINDS: Mapping[str, Kind] = {
    "steps": Kind(attention.NoOptions, attention.steps),
    "guidance": Kind(attention.NoOptions, attention.guidance),
    "attention": Kind(attention.NoOptions, attention.cross_attention),
    "self-attention": Kind(attention.NoOptions, attention.self_attention),
    "layers": Kind(attention.NoOptions, text.layers),
    "blend": Kind(text.Blend, text.blend),
    "ablation": Kind(change.Switch, change.ablation),
    "ablation-map": Kind(change.Map, change.ablation_map),
    "prompt-to-prompt": Kind(attention.Edit, attention.prompt_to_prompt),
    "colour": Kind(change.Colour, change.colour),
}


def begin(
    pipe: Pipeline, kind: str, request: Request, options: Options | Mapping[str, Any] | None = None
) -> tuple[Inspection, Request]:
    """An inspection, ready to run, and its request with the seed that all its calls share.

    Args:
        pipe: the model.
        kind: a name of ``KINDS``.
        request: of one image; a Call also has the image and mask of img2img and inpainting.
        options: of the kind.

    Raises:
        InputError: no such kind, an option that it does not have, or a call that is not possible with this model.
    """
    if kind not in KINDS:
        raise InputError("kind", kind, f"one of {', '.join(KINDS)}", nearest(kind, KINDS))
    given = KINDS[kind].options.from_dict(options or {}) if not isinstance(options, Options) else options
    seed = request.seed if isinstance(request.seed, int) else seeds_of(request.seed, 1)[0]
    seeded = replace(request, seed=seed)
    return KINDS[kind].begin(pipe, seeded, given), seeded


def inspect(
    pipe: Pipeline,
    kind: str,
    prompt: str | Request,
    *,
    options: Mapping[str, Any] | None = None,
    image: ImageSources | None = None,
    mask_image: ImageSources | None = None,
    **call: Any,
) -> Inspected:
    """Make an experiment with one call, and return its tensors.

    Args:
        pipe: the model.
        kind: a name of ``KINDS``.
        prompt: one text, or a Request.
        options: of the kind.
        image: of img2img and inpainting: one image.
        mask_image: of inpainting; the masked area is white.
        call: further options of ``pipe(...)`` that fit into JSON.

    Raises:
        InputError: no such kind, an option that it does not have, or a call that is not possible with this model.
    """
    request = replace(prompt, **call) if isinstance(prompt, Request) else Request(prompt, **call)
    whole = Call(**vars(request), image=image, mask_image=mask_image)
    inspection, seeded = begin(pipe, kind, whole, options)
    seen = []
    for each in inspection.calls:
        run = pipe.steps(each)
        states = [(step.x.float().cpu().clone(), step.x0.float().cpu().clone()) for step in run]
        seen.append(Seen(states if inspection.keeps_states else (), run.result()))
    return Inspected(inspection.gather(seen), about_of(kind, seeded, inspection))


def about_of(kind: str, request: Request, inspection: Inspection) -> dict[str, Any]:
    """What is written beside the tensors: the kind, the request, the labels of the axes."""
    return {"kind": kind, "request": request.to_dict(), **inspection.describe()}
