"""What "Copy as" gives: the Python, the command and the HTTP request of every view run, and give the same array."""

import contextlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from safetensors.torch import load_file

from diffuscope.cli import main
from diffuscope.pipeline import Pipeline
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application

with socket.create_server(("127.0.0.1", 0)) as _free:  # each process of the tests has a server of its own
    PORT = _free.getsockname()[1]
COPIED = """async ([model, id]) => {
  const load = (file) => import(`/lab/${file}.js`);
  const [{ VIEWS }, { initial }] = await Promise.all([load('views'), load('store')]);
  const about = { ...(await (await fetch('/api/v1/about')).json()), model };
  const options = { num_inference_steps: 3, guidance_scale: 4, negative_prompt: "it's wet", upscale: 1 };
  const run = (id, prompt) => ({ id, request: { prompt, ...options, sampler_options: {}, prompt_syntax: 'plain' },
    seeds: [7], state: 'done', images: 1, done: 1, steps: [3], sigmas: [], total: 3, slot: null, from: null,
    error: null, receipt: null, at: 0 });
  const runs = { a: run('a', "a red fox's den"), b: run('b', 'a blue cup') };
  const local = { edit: { edit: 'a blue fox in snow', word: 'snow' }, mix: { to: 'a blue cup', count: 2 },
    ablationMade: { names: ['unet.mid.attn.0.block.0.cross_attn'], strength: 0.5 } };
  const state = { ...initial(), about, runs, order: ['a', 'b'], current: 'a', other: 'b', local,
    options: { prompt: "a red fox's den" } };
  return VIEWS.filter((view) => view.copy).map((view) => [view.id, view.copy(state)]).filter(([, copied]) => copied);
}"""


@pytest.fixture(scope="module")
def copied(browser, tiny: Pipeline, tiny_folder: Path) -> Iterator[dict[str, dict[str, str]]]:
    """View -> language -> text, on a server of the tiny model."""
    engine = Engine(tiny)
    server = uvicorn.Server(uvicorn.Config(application(engine), port=PORT, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{PORT}/lab/style/tokens.css")
    yield dict(page.evaluate(COPIED, [str(tiny_folder), ""]))
    page.close()
    server.should_exit = True
    thread.join()
    engine.stop(drain=False)


VIEWS = [
    "generate",
    "runs",
    "steps",
    "schedule",
    "guidance",
    "compare",
    "attention",
    "places",
    "modules",
    "tokens",
    "layers",
    "mix",
    "ablation",
    "edit",
    "colour",
]


def shell(text: str, folder: Path) -> str:
    """What the commands print; each of ours runs in this process."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # the commands of this installation
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    import shlex

    monkeypatch.chdir(folder)
    for line in text.splitlines():
        program, *arguments = shlex.split(line)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if program == "diffuscope":
                assert main(arguments) == 0
            else:
                assert (program, arguments[0]) == ("python", "-c")
                exec(arguments[1], {})
    return printed.getvalue()


def array_of(folder: Path, printed: str, tensor: str | None, key: str | None) -> torch.Tensor:
    """What was written to files, or printed."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 2:
        one, other = (load_file(folder / f"{name}.safetensors")["x0"] for name in ("one", "other"))
        return one - other
    if files:
        assert tensor is not None
        return load_file(files[0])[tensor]
    if (folder / "image.png").exists():
        return torch.from_numpy(np.asarray(Image.open(folder / "image.png")).copy())
    found = json.loads(printed)
    for part in (key or "").split("."):
        found = (
            (found[int(part)] if part.isdigit() else found[part]) if isinstance(found, dict | list) and part else found
        )
    return torch.tensor(np.asarray(found))


KEYS = {"schedule": "sigmas", "modules": "counts", "tokens": "windows.0.ids"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine: apt-get install curl")
@pytest.mark.parametrize("view", VIEWS)
def test_each_language_gives_the_same_array(copied, view, tmp_path, monkeypatch):
    texts = copied[view]
    python, cli, http = (tmp_path / name for name in ("python", "cli", "http"))
    for folder in (python, cli, http):
        folder.mkdir()
    monkeypatch.chdir(python)
    names: dict[str, object] = {}
    exec(texts["python"], names)
    expected = torch.tensor(np.asarray(names["array"]))
    tensor = found[1] if (found := re.search(r'array = found\["(.+)"\]', texts["python"])) else None
    printed = command(texts["cli"], cli, monkeypatch)
    assert torch.equal(array_of(cli, printed, tensor, None).to(expected.dtype), expected), "the command"
    printed = shell(texts["http"].replace("TOKEN=...", "TOKEN=none"), http)
    served = array_of(http, printed, tensor, KEYS.get(view))
    if expected.dtype == torch.uint8:  # made beside other calls: to rounding
        assert (served.int() - expected.int()).abs().max() <= 1, "the request"
    else:
        torch.testing.assert_close(served.to(expected.dtype), expected, rtol=1e-4, atol=1e-4)


def test_every_view_that_shows_an_array_can_be_copied(copied):
    assert set(VIEWS) <= set(copied)
    assert all(texts.keys() == {"python", "cli", "http"} for texts in copied.values())
