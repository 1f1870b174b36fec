"""``diffuscope batch``: the images of a list of requests."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from diffuscope.cli.common import check_call
from diffuscope.cli.flags import command, sentence
from diffuscope.cli.generate import AdapterFlags, load_adapters
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import DiffuscopeError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group


@dataclass(frozen=True)
class BatchFlags:
    """The list, and where its images go."""

    requests: Annotated[Path, Group("output")]
    """file with one request a line, as JSON"""
    out: Path = Path("pictures")
    """folder for the images: 000001.png is that of the first line; those that are there are kept"""
    quiet: bool = False
    """no progress bar, only warnings and errors"""


@command(positional="requests")
def batch(flags: BatchFlags, source: ModelSource, adapters: AdapterFlags) -> int:
    """Generate the images of a list: a file with lines such as {"prompt": "a red fox", "num_inference_steps": 20}.

    Started again after it was ended, it goes on where it was. On several GPUs, one process for each shares the list:
    `torchrun --nproc-per-node 8 -m diffuscope batch requests.jsonl --out pictures`. Each line is one call, so its
    images are the same whatever the number of processes. Options are those that `diffuscope schema` prints; without a
    seed it is the number of the line.
    """
    from diffuscope.batch.many import begin, generate_many, read_requests

    requests = read_requests(flags.requests)
    check_call(source, requests[0])
    begin(flags.out, requests)

    from tqdm import tqdm

    from diffuscope.pipeline import open_model
    from diffuscope.training.distributed import rank, world_size

    pipe = open_model(_of_this_process(source))
    reports = load_adapters(pipe, requests, source, adapters)
    failures = []

    def failed(number: int, error: DiffuscopeError) -> None:
        failures.append(number)
        tell(f"error: line {number}: {sentence(error)}")

    share = generate_many(pipe, requests, flags.out, rank=rank(), processes=world_size(), failed=failed)
    quiet, total = flags.quiet or rank() > 0, len(range(rank(), len(requests), world_size()))
    made = [number for number, result in tqdm(share, total=total, file=sys.stderr, disable=quiet) if result is not None]
    if not flags.quiet:
        for report in reports:
            say(str(report))
        part = f"process {rank()} of {world_size()}: " if world_size() > 1 else ""
        there = total - len(made) - len(failures)
        say(f"{part}{len(made)} lines made, {there} were there, {len(failures)} failed; {flags.out}")
    return 2 if failures else 0


def _of_this_process(source: ModelSource) -> ModelSource:
    """The GPU of the process, if torchrun started several and none is named."""
    if "LOCAL_RANK" not in os.environ or source.device not in ("auto", "cuda"):
        return source
    import torch

    return replace(source, device=f"cuda:{os.environ['LOCAL_RANK']}") if torch.cuda.is_available() else source
