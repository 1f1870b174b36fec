"""A tiny model behind the doors: in the process of the test, and listening on a port."""

import threading

import pytest
from starlette.testclient import TestClient

from diffuscope.pipeline.inputs import Call
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from served import listening


@pytest.fixture(scope="session")
def engine(tiny):
    made = Engine(tiny, running=2, queue=3)
    yield made
    made.stop(drain=False)


@pytest.fixture(scope="session")
def client(engine):
    return TestClient(application(engine), base_url="http://localhost", raise_server_exceptions=False)


@pytest.fixture(scope="session")
def live(engine):
    with listening(application(engine)) as address:
        yield address


@pytest.fixture
def held(engine):
    """A run in each of the engine's places, which waits until the test ends or calls this."""
    go, entered = threading.Event(), threading.Semaphore(0)

    def wait(value):
        entered.release()
        go.wait(30)
        return value

    jobs = [engine.submit(Call(prompt="a fox", seed=1, upscale=1, tap={"unet.x": wait})) for _ in range(2)]
    for _ in jobs:
        assert entered.acquire(timeout=30)

    def let_go():
        go.set()
        for job in jobs:
            job.result(30)

    yield let_go
    let_go()
