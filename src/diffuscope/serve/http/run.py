"""A server on a port, which ends its jobs before it ends."""

import asyncio
import signal
import socket
import threading
import time
from types import FrameType

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from diffuscope.errors import InputError
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.guard import Guard

GRACE = 1.0
"""Seconds after the last job in which its images can still be fetched."""

CONNECTIONS = 512
"""Connections at the same time; more are answered with 503."""


PATIENCE = 30.0
"""Seconds for which a connection may bring no request; after twice as many at most it is closed."""


def listening(host: str, port: int, tries: int = 1) -> socket.socket:
    """A socket on a port, or on the next free one of so many.

    Raises:
        InputError: they are taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for each in range(port, min(port + tries, 65536)):
        own = socket.socket(family, proto=socket.IPPROTO_TCP)  # named, or asyncio lets small answers wait for an ACK
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((host, each))
            own.listen(CONNECTIONS)
            return own
        except OSError:
            own.close()
    last = f" to {port + tries - 1}" if tries > 1 else ""
    raise InputError("port", f"{port}{last} of {host}", "a free port", "Another program listens there; use --port")


class Connection(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # one of two classes, whichever is installed
    """uvicorn's, closed where nothing comes, or only half a request, or a body without end that was answered already.

    uvicorn itself waits for ever for the first request, and for the rest of any.
    """

    _idle: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._next.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        last = (self.cycle,) if self.cycle is None or self.cycle.response_complete else None
        if last is not None and last == self._idle:
            self.transport.close()
            return
        self._idle = last
        self._next = self.loop.call_later(PATIENCE, self._look)


class Server(uvicorn.Server):
    """uvicorn's server. SIGTERM lets running and waiting jobs end first; SIGINT, and a second signal, do not."""

    def __init__(self, app: Guard, engine: Engine, drain: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Connection,
                log_level="warning",
                ws="none",
                timeout_graceful_shutdown=5,
                limit_concurrency=CONNECTIONS,
            )
        )
        self._engine, self._drain, self._draining = engine, drain, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        if sig == signal.SIGTERM and not self._draining:
            self._draining = True
            self._engine.refuse()  # here and not there: whoever asks after the signal is refused
            threading.Thread(target=self._end, name="diffuscope-drain", daemon=True).start()
            return
        threading.Thread(target=self._abandon, name="diffuscope-abandon", daemon=True).start()  # it waits for locks
        super().handle_exit(sig, frame)

    def _end(self) -> None:
        waited = any(not job.ended for job in self._engine.jobs)
        if not self._engine.drain(self._drain):
            self._abandon()
        if waited:
            time.sleep(GRACE)
        self._engine.events.close()
        self.should_exit = True

    def _abandon(self) -> None:
        """Cancel what has not ended, so that whoever waits for it is answered."""
        self._engine.refuse()
        for job in self._engine.jobs:
            job.cancel()
        self._engine.events.close()


def run(app: Guard, engine: Engine, own: socket.socket, *, drain: float = 120.0) -> None:
    """Serve until a signal comes; SIGTERM lets jobs end for so many seconds."""
    try:
        Server(app, engine, drain).run(sockets=[own])
    finally:
        engine.stop(drain=False)
