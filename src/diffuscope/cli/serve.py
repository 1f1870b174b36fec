"""``diffuscope serve``: a model over HTTP."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.terminal import tell
from diffuscope.errors import InputError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

KEY = "DIFFUSCOPE_KEY"


@dataclass(frozen=True)
class ServeFlags:
    """Where the server listens, and how much it takes."""

    host: Annotated[str, Group("server")] = "127.0.0.1"
    """address to listen on; any but this machine's own needs a key in the environment, DIFFUSCOPE_KEY"""
    port: int = 7860
    """port to listen on"""
    allowed_host: tuple[str, ...] = ()
    """further names under which the server is reached"""
    running: int = 8
    """images that run at the same time"""
    queue: int = 256
    """images that wait; more are refused"""
    exact: bool = False
    """share no network call, so that every image has the bits that it has alone"""


@command(positional="model")
def serve(flags: ServeFlags, source: ModelSource) -> None:
    """Serve a model: our own interface under /api/v1, OpenAI's images under /v1."""
    key = os.environ.get(KEY) or None
    if not _is_loopback(flags.host) and key is None:
        hint = f"Set {KEY}, which clients then send as Authorization: Bearer KEY"
        raise InputError("host", flags.host, "127.0.0.1, where no key is set", hint)
    if not 0 < flags.port < 65536:
        raise InputError("port", flags.port, "a number from 1 to 65535")
    try:
        import uvicorn

        from diffuscope.serve.http.app import application
    except ImportError as error:
        raise InputError("serve", str(error.name), "the extra `server`", "Run: pip install fastapi uvicorn") from error

    from diffuscope.pipeline import open_model
    from diffuscope.serve import Engine

    engine = Engine(open_model(source), running=flags.running, queue=flags.queue, exact=flags.exact)
    tell(f"serving {engine.pipe.config.name!r} on http://{flags.host}:{flags.port}; Ctrl-C ends it")
    app = application(engine, key=key, hosts=(flags.host, *flags.allowed_host))
    try:
        uvicorn.run(app, host=flags.host, port=flags.port, log_level="warning", timeout_graceful_shutdown=10)
    finally:
        engine.stop(drain=False)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
