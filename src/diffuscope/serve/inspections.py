"""Inspections as jobs of an engine, and their tensors while they run and after."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from diffuscope.lens.inspect import Inspected, Inspection, Seen, about_of, begin
from diffuscope.request import Request
from diffuscope.serve.engine import Engine
from diffuscope.serve.job import Job

KEPT = 24
"""Inspections whose taps are kept; each holds some megabytes at most."""


class Inspections:
    """What has been inspected on an engine, by the ids of its jobs.

    Args:
        engine: runs their calls, beside other jobs.
        keep: how many are kept, the last ones.
    """

    def __init__(self, engine: Engine, keep: int = KEPT) -> None:
        self.engine, self.keep = engine, keep
        self._known: OrderedDict[str, tuple[Job, str, Request, Inspection]] = OrderedDict()
        self._lock = threading.Lock()

    def submit(
        self,
        kind: str,
        request: Request,
        options: Mapping[str, Any],
        *,
        owner: str = "",
        interactive: bool = True,
    ) -> Job:
        """Queue an inspection; the networks that its beginning needs run between the calls of other jobs.

        Raises:
            InputError: no such kind, an option that it does not have, or a call that is not possible with this model.
            BusyError: the queue is full.
        """
        engine = self.engine
        inspection, seeded = engine.batcher.task(lambda: begin(engine.pipe, kind, request, options))
        job = engine.submit_calls(
            inspection.calls, label=kind, owner=owner, interactive=interactive, keep_states=inspection.keeps_states
        )
        with self._lock:
            self._known[job.id] = job, kind, seeded, inspection
            while len(self._known) > self.keep:
                self._known.popitem(last=False)
        return job

    def kind(self, job: str) -> str | None:
        """Of which kind a job's inspection is; None where there is none."""
        with self._lock:
            known = self._known.get(job)
        return None if known is None else known[1]

    def found(self, job: str) -> Inspected | None:
        """The tensors so far; None where there is no inspection of that id."""
        with self._lock:
            known = self._known.get(job)
        if known is None:
            return None
        running, kind, request, inspection = known
        states = [list(each) for each in running.states]
        seen = [Seen(own, result) for own, result in zip(states, list(running.results), strict=True)]
        return Inspected(inspection.gather(seen), about_of(kind, request, inspection))
