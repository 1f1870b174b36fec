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
from diffuscope.errors import InputError, ModelNotFoundError
from diffuscope.pipeline import Pipeline

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Server(ThreadingHTTPServer):
    """Serves the files of one folder as the repository owner/tiny, and remembers which were asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self.fetched: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
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
            if with_body:
                self.server.fetched.append(name)
            self.send(self.server.files[name].read_bytes(), with_body)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def send(self, body: bytes, with_body: bool) -> None:
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body) - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self.wfile.write(body[first:])

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests are quiet."""


@pytest.fixture
def server(tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    folder = tiny.save(tmp_path / "repository")
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
    assert sorted(server.fetched) == sorted(hub.needed(server.files))
    assert "README.md" not in server.fetched
    server.fetched.clear()
    ds.load("owner/tiny", device="cpu")
    assert server.fetched == []


def test_what_is_missing_in_the_cache_is_fetched(tiny: Pipeline, server: Server) -> None:
    folder = hub.fetch("owner/tiny")
    (folder / "vae" / "config.json").unlink()
    server.fetched.clear()
    assert ds.load("owner/tiny", device="cpu").weights == tiny.weights
    assert server.fetched in (["vae/config.json"], [])  # the blob lies in the cache still, so it may only be linked


def test_what_the_hub_does_not_have(server: Server) -> None:
    with pytest.raises(ModelNotFoundError, match="the hub does not give it"):
        ds.load("owner/other")
    with pytest.raises(ModelNotFoundError, match=r"no file 'a\.safetensors'"):
        ds.load("owner/tiny/a.safetensors")
    del server.files["model_index.json"]
    with pytest.raises(InputError, match=r"owner/tiny is no model: it has no model_index\.json"):
        ds.load("owner/tiny")
