"""A tiny model behind the doors: in the process of the test, and listening on a port."""

import threading

import pytest
from starlette.testclient import TestClient

from diffuscope.pipeline.inputs import Call
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from diffuscope.serve.job import Job
from served import PATIENCE, listening


@pytest.fixture(scope="session")
def engine(tiny):
    assert tiny.weights  # hashed as they are, before a test changes them for a while
    made = Engine(tiny, running=2, queue=3)
    yield made
    made.stop(drain=False)


@pytest.fixture(autouse=True)
def nothing_left(engine):
    """What a test has not waited for fills no queue of the next, and is no event there."""
    yield
    for job in engine.jobs:
        job.cancel()


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
        go.wait(PATIENCE)
        return value

    jobs = [engine.submit(Call(prompt="a fox", seed=1, upscale=1, tap={"unet.x": wait})) for _ in range(2)]
    for _ in jobs:
        assert entered.acquire(timeout=PATIENCE)

    def let_go():
        go.set()
        for job in jobs:
            job.result(PATIENCE)

    yield let_go
    let_go()


@pytest.fixture
def halted(monkeypatch):
    """Runs wait after their third step until this is called, or the test ends."""
    go, tell = threading.Event(), Job.tell

    def told(job, kind, image=None, step=None, sigma=None):
        tell(job, kind, image, step, sigma)
        if kind == "step" and step == 2:
            go.wait(PATIENCE)

    monkeypatch.setattr(Job, "tell", told)
    yield go.set
    go.set()
