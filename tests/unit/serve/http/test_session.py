"""The page of the lab and its session: the token of this start becomes a cookie."""

import pytest
from starlette.testclient import TestClient

from diffuscope.serve.http.app import application

BROWSER = {"sec-fetch-site": "same-origin", "origin": "http://localhost"}


def lab(engine, **options):
    return TestClient(application(engine, **options), base_url="http://localhost", headers=BROWSER)


def test_the_token_becomes_a_cookie_that_no_script_reads(engine):
    page = lab(engine, token="of-this-start")
    assert page.get("/lab/").status_code == 200
    assert page.get("/api/v1/about").status_code == 401
    assert page.post("/lab/session", json={"token": "another"}).status_code == 401
    assert page.get("/api/v1/about").status_code == 401
    cookie = page.post("/lab/session", json={"token": "of-this-start"}).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert page.get("/api/v1/about").status_code == 200
    assert page.post("/sdapi/v1/interrupt").status_code == 200


def test_the_cookie_never_holds_the_key(engine):
    page = lab(engine, key="the-key")
    answer = page.post("/lab/session", json={"token": "the-key"})
    assert "the-key" not in answer.headers["set-cookie"]
    assert page.get("/api/v1/about").status_code == 200


def test_programs_of_this_machine_need_no_token_and_other_pages_get_nowhere(engine):
    page = lab(engine, token="of-this-start")
    page.post("/lab/session", json={"token": "of-this-start"})
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert page.get("/api/v1/about", headers=headers).status_code == 403
    program = TestClient(application(engine, token="of-this-start"), base_url="http://localhost")
    for path in ("/api/v1/about", "/v1/models", "/sdapi/v1/options"):
        assert program.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/lab/", "/lab/main.js"])
def test_the_pages_files_may_run_only_the_pages_scripts(engine, path):
    policy = lab(engine).get(path).headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "unsafe" not in " ".join(policy)


@pytest.mark.parametrize("path", ["/lab/../app.py", "/lab/%2e%2e/app.py", "/lab/jsconfig.json", "/lab/none.js"])
def test_other_files_are_not_found(engine, path):
    assert lab(engine).get(path).status_code == 404
