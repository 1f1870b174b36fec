"""Events of jobs as server-sent events, and waiting for jobs, without a thread for each reader."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from fastapi import Request as HttpRequest
from fastapi.responses import StreamingResponse

from diffuscope.serve.engine import Engine
from diffuscope.serve.events import Event
from diffuscope.serve.http.errors import answer
from diffuscope.serve.job import Job

PAUSE = 15.0
"""Seconds after which a stream without events has a comment, so that nothing between closes it."""

SMALL = 1 << 14
"""Bytes of an array that an event may hold; that of an image of 256x256 pixels has as many."""


class Bell:
    """Wakes one task, from any thread."""

    def __init__(self) -> None:
        self._loop, self._rung = asyncio.get_running_loop(), asyncio.Event()

    def ring(self, *_: object) -> None:
        """Wake the task."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._rung.set)

    async def wait(self, seconds: float = PAUSE) -> bool:
        """Until it was rung since the last time, or for so long: whether it was."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._rung.wait(), seconds)
        rung = self._rung.is_set()
        self._rung.clear()
        return rung


async def events_of(job: Job, after: int = 0) -> AsyncIterator[Event | None]:
    """The events of a job as they happen, to its end; None after each pause."""
    bell = Bell()
    with job.watched(bell.ring):
        while True:
            new = job.after(after)
            for event in new:
                yield event
                after = event.id
            if job.ended and not job.after(after):
                return
            if not await bell.wait():
                yield None


async def finished(http: HttpRequest, job: Job) -> bool:
    """Wait for the end of a job. If its client leaves, the job is cancelled, and this is False."""
    bell, left = Bell(), asyncio.ensure_future(_left(http))
    try:
        with job.watched(bell.ring):
            left.add_done_callback(bell.ring)
            while not job.ended and not left.done():
                await bell.wait()
    finally:
        left.cancel()
        if not job.ended:
            job.cancel()
    return not left.done() or job.state != "cancelled"


async def _left(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def stream(content: AsyncIterator[str]) -> StreamingResponse:
    """A response of server-sent events."""
    return StreamingResponse(content, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def message(data: Mapping[str, Any] | str, event: str | None = None, id: object = None) -> str:
    """One server-sent event."""
    lines = [] if id is None else [f"id: {id}"]
    lines += [] if event is None else [f"event: {event}"]
    lines.append(f"data: {data if isinstance(data, str) else json.dumps(data)}")
    return "\n".join(lines) + "\n\n"


COMMENT = ": \n\n"


def fields_of(event: Event, job: Job | None) -> dict[str, Any]:
    """What an event of a job says, without what it has not."""
    names = ("job", "image", "step", "sigma")
    found = {name: value for name in names if (value := getattr(event, name)) is not None}
    if event.kind == "image":
        found["picture"] = picture_id(event.job, event.image)
    if event.kind == "failed" and job is not None and job.error is not None:
        found["error"] = answer(job.error).message
    return found


def picture_id(job: str, image: int | None) -> str:
    """The id of an image of a job."""
    return f"{job}-{image}"


async def one_job(job: Job, after: int) -> AsyncIterator[str]:
    """The events of a job, to its end."""
    async for event in events_of(job, after):
        if event is None:
            yield COMMENT
        else:
            yield message(fields_of(event, job), event.kind, event.id)


def estimate_of(event: Event, engine: Engine) -> dict[str, Any]:
    """The clean estimate of a step, where it was recorded and is small: float32 in base64."""
    if event.kind != "step" or event.image is None or event.step is None:
        return {}
    array = engine.array(event.job, event.image, event.step, "x0")
    if array is None or array.nbytes > SMALL:
        return {}
    return {"x0": {"shape": list(array.shape), "data": base64.b64encode(array.numpy().tobytes()).decode()}}


async def all_jobs(engine: Engine, owner: str, after: str | None, *, estimates: bool = False) -> AsyncIterator[str]:
    """The events of all jobs of an owner, from now on, or from the one after a position, until the server stops.

    With ``estimates`` those of steps have their clean estimates, if small, so that nobody has to ask for them.

    The first is "ready", or "reset" where some that the reader has not seen are forgotten: it has to ask for the jobs.
    """
    bell, events = Bell(), engine.events
    with events.listening(owner, bell.ring):
        position = events.position(owner) if after is None else after
        new, missing = events.after(owner, position)
        yield message({}, "reset" if missing else "ready", events.position(owner) if missing else position)
        if missing:
            position = events.position(owner)
            new = []
        while new or not events.closed:
            for event in new:
                position = events.at(event.id)
                said = fields_of(event, engine.job(event.job)) | (estimate_of(event, engine) if estimates else {})
                yield message(said, event.kind, position)
            if not events.closed and not await bell.wait():  # it rings once for several causes, closing among them
                yield COMMENT
            new, missing = events.after(owner, position)
            if missing:
                position = events.position(owner)
                yield message({}, "reset", position)
                new = []
