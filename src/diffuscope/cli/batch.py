"""``diffuscope batch``: the images of a list of requests."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from diffuscope.cli.common import OptionalInt, check_call
from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags, embedding_files, load_adapters
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import DiffuscopeError, InputError
from diffuscope.model_source import ModelSource
from diffuscope.request import Request
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline


@dataclass(frozen=True)
class BatchFlags:
    """The list, and where its images go."""

    requests: Annotated[Path, Group("output")]
    """file with one request a line, as JSON"""
    out: Path = Path("pictures")
    """folder for the images: 000001.png is that of the first line; those that are there are kept"""
    ray: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None
    """Ray cluster whose workers make the images: auto is the one that runs on this machine, local a new one"""
    workers: OptionalInt = None
    """of the cluster; by default one for each GPU, or for each CPU where there is no GPU"""
    quiet: bool = False
    """no progress bar, only warnings and errors"""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise InputError("workers", self.workers, "at least 1")
        if self.workers is not None and self.ray is None:
            raise InputError("workers", self.workers, "the address of a cluster too", "Add --ray auto")


@command(positional="requests")
def batch(flags: BatchFlags, source: ModelSource, adapters: AdapterFlags) -> int:
    """Generate the images of a list: a file with lines such as {"prompt": "a red fox", "num_inference_steps": 20}.

    Started again after it was ended, it goes on where it was. On several GPUs, one process for each shares the list:
    `torchrun --nproc-per-node 8 -m diffuscope batch requests.jsonl --out pictures`. With `--ray auto`, the workers of a
    Ray cluster make it. Each line is one call, so its images are the same whatever the number of processes. Options are
    those that `diffuscope schema` prints; without a seed it is the number of the line.
    """
    from diffuscope.batch.many import begin, generate_many, read_requests

    requests = read_requests(flags.requests)
    check_call(source, requests[0])
    begin(flags.out, requests)

    from tqdm import tqdm

    from diffuscope.training.distributed import rank, world_size

    failures: list[int] = []
    reports: list[object] = []

    def failed(number: int, error: DiffuscopeError) -> None:
        failures.append(number)
        tell(f"error: line {number}: {error}")  # a list has the names of Python, not flags

    share: Iterator[tuple[int, object]]
    if flags.ray is None:
        pipe, reports = _open(_of_this_process(source), adapters, requests)
        share = generate_many(pipe, requests, flags.out, rank=rank(), processes=world_size(), failed=failed)
        total = len(range(rank(), len(requests), world_size()))
    else:
        from diffuscope.batch.ray import generate_on_ray

        files = replace(adapters, embedding=embedding_files(requests, source, adapters))
        load = partial(_open_in_worker, Path.cwd(), source, files)
        share = generate_on_ray(load, requests, flags.out, address=flags.ray, workers=flags.workers, failed=failed)
        total = len(requests)
    quiet = flags.quiet or rank() > 0
    made = [number for number, each in tqdm(share, total=total, file=sys.stderr, disable=quiet) if each is not None]
    if not flags.quiet:
        for report in reports:
            say(str(report))
        part = f"process {rank()} of {world_size()}: " if world_size() > 1 else ""
        there = total - len(made) - len(failures)
        say(f"{part}lines: {len(made)} made, {there} there before, {len(failures)} failed; in {flags.out}")
    return 2 if failures else 0


def _open(source: ModelSource, adapters: AdapterFlags, requests: Sequence[Request]) -> tuple["Pipeline", list[object]]:
    """The model with its adapters, and their reports."""
    from diffuscope.pipeline import open_model

    pipe = open_model(source)
    return pipe, load_adapters(pipe, requests, source, adapters)


def _open_in_worker(place: Path, source: ModelSource, adapters: AdapterFlags) -> "Pipeline":
    """The same in another process, whose paths begin where the command was given, if its machine has that folder."""
    with contextlib.suppress(OSError):
        os.chdir(place)
    return _open(source, adapters, ())[0]


def _of_this_process(source: ModelSource) -> ModelSource:
    """The GPU of the process, if torchrun started several and none is named."""
    if "LOCAL_RANK" not in os.environ or source.device not in ("auto", "cuda"):
        return source
    import torch

    return replace(source, device=f"cuda:{os.environ['LOCAL_RANK']}") if torch.cuda.is_available() else source
