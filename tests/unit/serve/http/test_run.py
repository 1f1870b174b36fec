"""How a server begins and ends."""

import asyncio
import signal
import socket
from contextlib import contextmanager

import pytest

from diffuscope.serve import Engine
from diffuscope.serve.http import run
from diffuscope.serve.http.app import application
from diffuscope.serve.http.run import Server, listening
from served import PATIENCE, awaited
from served import listening as served


def test_small_answers_are_sent_at_once():
    """Not held back until the client has acknowledged what came before, which takes it 40 ms."""

    async def delays() -> int:
        found = asyncio.get_running_loop().create_future()

        async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listening("127.0.0.1", 0) as own:
            async with await asyncio.start_server(answer, sock=own):
                _, writer = await asyncio.open_connection(*own.getsockname())
                value = await found
                writer.close()
                return value

    assert awaited(delays()) != 0


def test_no_job_is_taken_once_the_signal_has_come(tiny, monkeypatch):
    """Whatever else is to do, a thread of its own does, in its time."""
    monkeypatch.setattr(Server, "_end", lambda _: None)
    engine = Engine(tiny, running=1)
    Server(application(engine), engine, drain=1).handle_exit(signal.SIGTERM, None)
    assert engine.stopping
    engine.stop()


HOST = b"Host: localhost\r\n"
HALF = b"GET /healthz HTTP/1.1\r\n"
ENDLESS = b"POST /x HTTP/1.1\r\nHost: elsewhere\r\nTransfer-Encoding: chunked\r\n\r\n"


@contextmanager
def connected(engine):
    with served(application(engine)) as address:
        place = "127.0.0.1", int(address.rpartition(":")[2])
        with socket.create_connection(place, timeout=PATIENCE) as client:
            yield client


@pytest.mark.parametrize(
    ("begin", "more"),
    [(b"", b""), (HALF, b"X: a\r\n"), (HALF + HOST + b"\r\n" + HALF, b"X: a\r\n"), (ENDLESS, b"1\r\na\r\n")],
)
def test_a_client_that_asks_for_nothing_is_cut_off(engine, monkeypatch, begin, more):
    """However it keeps the connection busy: else a few hundred of them are all that the server takes."""
    monkeypatch.setattr(run, "PATIENCE", 0.2)
    with connected(engine) as client:
        client.sendall(begin)
        client.settimeout(0.05)
        assert any(is_closed(client, more) for _ in range(20 * PATIENCE))


def is_closed(client, more):
    try:
        client.sendall(more)
        return not client.recv(4096)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def test_a_client_that_waits_for_an_answer_is_not(engine, monkeypatch):
    monkeypatch.setattr(run, "PATIENCE", 0.05)
    with connected(engine) as client:
        client.sendall(b"GET /api/v1/events HTTP/1.1\r\n" + HOST + b"\r\n")
        client.settimeout(1.0)
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert not any(is_closed(client, b"") for _ in range(3))
