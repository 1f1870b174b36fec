"""OpenAI's interface on a tiny model."""

import base64
import io
import json

import pytest
from PIL import Image

from served import events_of


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
