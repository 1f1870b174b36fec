"""``diffuscope lab``: a page in a browser in which one sees through a model."""

import secrets
import socket
import threading
import webbrowser
from dataclasses import dataclass
from typing import Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import InputError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

HOST = "127.0.0.1"


@dataclass(frozen=True)
class LabFlags:
    """Where the page is, and whether a browser is opened."""

    port: Annotated[int, Group("page")] = 7870
    """port to listen on, on this machine alone; the next free one if it is taken"""
    no_browser: bool = False
    """only print the address"""


@command(positional="model", otherwise="emoji")
def lab(flags: LabFlags, source: ModelSource) -> None:
    """Open the lab: a web page that shows everything between a prompt and its image, and lets one change it."""
    if not 0 < flags.port < 65536:
        raise InputError("port", flags.port, "a number from 1 to 65535")
    try:
        import uvicorn

        from diffuscope.serve.http.app import application
    except ImportError as error:
        raise InputError("lab", str(error.name), "the extra `server`", "Run: pip install fastapi uvicorn") from error

    from diffuscope.pipeline import open_model
    from diffuscope.serve import Engine

    listening = _listening(flags.port)
    token = secrets.token_urlsafe(18)
    address = f"http://{HOST}:{listening.getsockname()[1]}/lab/#token={token}"
    engine = Engine(open_model(source))
    tell(
        f"the lab of {engine.pipe.config.name!r} is open; Ctrl-C closes it. Its address, with the token of this start:"
    )
    say(address)
    config = uvicorn.Config(application(engine, key=token), log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    if not flags.no_browser:
        threading.Timer(0.3, webbrowser.open, [address]).start()
    try:
        server.run(sockets=[listening])
    finally:
        engine.stop(drain=False)


def _listening(port: int) -> socket.socket:
    """A socket on the port, or on the next free one."""
    for each in range(port, min(port + 20, 65536)):
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, each))
            listening.listen(128)  # from here on a browser waits and is not refused
        except OSError:
            listening.close()
            continue
        return listening
    raise InputError("port", port, f"a free port; those up to {port + 19} are taken")
