"""Our own interface, ``/api/v1``: jobs, their events, and what is served."""

import asyncio
import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from annotated_types import Ge, Interval
from fastapi import APIRouter, Header
from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from diffuscope.errors import InputError, Unquoted
from diffuscope.pipeline.inputs import Call
from diffuscope.request import Latents, Request
from diffuscope.schema import Group, Options
from diffuscope.serve.branches import Origin
from diffuscope.serve.engine import Engine
from diffuscope.serve.http import streams
from diffuscope.serve.http.bodies import described, in_decoder, options_of
from diffuscope.serve.http.callers import owner_of
from diffuscope.serve.http.errors import NotFoundError, answer
from diffuscope.serve.http.limits import LIMITS
from diffuscope.serve.http.pictures import INPUTS, Pictures
from diffuscope.serve.job import Job
from diffuscope.serve.record import Kept

KEYS = 1024
"""Idempotency keys that are remembered."""


@dataclass(frozen=True, kw_only=True)
class From(Options):
    """A step of another job."""

    job: str
    """its id"""
    step: Annotated[int, Interval(ge=0, le=1000)]
    """how many of its steps are kept"""
    image: Annotated[int, Ge(0)] | None = None
    """which of its images goes on; all by default"""
    x: Latents | None = None
    """latents in the place of those after these steps"""


@dataclass(frozen=True, kw_only=True)
class Submission(Options):
    """A job: a request, its pictures, and how it is run."""

    request: Annotated[Request, Group("job")] = field(default_factory=Request)
    """options of the call"""
    image: str | None = None
    """id of a picture, for img2img and inpainting"""
    mask_image: str | None = None
    """id of a picture, for inpainting; the masked area is white"""
    interactive: bool = False
    """before jobs that nobody watches"""
    slot: str = ""
    """an older job of this caller in the same slot is cancelled: the latest wins"""
    record: Sequence[Kept] = ("x", "x0", "cond", "uncond")
    """arrays of each step that are kept"""
    from_: From | None = None
    """go on from a step of another job; ``request`` has what changes there, all else is the job's"""

    def __post_init__(self) -> None:
        super().__post_init__()
        LIMITS.check(self.request)
        if len(self.slot) > 200:
            raise InputError("slot", Unquoted(f"{len(self.slot)} characters"), "at most 200")
        for name in ("image", "mask_image"):
            if self.from_ is not None and getattr(self, name) is not None:
                raise InputError(name, getattr(self, name), "none, since a branch has that of its job")
        if self.from_ is not None and self.request.branch is not None:
            raise InputError("request.branch", self.request.branch, "none with from")

    def call(self, pictures: Pictures) -> Call:
        """The call, with its pictures decoded.

        Raises:
            InputError: there is no such picture.
        """
        values: dict[str, Any] = {each.name: getattr(self.request, each.name) for each in fields(Request)}
        return Call(**values | pictures.inputs(self.image, self.mask_image))

    def how(self, owner: str) -> dict[str, Any]:
        """How it is run: keywords of ``Engine.submit``."""
        names = ("interactive", "slot", "record")
        return {"owner": owner} | {name: getattr(self, name) for name in names}

    def branch(self, engine: Engine, origin: From, changes: Mapping[str, Any], owner: str) -> Job:
        """The job that goes on from a step of another one.

        Raises:
            NotFoundError: there is no such job.
            InputError: there is no such step or image, or a change of what holds for the whole job.
        """
        find(engine, origin.job)
        return engine.branch(Origin(origin.job, origin.step, origin.image), changes, x=origin.x, **self.how(owner))


