"""A server on a port, and what its streams say."""

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import uvicorn

from diffuscope.serve.http import run

PATIENCE = 300
"""Seconds that a test waits for what must come; on an idle machine it comes at once."""


@contextmanager
def listening(app):
    """An application on a free port of this machine; its address."""
    with run.listening("127.0.0.1", 0) as own:  # who asks before the server runs waits
        server = uvicorn.Server(
            uvicorn.Config(app, http=run.Connection, log_level="error", ws="none", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{own.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE)


def awaited(coroutine):
    """What it returns. In a thread of its own: a browser, once begun, keeps a loop in that of the tests."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def events_of(text):
    """The server-sent events of a whole stream: kind and data. Comments are none."""
    parts = [dict(line.split(": ", 1) for line in part.splitlines()) for part in text.split("\n\n")]
    return [
        (part.get("event"), json.loads(part["data"]) if part["data"] != "[DONE]" else None)
        for part in parts
        if "data" in part
    ]


def read_events(response):
    """Those of a stream without an end, as they come: id, kind, data."""
    part = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            part[name] = value
        elif part:
            yield part.get("id"), part["event"], json.loads(part["data"])
            part = {}
