"""Many requests on a Ray cluster: a model in each worker, and the pictures in a folder of the one who asks.

``ImageGenerator`` is what a worker holds; Ray Data's ``map_batches`` takes it as it is. ``generate_on_ray`` gives each
worker a line of a list at a time. A worker that dies starts again and gets its line again; what was written stays.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffuscope.batch.many import begin, check_model, files, first_picture
from diffuscope.errors import DiffuscopeError, InputError
from diffuscope.images import png_bytes
from diffuscope.output import replacing
from diffuscope.pipeline import Pipeline
from diffuscope.pipeline import receipt as receipts
from diffuscope.request import Request

RETRIES = 3
"""How often a line may end its worker, and is given to it again, before it counts as failed."""


class ImageGenerator:
    """A model that maps requests to PNG files: the callable class that Ray Data's ``map_batches`` wants.

    Each request is one call by itself: its bits do not depend on its neighbours in the batch. On a CPU they depend on
    the number of threads, which Ray sets to one for each CPU of the worker.

    Args:
        load: opens the model, once in each worker: ``functools.partial(ds.load, "emoji")``.
    """

    def __init__(self, load: Callable[[], Pipeline]) -> None:
        self.pipe = load()

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same columns, and two more.

        Args:
            columns: ``request`` [N] has requests as JSON (``Request.to_json``), each with its seed. All others stay.

        Returns:
            ``images`` [N] has a list of PNG files for each request, as bytes, each with its receipt. ``error`` [N] has
            None, or why there are none.
        """
        rows = [self._row(text) for text in columns["request"]]
        images, errors = ([row[k] for row in rows] for k in range(2))
        return {
            **columns,
            "images": np.fromiter(images, object, len(rows)),
            "error": np.fromiter(errors, object, len(rows)),
        }

    def _row(self, request: str) -> tuple[list[bytes], str | None]:
        try:
            return self.generate(request), None
        except DiffuscopeError as error:
            return [], str(error)

    def generate(self, request: str) -> list[bytes]:
        """The PNG files of one request, given as JSON, each with its receipt."""
        result = self.pipe(Request.from_json(request))
        return [png_bytes(image, receipts.chunks(result.receipt, k)) for k, image in enumerate(result.images)]


def generate_on_ray(
    load: Callable[[], Pipeline],
    requests: Sequence[Request],
    folder: str | PathLike[str],
    *,
    address: str = "auto",
    workers: int | None = None,
    failed: Callable[[int, DiffuscopeError], None] | None = None,
) -> Iterator[tuple[int, list[Path] | None]]:
    """Make the pictures that the folder lacks, as ``generate_many`` does, in the workers of a Ray cluster.

    Only this process writes into the folder, so that the machines need not share it.

    Args:
        load: opens the model in a worker.
        requests: the whole list, such as that of ``read_requests``, which gives each a seed.
        folder: where the pictures are, or will be.
        address: of the cluster, as ``ray.init`` takes it: "auto" is the one that runs here, "local" a new one. Where
            Ray is connected already, that cluster is taken.
        workers: how many; by default one for each GPU of the cluster, or for each CPU where it has none.
        failed: called with a line's number and its error, and the others go on; without it an error ends all.

    Yields:
        The number of each line, from 1, as it is done, and its files; None where they were there.

    Raises:
        InputError: Ray is not installed, or there is no such cluster; or pictures in the folder are of other requests,
            or of another model or dtype than those of the workers.
        DiffuscopeError: a worker cannot open the model.
    """
    folder = begin(folder, requests)
    there, missing = first_picture(folder, requests), []
    for number, request in enumerate(requests, 1):
        if all(name.is_file() for name in files(folder, number, request)):
            yield number, None
        else:
            missing.append(number)
    if not missing:
        return
    for number, answer in _answers(load, requests, missing, address, workers):
        if isinstance(answer, DiffuscopeError):
            if failed is None:
                raise answer
            failed(number, answer)
            continue
        made = receipts.read(answer[0])
        there = there or made
        weights = {name: value for name, value in made["weights"].items() if name != receipts.CLIP}
        check_model(there, weights, made["dtype"], made["model"])  # machines may have other files under one name
        names = files(folder, number, requests[number - 1])
        for name, content in zip(names, answer, strict=True):
            with replacing(name) as part:
                part.write_bytes(content)
        yield number, names


def _answers(
    load: Callable[[], Pipeline], requests: Sequence[Request], numbers: list[int], address: str, workers: int | None
) -> Iterator[tuple[int, list[bytes] | DiffuscopeError]]:
    """The files of each of these lines as they come, or its error."""
    with _connected(address) as ray:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        options = {"num_cpus": 1, "num_gpus": min(gpus, 1), "max_restarts": -1, "max_task_retries": RETRIES}
        worker = ray.remote(**options)(ImageGenerator)
        waiting, left, running = iter(numbers), len(numbers), {}
        for _ in range(min(workers or gpus or int(resources["CPU"]), len(numbers))):
            actor = worker.remote(load)
            running[actor.__ray_ready__.remote()] = 0, actor  # one that no machine has room for holds no line
        while left:
            (done, *_), _ = ray.wait([*running])
            number, actor = running.pop(done)
            for following in islice(waiting, 1):
                running[actor.generate.remote(requests[following - 1].to_json())] = following, actor
            try:
                answer = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                answer = error.cause
                if not isinstance(answer, DiffuscopeError):
                    raise
            except ray.exceptions.ActorUnavailableError:
                answer = DiffuscopeError(f"its worker died {RETRIES + 1} times, perhaps for lack of memory")
            except ray.exceptions.ActorDiedError as error:
                raise DiffuscopeError(f"a worker cannot begin: {str(error).strip().splitlines()[-1]}") from error
            if number > 0:
                left -= 1
                yield number, answer


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster, and afterwards no longer, unless it was before."""
    try:
        import ray
    except ImportError as error:
        raise InputError("ray", address, "the extra `ray`", "Run: pip install ray") from error
    begun = not ray.is_initialized()
    if begun:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here tells nobody of it
        try:
            ray.init(address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError) as error:
            raise InputError("ray", address, "the address of a Ray cluster, auto or local") from error
    try:
        yield ray
    finally:
        if begun:
            ray.shutdown()
