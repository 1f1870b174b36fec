"""How a server ends."""

import signal

from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from diffuscope.serve.http.run import Server


def test_no_job_is_taken_once_the_signal_has_come(tiny, monkeypatch):
    """Whatever else is to do, a thread of its own does, in its time."""
    monkeypatch.setattr(Server, "_end", lambda _: None)
    engine = Engine(tiny, running=1)
    Server(application(engine), engine, drain=1).handle_exit(signal.SIGTERM, None)
    assert engine.stopping
    engine.stop()
