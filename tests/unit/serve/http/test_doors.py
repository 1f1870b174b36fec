"""Our own interface and OpenAI's on a tiny model."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from diffuscope.serve import Engine
from diffuscope.serve.http.app import application

FOX = {"prompt": "a fox", "seed": 3, "upscale": 1, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def engine(tiny):
    made = Engine(tiny, running=2, queue=3)
    yield made
    made.stop(drain=False)


@pytest.fixture(scope="module")
def client(engine):
    return TestClient(application(engine), base_url="http://localhost", raise_server_exceptions=False)


def events_of(text):
    parts = [dict(line.split(": ", 1) for line in part.splitlines()) for part in text.strip().split("\n\n")]
    return [(part.get("event"), json.loads(part["data"]) if part["data"] != "[DONE]" else None) for part in parts]


def test_a_job_is_submitted_followed_and_fetched(client, tiny):
    job = client.post("/api/v1/jobs", json={"request": FOX | {"num_images_per_prompt": 2}})
    assert job.status_code == 202
    path = f"/api/v1/jobs/{job.json()['id']}"
    events = events_of(client.get(f"{path}/events").text)
    assert events[0] == ("queued", {})
    assert events[-1] == ("done", {})
    assert sum(kind == "step" for kind, _ in events) == 4
    late = events_of(client.get(f"{path}/events", headers={"last-event-id": "3"}).text)
    assert late == events[3:]

    alone = tiny("a fox", seed=3, upscale=1, num_inference_steps=2)
    image = Image.open(io.BytesIO(client.get(f"{path}/images/0.png").content))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(alone.images[0]).astype(int)).max() <= 1
    assert json.loads(image.text["diffuscope"])["seed"] == [3]

    step = client.get(f"{path}/images/0/steps/1/x")
    shape = [int(side) for side in step.headers["x-shape"].split(",")]
    latents = torch.frombuffer(bytearray(step.content), dtype=torch.float32).view(shape)
    torch.testing.assert_close(latents, alone.latents[0], rtol=1e-4, atol=1e-4)
    assert "immutable" in step.headers["cache-control"]

    described = client.get(path).json()
    assert (described["state"], described["done"]) == ("done", 2)
    assert described["receipts"][1]["seed"] == [4]
    assert described["id"] in [one["id"] for one in client.get("/api/v1/jobs").json()]


@pytest.mark.parametrize(
    ("request_", "argument"),
    [
        ({"prompt": "a fox", "stepz": 3}, "stepz"),
        ({"prompt": "a fox", "num_inference_steps": "ten"}, "num_inference_steps"),
        ({"prompt": "a fox", "sampler": "magic"}, "sampler"),
        ({"prompt": "a fox", "clip_skip": 99}, "clip_skip"),
    ],
)
def test_an_impossible_request_names_its_argument(client, request_, argument):
    answer = client.post("/api/v1/jobs", json={"request": request_})
    assert answer.status_code == 422
    assert argument in json.dumps(answer.json()["error"])


@pytest.mark.parametrize("path", ["", "/events", "/images/0.png", "/images/0/steps/0/x"])
def test_what_is_not_there_is_not_found(client, path):
    assert client.get(f"/api/v1/jobs/nothing{path}").status_code == 404


def test_parts_of_a_job_that_are_not_there_are_not_found(client):
    job = client.post("/api/v1/jobs", json={"request": FOX}).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    for path in ("images/1.png", "images/0/steps/2/x", "images/-1.png"):
        assert client.get(f"/api/v1/jobs/{job}/{path}").status_code in (404, 422)


def test_a_full_queue_says_when_to_come_again(client):
    answer = client.post("/api/v1/jobs", json={"request": FOX | {"num_images_per_prompt": 4}})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0


def test_a_job_is_cancelled(client):
    job = client.post("/api/v1/jobs", json={"request": FOX | {"num_inference_steps": 200}}).json()["id"]
    assert client.delete(f"/api/v1/jobs/{job}").json()["state"] == "cancelled"


def test_what_is_served_is_described(client):
    about = client.get("/api/v1/about").json()
    assert about["model"] == "tiny"
    assert "num_inference_steps" in about["request"]["properties"]
    assert client.post("/api/v1/text", json={"prompt": "a red fox"}).json()["tokens"] == ["a</w>", "red</w>", "fox</w>"]
    assert "diffuscope_images_waiting" in client.get("/metrics").text
    assert (client.get("/healthz").status_code, client.get("/readyz").status_code) == (200, 200)
    assert "/api/v1/jobs" in client.get("/api/v1/openapi").json()["paths"]


def test_an_openai_client_gets_images(client):
    body = {
        "model": "any",
        "prompt": "a fox",
        "n": 2,
        "size": "32x32",
        "quality": "auto",
        "response_format": "b64_json",
    }
    data = client.post("/v1/images/generations", json=body).json()["data"]
    assert [Image.open(io.BytesIO(base64.b64decode(one["b64_json"]))).size for one in data] == [(32, 32)] * 2
    body = {"prompt": "a fox", "output_format": "webp", "output_compression": 50}
    content = base64.b64decode(client.post("/v1/images/generations", json=body).json()["data"][0]["b64_json"])
    assert Image.open(io.BytesIO(content)).format == "WEBP"
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"


def test_a_stream_has_estimates_then_the_image(client):
    body = {"prompt": "a fox", "stream": True, "partial_images": 2}
    events = events_of(client.post("/v1/images/generations", json=body).text)
    kinds = [kind for kind, _ in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed", None]
    assert [data["partial_image_index"] for _, data in events[:2]] == [0, 1]
    assert Image.open(io.BytesIO(base64.b64decode(events[2][1]["b64_json"]))).size == (32, 32)


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({}, "prompt"),
        ({"prompt": "a fox", "n": 11}, "n"),
        ({"prompt": "a fox", "size": "big"}, "size"),
        ({"prompt": "a fox", "size": "33x32"}, "size"),
        ({"prompt": "a fox", "response_format": "url"}, "response_format"),
        ({"prompt": "a fox", "background": "transparent"}, "background"),
        ({"prompt": "a fox", "image": "http://127.0.0.1/"}, "image"),
        ({"prompt": "a fox", "partial_images": True}, "partial_images"),
    ],
)
def test_what_openai_offers_and_this_does_not_is_refused_by_name(client, body, argument):
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 400
    assert argument in json.dumps(answer.json()["error"])


def test_an_error_that_nobody_expected_keeps_its_details_in_the_log(client, engine, monkeypatch, caplog):
    monkeypatch.setattr(engine, "submit", lambda *_, **__: 1 / 0)
    answer = client.post("/v1/images/generations", json={"prompt": "a fox"})
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "division" in caplog.text
