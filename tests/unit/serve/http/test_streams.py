"""What a stream says, and when."""

import asyncio
import base64
import json
import re

import numpy as np

from diffuscope.request import Request
from diffuscope.serve import Engine
from diffuscope.serve.events import Event
from diffuscope.serve.http import streams
from diffuscope.serve.job import Job
from served import awaited


class Racing(Job):
    """Its first event happens just before the reader looks; it rings for one that is already read."""

    def after(self, id: int) -> list[Event]:
        if not self.steps[0]:
            self.tell("step", 0, 0)
            asyncio.get_running_loop().call_later(0.05, self.tell, "done")
        return super().after(id)


def test_a_comment_comes_only_after_a_pause():
    async def whole(job: Job) -> list[str]:
        return [each async for each in streams.one_job(job, 0)]

    said = awaited(whole(Racing(Request("a fox"), None, 1)))
    assert [each.splitlines()[1:2] for each in said] == [["event: step"], ["event: done"]]


def test_a_stream_that_pauses_has_comments(monkeypatch):
    async def first(job: Job) -> str:
        async for each in streams.one_job(job, 0):
            return each
        return ""

    monkeypatch.setattr(streams.Bell.wait, "__defaults__", (0.01,))
    assert awaited(first(Job(Request("a fox"), None, 1))) == streams.COMMENT


def test_a_stream_ends_where_an_event_and_the_end_ring_once(tiny, monkeypatch):
    engine = Engine(tiny, running=1)

    def last() -> None:
        engine.events.tell("me", "1", Event(1, "cancelled"))
        engine.events.close()

    async def whole() -> list[str]:
        said = []
        async for each in streams.all_jobs(engine, "me", None):
            if not said:
                asyncio.get_running_loop().call_soon(last)
            said.append(each)
        return said

    monkeypatch.setattr(streams.Bell.wait, "__defaults__", (1.0,))
    said = awaited(whole())
    engine.stop()
    assert [each.splitlines()[1:2] for each in said] == [["event: ready"], ["event: cancelled"]]


def test_a_step_has_its_clean_estimate_for_whom_asks(tiny):
    engine = Engine(tiny, running=1)

    async def whole(*, estimates: bool) -> list[dict]:
        said = []
        async for each in streams.all_jobs(engine, "me", None, estimates=estimates):
            kind, data = re.search(r"event: (\w+)\ndata: (.*)", each).groups()
            if kind == "ready":
                engine.submit(Request("a fox", upscale=1), owner="me", record=["x0"])
            said += [json.loads(data)] if kind == "step" else []
            if kind == "done":
                break
        return said

    bare, full = awaited(whole(estimates=False)), awaited(whole(estimates=True))
    engine.stop()
    assert len(bare) == len(full) > 1
    assert not any("x0" in each for each in bare)
    for each in full:
        values = np.frombuffer(base64.b64decode(each["x0"]["data"]), "<f4").reshape(each["x0"]["shape"])
        assert np.array_equal(values, engine.array(each["job"], each["image"], each["step"], "x0"))
