"""Inspections over HTTP have the tensors of the function, and what is of others is not shown."""

import io
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from starlette.testclient import TestClient

from diffuscope.images import png_bytes
from diffuscope.lens.inspect import KINDS, inspect
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application

FOX = {"prompt": "a red fox", "seed": 3, "num_inference_steps": 2}
OPTIONS = {
    "blend": {"to": "a blue cup", "count": 2},
    "ablation": {"names": "unet.mid.*.cross_attn", "strength": 0.5},
    "ablation-map": {"bands": 1},
    "prompt-to-prompt": {"edit": "a blue fox"},
    "colour": {"colour": [0.9, 0.1, 0.1]},
}


@pytest.fixture(scope="module")
def client(tiny):
    engine = Engine(tiny, running=2)
    yield TestClient(application(engine), base_url="http://localhost", raise_server_exceptions=False)
    engine.stop(drain=False)


def made(client, kind):
    answer = client.post("/api/v1/inspections", json={"kind": kind, "request": FOX, "options": OPTIONS.get(kind, {})})
    assert answer.status_code == 202, answer.text
    job = answer.json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")  # to its end
    return job


def metadata(content):
    return json.loads(json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["diffuscope"])


@pytest.mark.parametrize("kind", KINDS)
def test_tensors_are_those_of_the_function(client, tiny, kind):
    job = made(client, kind)
    answer = client.get(f"/api/v1/inspections/{job}/tensors")
    assert "immutable" in answer.headers["cache-control"]
    expected = inspect(tiny, kind, "a red fox", seed=3, num_inference_steps=2, options=OPTIONS.get(kind))
    tensors = load(answer.content)
    assert tensors.keys() == expected.tensors.keys()
    for name, value in tensors.items():
        if value.dtype == torch.uint8:
            assert (value.int() - expected[name].int()).abs().max() <= 1, name
        else:
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)
    assert metadata(answer.content) == json.loads(json.dumps(expected.about))
    assert client.get(f"/api/v1/jobs/{job}").json()["label"] == kind
    described = client.get(f"/api/v1/inspections/{job}").json()
    assert (described["state"], described["kind"], described["done"]) == ("done", kind, described["calls"])
    assert described["shapes"] == {name: list(value.shape) for name, value in expected.tensors.items()}


@pytest.fixture(scope="module")
def inputs():
    """An image to start from, and a mask of its left half."""
    mask = Image.new("RGB", (32, 32))
    mask.paste((255, 255, 255), (0, 0, 16, 32))
    return {"image": Image.linear_gradient("L").resize((32, 32)).convert("RGB"), "mask_image": mask}


def began(client, inputs, request):
    """The job of a call with these pictures, done."""
    ids = {
        name: client.post("/api/v1/pictures", files={"picture": png_bytes(picture)}).json()["id"]
        for name, picture in inputs.items()
    }
    job = client.post("/api/v1/jobs", json={"request": request, **ids}).json()["id"]
    client.get(f"/api/v1/jobs/{job}/events")
    return client.get(f"/api/v1/jobs/{job}").json()


def image_of(client, id):
    return np.asarray(Image.open(io.BytesIO(client.get(f"/api/v1/pictures/{id}.png").content)), int)


@pytest.mark.parametrize("kind", ["attention", "layers", "ablation", "prompt-to-prompt"])
@pytest.mark.parametrize("names", [["image"], ["image", "mask_image"]])
def test_a_run_that_began_from_an_image_is_inspected_with_it(client, tiny, inputs, kind, names):
    """Its pictures are named by the job, and what is inspected is that run."""
    inputs = {name: inputs[name] for name in names}
    request = FOX | {"num_inference_steps": 4, "strength": 0.75, "upscale": 1}
    job = began(client, inputs, request)
    ids = {name: job[name] for name in names}
    for name, id in ids.items():
        assert np.array_equal(image_of(client, id), np.asarray(inputs[name]))
    body = {"kind": kind, "request": request, "options": OPTIONS.get(kind, {}), **ids}
    seen = client.post("/api/v1/inspections", json=body).json()["id"]
    client.get(f"/api/v1/jobs/{seen}/events")
    tensors = load(client.get(f"/api/v1/inspections/{seen}/tensors").content)
    expected = inspect(tiny, kind, options=OPTIONS.get(kind), **inputs, **request)
    assert tensors.keys() == expected.tensors.keys()
    assert (tensors["pictures"].int() - expected["pictures"].int()).abs().max() <= 1
    if kind != "layers":  # of which the first is that of the embeddings
        assert np.abs(tensors["pictures"][0].numpy().astype(int) - image_of(client, job["pictures"][0])).max() <= 1


