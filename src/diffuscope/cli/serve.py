"""``diffuscope serve``: a model over HTTP."""

import ipaddress
import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags, load_adapters
from diffuscope.cli.terminal import tell
from diffuscope.errors import DiffuscopeError, InputError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline

KEY = "DIFFUSCOPE_KEY"
PACKAGES = "fastapi uvicorn python-multipart"
"""The extra `server`."""

SECONDS = 3600.0
"""Time that an image may take."""


@dataclass(frozen=True)
class ServeFlags:
    """Where the server listens, and how much it takes."""

    host: Annotated[str, Group("server")] = "127.0.0.1"
    """address to listen on; any but this machine's own needs a key in the environment, DIFFUSCOPE_KEY"""
    port: int = 7860
    """port to listen on; 0 is a free one"""
    allowed_host: tuple[str, ...] = ()
    """further names under which the server is reached"""
    running: int = 8
    """images that run at the same time"""
    queue: int = 256
    """images that wait; more are refused"""
    per_caller: int = 64
    """images of one caller that wait; more are refused"""
    drain: float = 120.0
    """seconds for which SIGTERM lets running and waiting images end"""
    exact: bool = False
    """share no network call, so that every image has the bits that it has alone"""


@command(positional="model")
def serve(flags: ServeFlags, source: ModelSource, adapters: AdapterFlags) -> None:
    """Serve a model: our own interface under /api/v1, OpenAI's images under /v1, AUTOMATIC1111's under /sdapi/v1."""
    key = os.environ.get(KEY) or None
    if not _is_loopback(flags.host) and key is None:
        hint = f"Set {KEY}, which clients then send as Authorization: Bearer KEY"
        raise InputError("host", flags.host, "127.0.0.1, where no key is set", hint)
    if not 0 <= flags.port < 65536:
        raise InputError("port", flags.port, "a number from 0 to 65535")
    try:
        from diffuscope.serve.http.app import application
        from diffuscope.serve.http.run import listening, run
    except ImportError as error:
        raise InputError("serve", str(error.name), "the extra `server`", f"Run: pip install {PACKAGES}") from error

    from diffuscope.serve import Engine, Limits

    own = listening(flags.host, flags.port)
    limits = Limits(per_owner=flags.per_caller, seconds=SECONDS)
    pipe = opened(source, adapters)
    engine = Engine(pipe, running=flags.running, queue=flags.queue, exact=flags.exact, limits=limits)
    tell(f"serving {pipe.config.name!r} on http://{flags.host}:{own.getsockname()[1]}; Ctrl-C ends it")
    run(application(engine, key=key, hosts=(flags.host, *flags.allowed_host)), engine, own, drain=flags.drain)


def opened(source: ModelSource, adapters: AdapterFlags) -> "Pipeline":
    """The model, run by its fast twins on a CPU too: somebody waits, often with a browser on the same cores.

    Any prompt may come, so all embeddings of ``models_dir`` that fit the model are loaded.
    """
    from diffuscope.library import entries
    from diffuscope.loading import choose_device
    from diffuscope.perf import memory
    from diffuscope.pipeline import open_model

    memory.share_heap()
    on_cpu = source.fast is None and choose_device(source.device).type == "cpu"
    pipe = open_model(replace(source, fast=True) if on_cpu else source)
    for report in load_adapters(pipe, (), source, adapters):
        tell(str(report))
    others = {} if source.models_dir is None else entries(source.models_dir, "embedding")
    unfit = 0
    for path in others.values():
        try:
            pipe.load_embedding(path, allow_pickle=source.allow_pickle)
        except DiffuscopeError:
            unfit += 1
    if others:
        tell(f"embeddings of {source.models_dir}: {len(others) - unfit} loaded, {unfit} not for this model")
    return pipe


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
