"""The run that the page opens with."""

from dataclasses import replace

import numpy as np
import pytest

from diffuscope.models.unet import UNet
from diffuscope.pipeline import Pipeline
from diffuscope.serve import Engine
from diffuscope.serve.http.opening import begin
from served import PATIENCE, events_of

OF_ITS_OWN = ("id", "pictures", "seconds")


@pytest.fixture
def begun(engine, client):
    """Its job, before a browser has asked for anything."""
    begin(engine, "testclient")
    job = engine.jobs[-1]
    yield job
    job.cancel()


def test_it_is_what_the_page_itself_would_have_asked_for(begun, engine, client):
    recorded = client.get("/lab/opening/run.json").json()["request"]
    own = client.post("/api/v1/jobs", json={"interactive": True, "request": recorded}).json()["id"]
    for each in (begun, engine.job(own)):
        each.result(PATIENCE)
    first, second = (job for job in client.get("/api/v1/jobs").json() if job["id"] in (begun.id, own))
    assert {name: first[name] for name in first if name not in OF_ITS_OWN} == {
        name: second[name] for name in second if name not in OF_ITS_OWN
    }
    assert (begun.owner, begun.interactive) == (engine.job(own).owner, engine.job(own).interactive)
    assert first["request"]["seed"] == recorded["seed"]


def test_it_equals_the_request_made_alone(begun, tiny, client):
    (result,) = begun.result(PATIENCE)
    alone = tiny(begun.request.prompt, seed=begun.request.seed)
    assert np.abs(np.asarray(result.images[0]).astype(int) - np.asarray(alone.images[0]).astype(int)).max() <= 1
    assert result.receipt == alone.receipt


def test_a_step_of_it_has_all_that_the_views_ask_for_and_it_branches(begun, engine, client):
    begun.result(PATIENCE)
    for kind in ("x", "x0", "cond", "uncond"):
        assert client.get(f"/api/v1/jobs/{begun.id}/images/0/steps/1/{kind}").status_code == 200
    body = {"from": {"job": begun.id, "step": 2}, "request": {"prompt": "a blue fox"}}
    branch = client.post("/api/v1/jobs", json=body).json()["id"]
    assert events_of(client.get(f"/api/v1/jobs/{branch}/events").text)[-1][0] == "done"


def test_none_is_begun_where_one_takes_long(tiny):
    large = replace(tiny.config, preset=replace(tiny.config.preset, width=512, height=512))
    with_large = Engine(Pipeline(replace(tiny.components, config=large)), running=1)
    begin(with_large, "127.0.0.1")
    assert with_large.jobs == []
    with_large.stop()


def test_a_model_for_which_it_is_no_request_opens_without(tiny):
    edits = replace(tiny.config, unet=replace(tiny.config.unet, in_channels=8))
    components = replace(tiny.components, config=edits, unet=UNet(edits.unet).eval().requires_grad_(False))
    editing = Engine(Pipeline(components), running=1)
    begin(editing, "127.0.0.1")
    assert editing.jobs == []
    editing.stop()
