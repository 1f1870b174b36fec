"""How a server begins and ends."""

import asyncio
import signal
import socket

from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from diffuscope.serve.http.run import Server, listening
from served import awaited


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
