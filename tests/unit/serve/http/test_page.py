"""The lab's page over HTTP: its files, its policy, and the session of a browser."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient

from diffuscope.loading import choose_device
from diffuscope.pipeline import load
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application

KEY = "a-token"


@pytest.fixture(scope="module")
def guarded(tiny):
    engine = Engine(tiny, running=1)
    yield application(engine, key=KEY)
    engine.stop(drain=False)


@pytest.fixture
def client(guarded):
    return TestClient(guarded, base_url="http://127.0.0.1:7870")


def test_the_page_needs_no_token_and_the_interface_does(client):
    page = client.get("/lab/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert client.get("/lab", follow_redirects=False).headers["location"] == "/lab/"
    assert client.get("/lab/main.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/api/v1/about").status_code == 401


def test_its_policy_allows_its_own_files_alone(client):
    rules = client.get("/lab/").headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in rules
    assert "script-src 'self'" in rules
    assert "style-src 'self'" in rules
    assert not any("unsafe" in rule or "*" in rule for rule in rules)
    assert "script-src" not in client.get("/healthz").headers["content-security-policy"]


def test_the_token_becomes_a_cookie_that_scripts_cannot_read(client):
    answer = client.post("/lab/session", json={"token": KEY})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith("diffuscope-7870=")
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/api/v1/about").status_code == 200


def test_a_wrong_token_is_no_session(client):
    assert client.post("/lab/session", json={"token": "guess"}).status_code == 401
    assert client.get("/api/v1/about").status_code == 401


def test_the_cookie_of_another_port_is_none(client):
    client.cookies.set("diffuscope-7871", KEY)
    assert client.get("/api/v1/about").status_code == 401


def test_a_cookie_does_not_help_another_origin(client):
    client.post("/lab/session", json={"token": KEY})
    headers = {"origin": "http://elsewhere.example"}
    assert client.post("/api/v1/plan", json={"request": {"prompt": "a fox"}}, headers=headers).status_code == 403
    assert client.get("/api/v1/about", headers={"sec-fetch-site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("path", ["nothing.js", "../guard.py", "..%2f..%2fserve%2fengine.py", "jsconfig.json", "%00"])
def test_no_path_leads_out_of_the_page(client, path):
    assert client.get(f"/lab/{path}").status_code in (401, 404)


def test_an_unchanged_file_is_not_sent_again(client):
    tag = client.get("/lab/main.js").headers["etag"]
    assert client.get("/lab/main.js", headers={"if-none-match": tag}).status_code == 304


def test_a_plan_costs_no_computing(client):
    client.post("/lab/session", json={"token": KEY})
    answer = client.post("/api/v1/plan", json={"request": {"prompt": "a fox", "num_inference_steps": 4}}).json()
    assert len(answer["sigmas"]) == 5
    assert answer["sigmas"] == sorted(answer["sigmas"], reverse=True)
    assert answer["request"]["num_inference_steps"] == 4


def test_a_plan_from_an_image_says_where_it_enters(client):
    client.post("/lab/session", json={"token": KEY})
    request = {"prompt": "a fox", "num_inference_steps": 10, "strength": 0.5}
    answer = client.post("/api/v1/plan", json={"request": request, "image": True}).json()
    assert len(answer["all"]) == 11
    assert answer["sigmas"] == answer["all"][5:]


def test_a_step_is_decoded(client, tiny):
    client.post("/lab/session", json={"token": KEY})
    job = client.post("/api/v1/jobs", json={"request": {"prompt": "a fox", "seed": 3, "num_inference_steps": 2}}).json()
    client.get(f"/api/v1/jobs/{job['id']}/events")  # to its end
    path = f"/api/v1/jobs/{job['id']}/images/0/steps/1/x0"
    shape = [int(side) for side in client.get(path).headers["x-shape"].split(",")]
    latents = torch.frombuffer(bytearray(client.get(path).content), dtype=torch.float32).view(1, *shape)
    shown = Image.open(io.BytesIO(client.get(f"{path}.png").content))
    difference = np.asarray(shown).astype(int) - np.asarray(tiny.decode(latents)[0]).astype(int)
    assert np.abs(difference).max() <= 1
    assert client.get(f"/api/v1/jobs/{job['id']}/images/0/steps/9/x0.png").status_code == 404


@pytest.mark.parametrize("how", [{}, {"fast": True}, {"dtype": "bfloat16", "fast": True}])
def test_the_page_knows_how_the_model_was_opened(tiny_folder, how):
    engine = Engine(load(str(tiny_folder), device="cpu", **how), running=1)
    about = TestClient(application(engine), base_url="http://127.0.0.1:7870").get("/api/v1/about").json()
    engine.stop()
    assert about["load"] == how | ({} if choose_device("auto").type == "cpu" else {"device": "cpu"})
