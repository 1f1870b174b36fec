"""``diffuscope lab``: a page in a browser in which one sees through a model."""

import secrets
import threading
import webbrowser
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from diffuscope.cli.flags import command
from diffuscope.cli.generate import AdapterFlags
from diffuscope.cli.serve import PACKAGES, opened
from diffuscope.cli.terminal import say, tell
from diffuscope.errors import InputError
from diffuscope.model_source import ModelSource
from diffuscope.schema import Group

if TYPE_CHECKING:
    from diffuscope.pipeline import Pipeline

HOST = "127.0.0.1"
DRAIN = 5.0
"""Seconds for jobs that run when the lab is told to end."""


@dataclass(frozen=True)
class LabFlags:
    """Where the page is, and whether a browser is opened."""

    port: Annotated[int, Group("page")] = 7870
    """port to listen on, on this machine alone; the next free one if it is taken, any free one if 0"""
    no_browser: bool = False
    """only print the address"""


@command(positional="model", otherwise="emoji")
def lab(flags: LabFlags, source: ModelSource, adapters: AdapterFlags) -> None:
    """Open the lab: a web page that shows everything between a prompt and its image, and lets one change it."""
    if not 0 <= flags.port < 65536:
        raise InputError("port", flags.port, "a number from 0 to 65535")
    try:
        from diffuscope.serve.http.app import application
        from diffuscope.serve.http.opening import begin
        from diffuscope.serve.http.run import listening, run
    except ImportError as error:
        raise InputError("lab", str(error.name), "the extra `server`", f"Run: pip install {PACKAGES}") from error

    from diffuscope.serve import Engine, Limits

    own = listening(HOST, flags.port, tries=20)
    token = secrets.token_urlsafe(32)
    port = own.getsockname()[1]
    address = f"http://{HOST}:{port}/lab/#token={token}"
    engine = Engine(opened(source, adapters), limits=Limits(per_owner=256))
    app = application(engine, token=token)  # before the run begins: Python would do a bit of each in turn
    begin(engine, HOST)
    if (hint := faster(engine.pipe)) is not None:
        tell(hint)
    if flags.port not in (0, port):
        tell(f"another program listens on port {flags.port}, so it is port {port}")
    tell(
        f"the lab of {engine.pipe.config.name!r} is open; Ctrl-C closes it. Its address, with the token of this start:"
    )
    say(address)
    if not flags.no_browser:
        threading.Thread(target=webbrowser.open, args=[address]).start()  # the socket listens already
    run(app, engine, own, drain=DRAIN)


def faster(pipe: "Pipeline") -> str | None:
    """What gives more previews a second, and its price."""
    from diffuscope.loading import has_bfloat16

    if pipe.device.type != "cpu":
        return None
    hints = []
    if pipe.dtype.itemsize == 4 and has_bfloat16():
        hints.append("with --dtype bfloat16 this processor takes half the time; numbers are rounded to eight bits")
    if pipe.engine.converted is None and find_spec("openvino"):
        hints.append("with --backend openvino more previews come in a second, and the first ones later")
    return "; ".join(hints) or None
