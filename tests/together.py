"""Processes that train as one, connected as torchrun connects them, but forked from one that has loaded torch."""

import importlib
import multiprocessing
import os

import torch
from torch.distributed import TCPStore

from diffuscope.training import distributed
from served import PATIENCE

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch._dynamo", "diffuscope.distill.task", "diffuscope.recipes.emoji"])


def together(module: str, work: str, *arguments: object, processes: int = 2) -> None:
    """Call a function of a module with these arguments in so many processes; each must end well."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    given = (processes, store.port, module, work, arguments)
    started = [FORKS.Process(target=_connected, args=(rank, *given)) for rank in range(processes)]
    for process in started:
        process.start()
    for process in started:
        process.join(2 * PATIENCE)
    assert [process.exitcode for process in started] == [0] * processes


def _connected(rank: int, processes: int, port: int, module: str, work: str, arguments: tuple[object, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        getattr(importlib.import_module(module), work)(*arguments)