def add_jobs(routes: APIRouter, engine: Engine, pictures: Pictures) -> None:
    """Add the routes of jobs and their events."""
    known = _Keys()

    @routes.post("/jobs", status_code=202, openapi_extra=described(Submission))
    async def submit(http: HttpRequest, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, Any]:
        """Queue a job. With the header Idempotency-Key the same body is queued once, however often it is sent."""
        owner, body = owner_of(http, "native"), await http.body()
        key = known.of(owner, idempotency_key, body)
        async with key.lock:
            if key.job is not None and (old := engine.job(key.job)) is not None:
                return _described(old)
            submission = await options_of(http, Submission)
            if submission.from_ is None:
                call = await in_decoder(submission.call, pictures)
                job = await run_in_threadpool(engine.submit, call, **submission.how(owner))
            else:
                changes = {name: getattr(submission.request, name) for name in json.loads(body).get("request", ())}
                job = await run_in_threadpool(submission.branch, engine, submission.from_, changes, owner)
            key.job = job.id
            return _described(job)

    @routes.get("/jobs")
    def jobs(http: HttpRequest) -> list[dict[str, Any]]:
        """The caller's jobs that wait, run, or are kept; the oldest first."""
        owner = owner_of(http, "native")
        return [_described(job) for job in engine.jobs if job.owner == owner]

    @routes.get("/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """One job, with the receipts of the images that are done."""
        return _described(find(engine, job), receipts_too=True)

    @routes.delete("/jobs/{job}")
    def cancel(job: str) -> dict[str, Any]:
        """Cancel a job: at once if it waits, at its next network call if it runs."""
        found = find(engine, job)
        found.cancel()
        return _described(found)

    @routes.get("/jobs/{job}/events")
    async def events_of_job(job: str, last_event_id: Annotated[int, Header(ge=0)] = 0) -> StreamingResponse:
        """Server-sent events of a job, from the one after Last-Event-ID, to its end."""
        return streams.stream(streams.one_job(find(engine, job), last_event_id))

    @routes.get("/events")
    async def events(
        http: HttpRequest,
        last_event_id: Annotated[str | None, Header()] = None,
        after: str | None = None,
        estimates: bool = False,
    ) -> StreamingResponse:
        """Server-sent events of all jobs of the caller, from now on, or from the one after Last-Event-ID.

        With ``estimates`` those of steps have their clean estimates, if small, as float32 in base64.
        """
        position = last_event_id if after is None else after
        return streams.stream(streams.all_jobs(engine, owner_of(http, "native"), position, estimates=estimates))


class _Key:
    """A request that may be sent again."""

    def __init__(self, digest: bytes) -> None:
        self.digest, self.lock = digest, asyncio.Lock()
        self.job: str | None = None


class _Keys:
    """Idempotency keys and the jobs that they have made."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], _Key] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, owner: str, name: str | None, body: bytes) -> _Key:
        digest = hashlib.sha256(body).digest()
        if name is None:
            return _Key(digest)
        if not 0 < len(name) <= 200:
            raise InputError("Idempotency-Key", name, "at most 200 characters")
        with self._lock:
            key = self._known.setdefault((owner, name), _Key(digest))
            while len(self._known) > KEYS:
                self._known.popitem(last=False)
        if key.digest != digest:
            raise InputError("Idempotency-Key", name, "a new key for another body")
        return key


def _described(job: Job, *, receipts_too: bool = False) -> dict[str, Any]:
    made = [result is not None for result in job.results]
    described: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "images": len(made),
        "done": sum(made),
        "pictures": [streams.picture_id(job.id, image) if done else None for image, done in enumerate(made)],
        "request": job.request.to_dict(),
        "slot": job.slot,
        "label": job.label,
        **{name: f"{job.id}-{name}" for name in INPUTS if getattr(job.request, name, None) is not None},
        "from": None if job.origin is None else vars(job.origin),
        "steps": list(job.steps),
        "seconds": job.seconds,
    }
    if job.plan is not None:
        described |= {"sigmas": job.plan.levels.sigmas, "seeds": job.plan.seeds}
    if job.state == "failed" and job.error is not None:
        described["error"] = answer(job.error).message
    described["notes"] = [*dict.fromkeys(note for result in job.results if result for note in result.notes)]
    if receipts_too:
        described["receipts"] = [None if result is None else dict(result.receipt) for result in job.results]
    return described


def find(engine: Engine, name: str) -> Job:
    """A job by its id.

    Raises:
        NotFoundError: there is none.
    """
    job = engine.job(name)
    if job is None:
        raise NotFoundError("no job of that id; it may be forgotten")
    return job
