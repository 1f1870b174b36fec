"""The engine: jobs in, images out, on one model."""

import atexit
import copy
import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from PIL import Image
from torch import Tensor

from diffuscope.errors import InputError, StoppingError, TimeLimitError
from diffuscope.perf import memory
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline.answers import Answers
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.plan import Plan, plan
from diffuscope.request import Latents, Request
from diffuscope.serve.batcher import Batcher
from diffuscope.serve.beside import beside
from diffuscope.serve.branches import Origin, branched, call_of, singles
from diffuscope.serve.events import Events
from diffuscope.serve.fair import FairQueue, Lane
from diffuscope.serve.job import Job
from diffuscope.serve.record import Kept, Recorder
from diffuscope.serve.shared_twins import SharedTwins
from diffuscope.serve.store import Store


@dataclass(frozen=True, eq=False)
class _Unit:
    """One image of a job."""

    job: Job
    index: int
    call: Call
    recorder: Recorder
    origin: tuple[str, int] | None
    """The job and image from which it goes on."""


@dataclass(frozen=True)
class Limits:
    """What an Engine takes and keeps, beside the numbers of images that run and wait."""

    per_owner: int | None = None
    """images of one owner that wait; None is the whole queue"""
    seconds: float = math.inf
    """time that a job may take from its first step on"""
    jobs: int = 64
    """jobs that have ended and are kept, the last ones"""
    results: int = 1 << 30
    """bytes of the images of jobs that have ended; the last one is kept in any case"""
    arrays: int = 1 << 28
    """bytes of the arrays of steps"""
    answers: int = 1 << 28
    """bytes of what branches of jobs need not compute again"""


