"""Each rule of the guard has a request that only it refuses."""

import asyncio
import base64

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from diffuscope.serve.http.guard import BodyLimits, Guard
from served import awaited

HOME = "http://localhost"


def client(base=HOME, **options):
    app = FastAPI()

    @app.get("/page")
    def page():
        return "here"

    @app.get("/healthz")
    def healthy():
        return "ok"

    @app.post("/page")
    async def posted(request: Request):
        return len(await request.body())

    return TestClient(Guard(app, **options), base_url=base)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7860", "127.0.0.1:7860", "127.8.8.8", "[::1]:7860", "lab.localhost"]
)
def test_this_machines_names_are_answered(host):
    assert client().get("/page", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.1.2", "[::2]", "", "10.0.0.1:80"],
)
def test_a_name_that_was_rebound_is_refused(host):
    assert client().get("/page", headers={"host": host}).status_code == 403


def test_a_name_can_be_allowed():
    assert client(hosts=["box.example"]).get("/page", headers={"host": "Box.example:7860"}).status_code == 200


def test_another_origin_is_refused_and_ones_own_is_not():
    assert client().get("/page", headers={"origin": "http://evil.example"}).status_code == 403
    assert client().get("/page", headers={"origin": "null"}).status_code == 403
    assert client().get("/page", headers={"origin": "http://localhost:1"}).status_code == 403
    assert client().get("/page", headers={"origin": HOME}).status_code == 200


@pytest.mark.parametrize(
    ("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)
def test_a_browser_tells_of_another_site(site, status):
    assert client().get("/page", headers={"sec-fetch-site": site}).status_code == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_any_page_can_send_is_refused(kind):
    assert client().post("/page", content=b"{}", headers={"content-type": kind}).status_code == 415
    assert client().post("/page", content=b"{}", headers={"content-type": "application/json; a=b"}).json() == 2


def test_a_body_is_cut_off_by_what_it_says_and_by_what_it_is():
    small, kind = client(limits=BodyLimits(bytes=10)), {"content-type": "application/json"}
    assert small.post("/page", content=b"1" * 10, headers=kind).json() == 10
    assert small.post("/page", content=b"1" * 11, headers=kind).status_code == 413
    assert small.post("/page", content=iter([b"1" * 6, b"1" * 6]), headers=kind).status_code == 413
    assert small.post("/page", content=b"1", headers=kind | {"content-length": "-1"}).status_code == 413


def test_a_key_opens_as_bearer_and_as_basic():
    locked = client(key="secret")
    basic = "Basic " + base64.b64encode(b"me:secret").decode()
    for value in ("Bearer secret", "bearer secret", basic):
        assert locked.get("/page", headers={"authorization": value}).status_code == 200
    for value in ("Bearer wrong", "secret", "Basic c2VjcmV0cw==", "Basic !", "Bearer "):
        assert locked.get("/page", headers={"authorization": value}).status_code == 401
    assert locked.get("/page").headers["www-authenticate"] == "Bearer"
    assert locked.get("/healthz").status_code == 200


def test_answers_forbid_what_they_do_not_need_and_allow_no_other_origin():
    for answer in (client().get("/page"), client().get("/page", headers={"host": "evil.example"})):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_an_empty_body_needs_no_content_type():
    assert client().post("/page").json() == 0
    assert client().post("/page", content=iter([b"{}"])).status_code == 415


def test_a_link_leads_to_the_page_and_to_nothing_else():
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert client().get("/lab/", headers=link).status_code == 404  # past the guard; this application has no page
    assert client().get("/page", headers=link).status_code == 403
    assert client().post("/lab/session", json={}, headers=link).status_code == 403
    assert client().get("/lab/", headers=link | {"sec-fetch-dest": "iframe"}).status_code == 403
    assert client().get("/lab/", headers=link | {"sec-fetch-mode": "no-cors"}).status_code == 403


@pytest.mark.parametrize("name", ["origin", "sec-fetch-site", "sec-fetch-mode", "cookie"])
def test_a_browser_needs_the_token_where_a_program_does_not(name):
    own = client(token="secret", token_for_browsers=True)
    assert own.get("/page").status_code == 200
    value = HOME if name == "origin" else "same-origin" if name == "sec-fetch-site" else "a=b"
    answer = own.get("/page", headers={name: value})
    assert (answer.status_code, "token" in answer.json()["error"]["message"]) == (401, True)
    cookie = {"cookie": "diffuscope-page=secret"}
    assert own.get("/page", headers={name: value} | cookie).status_code == 200
    assert own.get("/page", headers={name: value, "authorization": "Bearer secret"}).status_code == 200
    assert own.get("/page", headers={name: value, "cookie": "diffuscope-page=other"}).status_code == 401


def test_the_token_stands_for_the_key_and_not_the_other_way_round():
    locked = client(key="key", token="token")
    assert locked.get("/page", headers={"cookie": "diffuscope-page=token"}).status_code == 200
    assert locked.get("/page").status_code == 401


def call(app, scope, incoming, send):
    """An ASGI application, asked without a network."""
    messages = [*incoming]

    async def receive():
        if not messages:
            await asyncio.sleep(30)
        return messages.pop(0)

    headers = [(b"host", b"localhost"), *scope.pop("headers", [])]
    full = {"type": "http", "method": "GET", "path": "/page", "scheme": "http", "headers": headers} | scope
    return awaited(app(full, receive, send))


def test_a_body_that_does_not_come_is_given_up():
    sent = []

    async def send(message):
        sent.append(message)

    guard = Guard(FastAPI(), limits=BodyLimits(seconds=0.05))
    scope = {"method": "POST", "headers": [(b"content-type", b"application/json"), (b"content-length", b"9")]}
    call(guard, scope, [{"type": "http.request", "body": b"{", "more_body": True}], send)
    assert sent[0]["status"] == 408


def test_a_client_that_does_not_take_its_answer_is_cut_off():
    async def answering(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def send(message):
        if message["type"] == "http.response.body":
            await asyncio.sleep(30)

    with pytest.raises(TimeoutError):
        call(Guard(answering, limits=BodyLimits(seconds=0.05)), {}, [{"type": "http.request", "body": b""}], send)