def test_a_branch_of_an_inpainted_run_is_inspected_with_its_pictures(client, inputs):
    request = FOX | {"num_inference_steps": 4, "strength": 0.75, "upscale": 1}
    job = began(client, inputs, request)
    origin = {"from": {"job": job["id"], "step": 1}, "request": {"prompt": "a blue cup"}}
    branch = client.post("/api/v1/jobs", json=origin).json()["id"]
    client.get(f"/api/v1/jobs/{branch}/events")
    made = client.get(f"/api/v1/jobs/{branch}").json()
    options = {name: value for name, value in made["request"].items() if value is not None}
    body = {"kind": "attention", "request": options, "image": made["image"], "mask_image": made["mask_image"]}
    seen = client.post("/api/v1/inspections", json=body).json()["id"]
    client.get(f"/api/v1/jobs/{seen}/events")
    pictures = load(client.get(f"/api/v1/inspections/{seen}/tensors").content)["pictures"]
    assert np.abs(pictures[0].numpy().astype(int) - image_of(client, made["pictures"][0])).max() <= 1


def test_tensors_are_there_while_it_runs(client, halted):
    body = {"kind": "attention", "request": FOX | {"num_inference_steps": 5}}
    job = client.post("/api/v1/inspections", json=body).json()["id"]

    def counts():
        tensors = load(client.get(f"/api/v1/inspections/{job}/tensors").content)
        return {len(value) for name, value in tensors.items() if name.endswith("scale")}

    while client.get(f"/api/v1/jobs/{job}").json()["steps"] != [3]:
        time.sleep(0.01)
    assert counts() == {3}
    halted()
    client.get(f"/api/v1/jobs/{job}/events")  # to its end
    assert counts() == {5}


def test_the_kinds_are_described(client):
    kinds = client.get("/api/v1/inspections").json()
    assert kinds.keys() == KINDS.keys()
    assert "strength" in kinds["ablation"]["options"]["properties"]


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({"kind": "magic"}, "kind"),
        ({"kind": "ablation", "options": {"strenght": 1}}, "strenght"),
        ({"kind": "ablation", "options": {"names": "unet.nothing"}}, "tap"),
        ({"kind": "attention", "request": {"prompt": ["a", "b"]}}, "prompt"),
        ({"kind": "attention", "request": {"prompt": "a fox", "stepz": 1}}, "stepz"),
        ({"kind": "blend", "options": {"count": 99}}, "count"),
        ({"kind": "attention", "image": "nothing"}, "image"),
        ({"kind": "attention", "mask_image": "nothing"}, "mask_image"),
    ],
)
def test_an_impossible_inspection_names_its_argument(client, body, argument):
    answer = client.post("/api/v1/inspections", json={"request": FOX} | body)
    assert answer.status_code == 422
    assert argument in json.dumps(answer.json()["error"])


def test_modules_have_shapes_histograms_and_source(client):
    modules = {each["name"]: each for each in client.get("/api/v1/modules").json()}
    assert modules["unet.mid.attn.0"]["source"]
    assert "class Transformer" in client.get("/api/v1/modules/unet.mid.attn.0/source").json()["text"]
    assert sum(client.get("/api/v1/modules/unet.conv_in.weight/histogram").json()["counts"]) > 0
    for name in ("unet.conv_in", "..%2F..%2Fetc%2Fpasswd", "unet.nothing"):
        answer = client.get(f"/api/v1/modules/{name}/source")
        assert answer.status_code in (404, 422)
        assert "root" not in answer.text


@pytest.mark.parametrize("path", ["", "/tensors"])
def test_what_is_not_there_is_not_found(client, path):
    assert client.get(f"/api/v1/inspections/nothing{path}").status_code == 404