class Engine:
    """Runs many requests on one model.

    Network calls of images that run at the same time are made together, whatever their samplers, steps and guidance.
    Calls with a tap or a loss call the networks themselves. Every image equals the same request made alone: to
    rounding, or with ``exact`` bit for bit.

    Args:
        pipe: the model. It can still be used directly.
        running: images that run at the same time. Of four or more a quarter more may run, for owners who have none
            running: so that one image need not wait until one of a large job has ended.
        queue: images that wait; more are refused.
        rows: most rows of a network call.
        exact: share no call, only the queue.
        limits: further limits.

    Attributes:
        events: of all jobs, by owner.
        arrays, answers: what is kept of steps, and for branches.
    """

    def __init__(
        self,
        pipe: Pipeline,
        *,
        running: int = 8,
        queue: int = 256,
        rows: int = 16,
        exact: bool = False,
        limits: Limits | None = None,
    ) -> None:
        limits = Limits() if limits is None else limits
        for name, value in (("running", running), ("queue", queue), ("rows", rows), ("limits.jobs", limits.jobs)):
            if value < 1:
                raise InputError(name, value, "at least 1")
        self.batcher = Batcher(rows, alone=exact)
        self.pipe, self.limits, self.events = pipe, limits, Events()
        self._shared = copy.copy(pipe)
        self._shared.engine = SharedTwins(pipe.engine, self.batcher)
        self._queue: FairQueue[_Unit] = FairQueue(queue, limits.per_owner)
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._slots: dict[tuple[str, str], Job] = {}
        self.arrays: Store[Tensor] = Store(limits.arrays)
        self.answers: Store[Answers] = Store(limits.answers)
        self._turn, self._stopping = threading.Condition(), False
        self._running, self._busy = running, Counter[Lane]()
        self._threads = [
            threading.Thread(target=self._work, name=f"diffuscope-run-{i}", daemon=True)
            for i in range(running + running // 4)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.stop, drain=False)  # a thread that Python cuts off within torch aborts the process

    def submit(
        self,
        request: Request | Call,
        *,
        owner: str = "",
        interactive: bool = False,
        slot: str = "",
        record: Collection[Kept] = (),
        origin: Origin | None = None,
    ) -> Job:
        """Queue a request; its images are made one by one.

        Args:
            request: options of the call; a Call also holds what JSON cannot, the same for each of its images.
            owner: between owners turns are fair.
            interactive: before work that nobody watches, which still gets a quarter of the turns.
            slot: an older job of the owner in the same slot is cancelled: the latest wins.
            record: what ``array`` returns of each step; where this is anything, branches of the job are faster too.
            origin: the job that the request's ``branch`` names: what it recorded is not computed again.

        Raises:
            InputError: the request is not possible with this model.
            BusyError: the queue is full.
            StoppingError: no further job is taken.
        """
        call = call_of(request)
        planned = plan(self.pipe.config, self.pipe.schedule, call)
        job = Job(request, planned, planned.images, owner, interactive=interactive, slot=slot)
        job.origin = origin
        return self._queued(job, singles(call, planned), _cost(planned), record)

    def branch(
        self,
        origin: Origin,
        changes: Mapping[str, Any],
        *,
        x: Latents | None = None,
        owner: str = "",
        interactive: bool = False,
        slot: str = "",
        record: Collection[Kept] = (),
    ) -> Job:
        """Queue a job that goes on from a step of another one, with something changed.

        Args:
            origin: the other job, which step, and which of its images.
            changes: options of a Request, from there on.
            x: latents in the place of those after that step.
            owner: as in ``submit``.
            interactive: likewise.
            slot: likewise.
            record: likewise.

        Raises:
            InputError: there is no such job or step, or a change of what holds for a whole run.
            BusyError: the queue is full.
            StoppingError: no further job is taken.
        """
        job = self.job(origin.job)
        if job is None or job.plan is None:
            raise InputError("from.job", origin.job, "a job of one request that is not forgotten")
        call = branched(origin, job.request, job.plan, changes, x)
        return self.submit(call, owner=owner, interactive=interactive, slot=slot, record=record, origin=origin)

    def submit_calls(
        self,
        calls: Sequence[Call],
        *,
        label: str = "",
        owner: str = "",
        interactive: bool = False,
        keep_states: bool = True,
    ) -> Job:
        """Queue several calls as one job: its image k is call k. The images of one call are made together.

        Args:
            calls: at least one; each may have taps and functions of its own.
            label: what the job is, for whoever lists jobs.
            owner: between owners turns are fair.
            interactive: before work that nobody watches.
            keep_states: keep the latents and clean estimates of each step in the job.

        Raises:
            InputError: no call, or one that is not possible with this model.
            BusyError: the queue is full.
            StoppingError: no further job is taken.
        """
        if not calls:
            raise InputError("calls", list(calls), "at least one call")
        plans = [plan(self.pipe.config, self.pipe.schedule, call) for call in calls]
        job = Job(calls[0], None, len(calls), owner, interactive=interactive)
        job.keeps_states, job.label = keep_states, label
        return self._queued(job, calls, max(_cost(planned) * planned.images for planned in plans), ())

    def _queued(self, job: Job, calls: Sequence[Call], cost: float, record: Collection[Kept]) -> Job:
        origins = [None if job.origin is None else job.origin.unit(index) for index in range(len(calls))]
        units = [
            _Unit(job, index, call, Recorder(self.arrays, job.id, index, record), origins[index])
            for index, call in enumerate(calls)
        ]
        job.watch(lambda event: self.events.tell(job.owner, job.id, event))
        with self._turn:
            if self._stopping:
                raise StoppingError("the engine is stopping and takes no further job")
            older = self._slots.get((job.owner, job.slot))
            replaced = self._queue.count(lambda unit: unit.job is older)
            self._queue.check(len(units) - replaced, job.owner)
            for unit in units:
                self._queue.put(unit, job.owner, cost, interactive=job.interactive)
            self._jobs[job.id] = job
            self._take_slot(job)
            self._forget()
            job.tell("queued")
            self._turn.notify_all()
        job.when_cancelled(lambda: self._drop(job, units))
        if older is not None:
            older.cancel()
        return job

    def _take_slot(self, job: Job) -> None:
        """Let a job that was taken have its slot, and forget those of jobs that have ended."""
        for key in [key for key, old in self._slots.items() if old.ended]:
            del self._slots[key]
        if job.slot:
            self._slots[job.owner, job.slot] = job

    def array(self, job: str, image: int, step: int, kind: Kept) -> Tensor | None:
        """What a step of a job's image had, [C,h,w] float32, if it was recorded and is still kept."""
        return self.arrays.get((job, image, step, kind))

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
    def queue_limit(self) -> int:
        """Images that may wait."""
        return self._queue.limit

    @property
    def stopping(self) -> bool:
        """Whether no further job is taken."""
        return self._stopping

    def refuse(self) -> None:
        """Take no further job from here on."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    def drain(self, seconds: float | None = None) -> bool:
        """Take no further job, and wait until all have ended; whether they have, after so many seconds."""
        end = None if seconds is None else monotonic() + seconds
        self.refuse()
        for job in self.jobs:
            try:
                job.result(None if end is None else max(0.0, end - monotonic()))
            except TimeoutError:
                return False
            except (Exception, CancelledError):
                continue
        return True

    def stop(self, *, drain: bool = True) -> None:
        """End the engine: after all jobs, or at once, cancelling them. No job is taken from here on."""
        self.refuse()
        atexit.unregister(self.stop)
        for job in () if drain else self.jobs:
            job.cancel()
        for thread in self._threads:
            thread.join()
        self.batcher.stop()
        self.events.close()

    def _work(self) -> None:
        while True:
            with self._turn:
                while (unit := self._queue.take(self._has_room)) is None:
                    if self._stopping and not len(self._queue):
                        return
                    self._turn.wait()
                lane = Lane(unit.job.owner, unit.job.interactive)
                self._busy[lane] += 1
            if not unit.job.ended:
                with self.batcher.lane(lane):
                    self._run(unit)
                memory.trim()
            with self._turn:
                self._busy[lane] -= 1
                self._busy += Counter()  # forgets lanes without a run
                self._turn.notify_all()

    def _has_room(self, lane: Lane) -> bool:
        return self._busy.total() < self._running or not self._busy[lane]

    def _run(self, unit: _Unit) -> None:
        job, recorder = unit.job, unit.recorder
        call = replace(unit.call, on_guidance=recorder.guidance) if recorder.sees_guidance else unit.call
        if unit.origin is not None and call.branch is not None:
            recorder.inherit(unit.origin, call.branch.step)
            call = replace(call, answers=self.answers.get(unit.origin))
        end = monotonic() + self.limits.seconds
        try:
            with ExitStack() as after, self.batcher:  # from its beginning on, so that calls wait for it
                run = self.batcher.task(lambda: self._shared.steps(call))
                if recorder.keeps:
                    self.answers.put((job.id, unit.index), run.answers, 0)
                    after.callback(self._keep, unit, run.answers)  # a run that was stopped can be branched too
                job.when_cancelled(run.cancel)
                job.tell("started", unit.index)
                for step in run:
                    recorder.step(step)
                    if job.keeps_states:
                        job.keep(unit.index, step)
                    job.tell("step", unit.index, step.index, step.sigma)
                    if monotonic() > end:
                        raise TimeLimitError(f"an image takes longer than {self.limits.seconds:g} s; use fewer steps")
            if job.cancelling:
                return
            with nullcontext() if self._shared.engine.offload.device else beside(self.pipe.device):
                result = run.result()
            if job.cancelling:  # meanwhile: what has ended does not change
                return
            job.results[unit.index] = result
        except Exception as error:
            if not job.cancelling:
                job.error = error
                job.tell("failed")
            return
        job.tell("image", unit.index)
        if all(result is not None for result in job.results):
            job.tell("done")

    def _keep(self, unit: _Unit, answers: Answers) -> None:
        """Keep what a run has computed, when it runs no more and no call waits for it."""
        with beside(self.pipe.device):
            answers.to_cpu()
        self.answers.put((unit.job.id, unit.index), answers, answers.size)

    def _drop(self, job: Job, units: Sequence[_Unit]) -> None:
        with self._turn:
            for unit in units:
                self._queue.remove(unit)
        if not job.ended:
            job.error = CancelledError(f"job {job.id} was cancelled")
            job.tell("cancelled")

    def _forget(self) -> None:
        """Drop old jobs beyond the limits."""
        ended = [job for job in reversed(self._jobs.values()) if job.ended]
        size = 0
        for count, job in enumerate(ended):
            size += job.size
            if count >= self.limits.jobs or (count and size > self.limits.results):
                del self._jobs[job.id]


def _cost(planned: Plan) -> float:
    """Of one image."""
    return float(len(planned.planned_sigmas) * planned.preset.height * planned.preset.width)
