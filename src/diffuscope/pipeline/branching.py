"""A run that goes on from a step of another: its levels, what it may change, and how both become one."""

import base64
from collections.abc import Mapping, Sized
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from diffuscope import counterparts
from diffuscope.errors import InputError, Unquoted
from diffuscope.keywords import check_names
from diffuscope.pipeline.answers import Answers
from diffuscope.pipeline.inputs import Call, checked_latents
from diffuscope.request import WHOLE_RUN, Branch, Latents, Request
from diffuscope.types import Levels

INPUTS = ("image", "mask_image", "latents", "generator")  # of a call; they hold for the whole run
NEAR = 1e-3  # relative distance of two noise levels that are one
R = TypeVar("R", bound=Request)


def first_call(call: Call, branch: Branch) -> Call:
    """The call whose first steps are kept: of the same images, latents and generators."""
    first = branch.request
    while first.branch is not None and first.branch.step > branch.step:  # that branch comes too late to matter
        first = first.branch.request
    missing = {name: getattr(call, name) for name in WHOLE_RUN if getattr(first, name) == getattr(Request, name)}
    if isinstance(first, Call):
        return replace(first, **(missing if first.generator is None else missing | {"seed": None}))
    values: dict[str, Any] = {field.name: getattr(first, field.name) for field in fields(first)}
    return Call(**(values | missing), **{name: getattr(call, name) for name in (*INPUTS, "on_guidance")})


def completed(call: Call, first: Request) -> Call:
    """``call`` with what it leaves open and the first request says; an InputError for another number of prompts."""
    prompts: Sized | str = call.prompt if call.states is None else call.states.embeddings  # type: ignore[assignment]  # one of the two
    rows = 1 if isinstance(prompts, str) else len(prompts)
    if rows != len(first.prompt or ()):
        raise InputError("prompt", Unquoted(f"{rows} prompts"), f"{len(first.prompt or ())}, as before the branch")
    missing = {name: getattr(first, name) for name in WHOLE_RUN if getattr(call, name) == getattr(Request, name)}
    if call.generator is not None:
        missing.pop("seed", None)
    return replace(call, **missing)


def check(request: Request, first: Request) -> None:
    """Refuse a change of what holds for a whole run. Both are filled in."""
    for name in WHOLE_RUN:
        got, want = getattr(request, name), getattr(first, name)
        if got != want:
            got, want = (each[0] if isinstance(each, tuple) and len(each) == 1 else each for each in (got, want))
            raise InputError(name, got, f"{want!r}, as in the request from which it branches")


def joined(branch: Branch, first: Levels, own: Levels) -> Levels:
    """The first run's levels of the steps that are kept, and the own ones below."""
    step, steps = branch.step, len(first.sigmas) - 1
    if step > steps - (branch.x is None):
        raise InputError("branch.step", step, f"a step from 0 to {steps - 1}, since the run has {steps} steps")
    sigmas = following(step, first.sigmas, own.sigmas)
    count = len(sigmas) - step - 1
    if count == 0 and step < steps:
        got = Unquoted(f"none below {first.sigmas[step]:.4g}")
        raise InputError("sigmas", got, f"noise levels below that of step {step}")
    return replace(
        own,
        sigmas=sigmas,
        timesteps=first.timesteps[: step + 1] + own.timesteps[len(own.timesteps) - count :],
        start_scale=first.start_scale,
        end_scale=first.end_scale if step == steps else own.end_scale,
    )


def following(step: int, first: tuple[float, ...], own: tuple[float, ...]) -> tuple[float, ...]:
    """The sigmas of the first ``step`` steps, and the own ones below."""
    now = first[step]
    below = (k for k, sigma in enumerate(own) if sigma < now * (1 - NEAR))
    return first[: step + 1] + own[own.index(now) + 1 if now in own else next(below, len(own)) :]


def decoded(latents: Latents, shape: tuple[int, ...]) -> Tensor:
    """[N,C,h,w] float32 of latents as JSON; an InputError for another shape, or only their hash."""
    if not latents.data:
        raise InputError("branch.x", Unquoted("only the hash of latents"), "the latents themselves")
    array = np.frombuffer(base64.b64decode(latents.data), "<f4").reshape(latents.shape)
    return checked_latents(torch.from_numpy(array.astype(np.float32)), "branch.x", shape)


def with_edit(request: R, step: int, x: Latents) -> R:
    """A request whose run goes on from ``x`` after so many steps."""
    branch = request.branch
    if branch is None or branch.step < step:
        return replace(request, branch=Branch(step, request, x))
    if branch.step == step:
        return replace(request, branch=replace(branch, x=x))
    return replace(request, branch=replace(branch, request=with_edit(branch.request, step, x)))


def depth_of(request: Request, step: int) -> int | None:
    """The number of branches after a step; None where there is one."""
    depth, branch = 0, request.branch
    while branch is not None and branch.step > step:
        depth, branch = depth + 1, branch.request.branch
    return None if branch is not None and branch.step == step else depth


def changed(call: Call, step: int, edits: Mapping[int, Latents], answers: Answers, changes: Mapping[str, Any]) -> Call:
    """The call that goes on from a step of another call's run, as ``Run.branch`` says; a TypeError for unknown changes.

    ``edits`` are the latents that the run's loop put in the place of its own, by the number of steps before.
    """
    given = dict(changes)
    x = given.pop("x", None)
    check_names(Call, "Run.branch", given, counterparts.CALL)
    for name in ("answers", "branch", *INPUTS):
        if name in given:
            raise InputError(name, given[name], "no change of it, since it holds for the whole run")
    first = replace(call, seed=answers.request.seed, generator=None)
    for before in sorted(edits):
        first = with_edit(first, before, edits[before])
    if "prompt" in given or "conditioning" in given:
        given = {"prompt": None, "conditioning": None} | given
    latents = x if x is None or isinstance(x, Latents) else Latents.of(x)
    return first.branched(step, latents, **({"tap": None, "on_guidance": None} | given), answers=answers)
