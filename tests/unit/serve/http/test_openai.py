"""OpenAI's interface on a tiny model, asked by OpenAI's own client where that can ask."""

import base64
import io
import json
import socket
import time
from concurrent.futures import CancelledError

import numpy as np
import openai
import pytest
from PIL import Image

from diffuscope.images import png_bytes
from served import PATIENCE, events_of


def test_an_openai_client_gets_images(client):
    body = {
        "model": "dall-e-2",
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
        ({"prompt": "a fox", "size": "9999x32"}, "size"),
        ({"prompt": "a fox", "seed": "one"}, "seed"),
        ({"prompt": "a fox", "stream": "perhaps"}, "stream"),
        ({"prompt": "a fox", "num_inference_steps": 251}, "num_inference_steps"),
        ({"prompt": "a fox", "response_format": "url"}, "response_format"),
        ({"prompt": "a fox", "background": "transparent"}, "background"),
        ({"prompt": "a fox", "image": "http://127.0.0.1/"}, "image"),
        ({"prompt": "a fox", "partial_images": True}, "partial_images"),
        ({"prompt": "a fox", "output_format": ["png"]}, "output_format"),
    ],
)
def test_what_openai_offers_and_this_does_not_is_refused_by_name(client, body, argument):
    answer = client.post("/v1/images/generations", json=body)
    assert answer.status_code == 400
    assert argument in json.dumps(answer.json()["error"])


def test_a_name_that_is_no_text_is_refused(client):
    headers = {"Content-Type": "application/json"}
    for path, status in (("/v1/images/generations", 400), ("/api/v1/jobs", 422)):
        assert client.post(path, content=b'{"\\ud800": 1}', headers=headers).status_code == status


def test_an_error_that_nobody_expected_keeps_its_details_in_the_log(client, engine, monkeypatch, caplog):
    monkeypatch.setattr(engine, "submit", lambda *_, **__: 1 / 0)
    answer = client.post("/v1/images/generations", json={"prompt": "a fox"})
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "division" in caplog.text


@pytest.fixture
def asks(live):
    with openai.OpenAI(base_url=f"{live}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as made:
        yield made


def picture(encoded):
    return Image.open(io.BytesIO(base64.b64decode(encoded)))


RED = Image.new("RGB", (48, 32), "red")
HOLE = Image.new("RGBA", RED.size, "white")
HOLE.paste((0, 0, 0, 0), (0, 0, 16, 32))


@pytest.mark.parametrize("size", ["41x31", "64x64"])
def test_the_answer_has_the_size_that_was_asked_for(asks, size):
    answer = asks.images.generate(prompt="a fox", size=size, extra_body={"num_inference_steps": 1, "seed": 3})
    made = picture(answer.data[0].b64_json)
    assert f"{made.width}x{made.height}" == size
    assert ("diffuscope" in made.info) is (size == "64x64")
    assert "Seed: 3" in made.info["parameters"]


def test_its_client_edits_a_picture_and_a_masked_area(asks):
    options = {"prompt": "a fox", "extra_body": {"num_inference_steps": 2, "strength": 0.5}}
    whole = asks.images.edit(image=("a.png", png_bytes(RED)), n=2, **options)
    assert [picture(each.b64_json).size for each in whole.data] == [RED.size] * 2
    part = asks.images.edit(image=[("a.png", png_bytes(RED))], mask=("m.png", png_bytes(HOLE)), **options)
    found = np.asarray(picture(part.data[0].b64_json))
    assert (found[:, 16:] == np.asarray(RED)[:, 16:]).all()
    assert (found[:, :16] != np.asarray(RED)[:, :16]).any()
    small = asks.images.edit(image=png_bytes(RED), size="24x16", output_format="webp", **options)
    assert (picture(small.data[0].b64_json).size, picture(small.data[0].b64_json).format) == ((24, 16), "WEBP")


def test_its_client_streams_an_edit(asks):
    events = list(asks.images.edit(image=png_bytes(RED), prompt="a fox", stream=True, partial_images=2))
    kinds = [event.type for event in events]
    assert kinds == ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert {picture(event.b64_json).size for event in events} == {RED.size}


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"image": [png_bytes(RED)] * 2}, "image"),
        ({"image": b"nothing"}, "image"),
        ({"mask": png_bytes(RED)}, "mask"),
        ({"n": 11}, "n"),
        ({"input_fidelity": "high"}, "input_fidelity"),
    ],
)
def test_edits_that_are_not_possible_are_refused_by_name(asks, change, argument):
    with pytest.raises(openai.BadRequestError) as caught:
        asks.images.edit(**({"image": png_bytes(RED), "prompt": "a fox"} | change))
    assert caught.value.param == argument


@pytest.mark.parametrize("name", ["tiny", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "", "None"])
def test_openais_names_are_the_model_that_is_served(asks, name):
    assert asks.images.generate(model=name, prompt="a fox", extra_body={"num_inference_steps": 1}).data


def test_another_model_is_not_found(asks):
    assert asks.models.retrieve("tiny").id == "tiny"
    for call in (lambda: asks.models.retrieve("other"), lambda: asks.images.generate(model="other", prompt="a")):
        with pytest.raises(openai.NotFoundError, match="'tiny'"):
            call()


@pytest.mark.parametrize("body", [{}, {"stream": True}])
def test_a_client_that_leaves_cancels_its_job(live, engine, held, body):
    before = {job.id for job in engine.jobs}
    content = json.dumps({"prompt": "a fox"} | body).encode()
    host, _, port = live.removeprefix("http://").partition(":")
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        while not (jobs := [job for job in engine.jobs if job.id not in before]):
            time.sleep(0.01)
        if body:
            assert client.recv(1)  # it streams
    with pytest.raises(CancelledError):
        jobs[0].result(PATIENCE)  # others hold its place: it would never end by itself
