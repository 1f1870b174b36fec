"""Fetching from a hub: a server on this machine that speaks as much of its protocol as a download needs."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import diffuscope as ds
from diffuscope import hub
from diffuscope.errors import ModelNotFoundError
from diffuscope.pipeline import Pipeline
from hub_files import COMMIT
from refusals import refused


class Server(ThreadingHTTPServer):
    """Serves the files of one folder as the repository owner/tiny, and remembers which were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self.fetched: list[str] = []
        self.sent: dict[str, list[tuple[int, int]]] = {}
        """File -> first byte and number of bytes of each time that it was sent."""
        self.tokens: set[str | None] = set()
        self.breaks = ""
        """A file that is sent to its half, once."""
        self.refuses = ""
        """A file that nobody gets."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/owner/tiny/tree/"):
            tree = [
                {"type": "file", "path": name, "size": path.stat().st_size, "oid": COMMIT}
                for name, path in self.server.files.items()
            ]
            self.send(json.dumps(tree).encode(), with_body)
        elif path.startswith("/api/models/owner/tiny"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.send(json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode(), with_body)
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            name = path.removeprefix(f"/owner/tiny/resolve/{COMMIT}/")
            if name == self.server.refuses:
                self.refuse(403, "GatedRepo")
                return
            if with_body:
                self.server.fetched.append(name)
            self.send(self.server.files[name].read_bytes(), with_body, name)
        else:
            self.refuse(404, "RepoNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, body: bytes, with_body: bool, name: str = "") -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            breaks, self.server.breaks = name and name == self.server.breaks, self.server.breaks
            part = body[first : len(body) // 2] if breaks else body[first:]
            if breaks:
                self.server.breaks, self.close_connection = "", True
            self.server.sent.setdefault(name, []).append((first, len(part)))
            self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests are quiet."""


@pytest.fixture
def server(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    (folder / "README.md").write_text("not needed")
    (folder / "unet" / "diffusion_pytorch_model.non_ema.safetensors").write_bytes(b"not needed")
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_only_the_needed_files_are_fetched_once(tiny: Pipeline, server: Server) -> None:
    assert ds.load("owner/tiny", device="cpu").weights == tiny.weights
    assert sorted(server.fetched) == sorted(hub.needed("owner/tiny", server.files))
    assert "README.md" not in server.fetched
    server.fetched.clear()
    ds.load("owner/tiny", device="cpu")
    assert server.fetched == []


def test_a_broken_connection_goes_on_where_it_stopped(
    tiny: Pipeline, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last block that came whole; these are of ten megabytes, larger than the model here."""
    block = 100_000
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", block)
    broken = "unet/diffusion_pytorch_model.safetensors"
    size = server.files[broken].stat().st_size
    server.breaks = broken
    assert ds.load("owner/tiny", device="cpu").weights == tiny.weights
    came = size // 2 // block * block
    assert server.sent[broken] == [(0, size // 2), (came, size - came)]


def test_a_run_that_broke_off_keeps_the_files_it_has(tiny: Pipeline, server: Server) -> None:
    server.refuses = "vae/diffusion_pytorch_model.safetensors"
    with pytest.raises(ModelNotFoundError, match="HF_TOKEN"):
        ds.load("owner/tiny", device="cpu")
    before, server.refuses = set(server.fetched), ""
    server.fetched.clear()
    assert ds.load("owner/tiny", device="cpu").weights == tiny.weights
    assert before.isdisjoint(server.fetched)
    assert before | set(server.fetched) == set(hub.needed("owner/tiny", server.files))


def test_the_token_of_the_environment_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.fetch("owner/tiny/model_index.json")
    assert server.tokens == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    server.tokens.clear()
    hub.fetch("owner/tiny/vae/config.json")
    assert server.tokens == {"Bearer hf_secret"}


def test_what_is_missing_in_the_cache_is_fetched(tiny: Pipeline, server: Server) -> None:
    folder = hub.fetch("owner/tiny")
    (folder / "vae" / "config.json").unlink()
    server.fetched.clear()
    assert ds.load("owner/tiny", device="cpu").weights == tiny.weights
    assert server.fetched in (["vae/config.json"], [])  # the blob lies in the cache still, so it may only be linked


def test_what_the_hub_does_not_have(server: Server) -> None:
    with pytest.raises(ModelNotFoundError, match="the hub does not serve it"):
        ds.load("owner/other")
    with pytest.raises(ModelNotFoundError, match=r"no file 'a\.safetensors'"):
        ds.load("owner/tiny/a.safetensors")
    del server.files["model_index.json"]
    with refused("name_or_path", "owner/tiny"):
        ds.load("owner/tiny")
