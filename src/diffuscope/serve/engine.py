"""The engine: jobs in, images out, on one model."""

import copy
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields, replace
from typing import Any

from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan, plan
from diffuscope.request import Request
from diffuscope.serve.batcher import Batcher, SharedTwins
from diffuscope.serve.fair import FairQueue
from diffuscope.serve.feed import Feed
from diffuscope.serve.job import Job


@dataclass(frozen=True, eq=False)
class _Unit:
    """One image of a job."""

    job: Job
    index: int
    call: Call
    cost: float


class Engine:
    """Runs many requests on one model.

    Network calls of images that run at the same time are made together, whatever their samplers, steps and guidance.
    Calls with a tap or a loss call the networks themselves. Every image equals the same request made alone: to
    rounding, or with ``exact`` bit for bit.

    Args:
        pipe: the model. It can still be used directly.
        running: images that run at the same time.
        queue: images that wait; more are refused.
        rows: most rows of a network call.
        exact: share no call, only the queue.
        keep: jobs that have ended and are kept, the last ones.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        running: int = 8,
        queue: int = 256,
        rows: int = 16,
        exact: bool = False,
        keep: int = 64,
    ) -> None:
        for name, value in (("running", running), ("queue", queue), ("rows", rows), ("keep", keep)):
            if value < 1:
                raise InputError(name, value, "at least 1")
        self.batcher = Batcher(rows, alone=exact)
        self.pipe = pipe
        self._shared = copy.copy(pipe)
        self._shared.engine = SharedTwins(pipe.engine, self.batcher)
        self._queue: FairQueue[_Unit] = FairQueue(queue)
        self.feed = Feed()
        """The events of all jobs."""
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._keep = keep
        self._turn = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"diffuscope-run-{i}", daemon=True) for i in range(running)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request | Call, *, owner: str = "", interactive: bool = False, slot: str = "") -> Job:
        """Queue a request; its images are made one by one.

        Args:
            request: options of the call; a Call also holds what JSON cannot, the same for each of its images.
            owner: between owners turns are fair.
            interactive: before work that nobody watches, which still gets a quarter of the turns.
            slot: a name under which only the owner's latest job goes on; the one before is cancelled.

        Raises:
            InputError: the request is not possible with this model.
            BusyError: the queue is full.
        """
        values: dict[str, Any] = {field.name: getattr(request, field.name) for field in fields(request)}
        call = request if isinstance(request, Call) else Call(**values)
        planned = plan(self.pipe.config, self.pipe.schedule, call)
        job = Job(secrets.token_hex(8), request, planned.images, owner, interactive=interactive)
        job.slot, job.plan = slot, planned
        units = [_Unit(job, index, each, _cost(planned)) for index, each in enumerate(_single(call, planned))]
        return self._queued(job, units)

    def submit_calls(
        self, calls: Sequence[Call], *, owner: str = "", interactive: bool = False, keep_states: bool = True
    ) -> Job:
        """Queue several calls as one job: its image k is call k. The images of one call are made together.

        Args:
            calls: at least one; each may have taps and functions of its own.
            owner: between owners turns are fair.
            interactive: before work that nobody watches.
            keep_states: keep the latents and clean estimates of each step.

        Raises:
            InputError: no call, or one that is not possible with this model.
            BusyError: the queue is full.
        """
        if not calls:
            raise InputError("calls", list(calls), "at least one call")
        plans = [plan(self.pipe.config, self.pipe.schedule, call) for call in calls]
        job = Job(secrets.token_hex(8), calls[0], len(calls), owner, interactive=interactive, keeps_states=keep_states)
        units = [
            _Unit(job, index, call, _cost(planned) * planned.images)
            for index, (call, planned) in enumerate(zip(calls, plans, strict=True))
        ]
        return self._queued(job, units)

    def _queued(self, job: Job, units: Sequence["_Unit"]) -> Job:
        job.feed = self.feed
        for older in self.jobs if job.slot else ():
            if (older.owner, older.slot) == (job.owner, job.slot) and older.state in ("queued", "running"):
                older.cancel()
        with self._turn:
            if self._stopping:
                raise InputError("request", job.request.prompt, "an engine that has not been stopped")
            self._queue.check(len(units))
            for unit in units:
                self._queue.put(unit, job.owner, unit.cost, interactive=job.interactive)
            self._jobs[job.id] = job
            self._forget()
            job.tell("queued")
            self._turn.notify_all()
        job.when_cancelled(lambda: self._drop(job, units))
        return job

    def job(self, id: str) -> Job | None:
        """A job by its id, if it is not forgotten."""
        with self._turn:
            return self._jobs.get(id)

    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Images of latents, such as a clean estimate's, in a shared call."""
        return self._shared.decode(latents)

    @property
    def jobs(self) -> list[Job]:
        """All jobs that wait, run, or are kept; the oldest first."""
        with self._turn:
            return list(self._jobs.values())

    @property
    def waiting(self) -> int:
        """Images that wait."""
        with self._turn:
            return len(self._queue)

    @property
    def stopping(self) -> bool:
        """Whether no further job is taken."""
        return self._stopping

    def stop(self, *, drain: bool = True) -> None:
        """End the engine: after all jobs, or at once, cancelling them. No job is taken from here on."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
        if not drain:
            for job in self.jobs:
                job.cancel()
        for thread in self._threads:
            thread.join()
        self.batcher.stop()

    def _work(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: len(self._queue) or self._stopping)
                unit = self._queue.take()
                if unit is None:
                    return
            if unit.job.state not in ("done", "failed", "cancelled"):
                self._run(unit)

    def _run(self, unit: _Unit) -> None:
        job = unit.job
        try:
            run = self.batcher.task(lambda: self._shared.steps(unit.call))
            job.when_cancelled(run.cancel)
            job.tell("started", unit.index)
            with self.batcher:
                for step in run:
                    if job.keeps_states:
                        job.states[unit.index].append((step.x.float().cpu().clone(), step.x0.float().cpu().clone()))
                    job.tell("step", unit.index, step.index, step.sigma)
            if job.cancelling:
                return
            job.results[unit.index] = run.result()
        except Exception as error:
            if not job.cancelling:
                job.error = error
                job.tell("failed")
            return
        job.tell("image", unit.index)
        if all(result is not None for result in job.results):
            job.tell("done")

    def _drop(self, job: Job, units: Sequence[_Unit]) -> None:
        with self._turn:
            for unit in units:
                self._queue.remove(unit)
        if job.state not in ("done", "failed"):
            job.error = CancelledError(f"job {job.id} was cancelled")
            job.tell("cancelled")

    def _forget(self) -> None:
        ended = [job.id for job in self._jobs.values() if job.state in ("done", "failed", "cancelled")]
        for old in ended[: max(0, len(ended) - self._keep)]:
            del self._jobs[old]


def _cost(planned: Plan) -> float:
    """Of one image, in steps times pixels."""
    return float(len(planned.planned_sigmas) * planned.preset.height * planned.preset.width)


def _single(call: Call, planned: Plan) -> list[Call]:
    """The call of each image."""
    prompts = None if call.prompt is None else planned.per_image(_texts(planned.request.prompt))
    negative = None if call.negative_prompt is None else planned.per_image(planned.negative_prompts)
    return [
        replace(
            call,
            prompt=None if prompts is None else prompts[index],
            negative_prompt=None if negative is None else negative[index],
            seed=planned.seeds[index],
            num_images_per_prompt=1,
        )
        for index in range(planned.images)
    ]


def _texts(texts: object) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)  # type: ignore[arg-type]  # texts or one
