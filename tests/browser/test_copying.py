"""What "Copy as" gives: the Python, the command and the HTTP request of every view run, and give the same array."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect
from safetensors.torch import load_file

import lora_files
from diffuscope.cli import main
from diffuscope.cli.generate import AdapterFlags
from diffuscope.cli.serve import opened as opened_by_the_lab
from diffuscope.images import png_bytes
from diffuscope.model_source import ModelSource
from diffuscope.pipeline import Pipeline
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from served import PATIENCE, listening

COPIED = """async ([model, image, mask_image]) => {
  const load = (file) => import(`/lab/${file}.js`);
  const [{ VIEWS }, { initial }] = await Promise.all([load('views'), load('store')]);
  const about = { ...(await (await fetch('/api/v1/about')).json()), model };
  const options = { num_inference_steps: 3, guidance_scale: 4, negative_prompt: "it's wet", upscale: 1 };
  const run = (prompt, more = {}, inputs = {}) => ({ id: '', request: { prompt, ...options, sampler_options: {},
    prompt_syntax: 'plain', ...more }, seeds: [7], state: 'done', images: 1, made: [true], steps: [3], sigmas: [],
    total: 3, slot: null, from: null, error: null, inputs, at: 0 });
  const inner = { ...options, seed: 7 };
  const once = { step: 1, request: { prompt: 'a red cup', ...inner } };
  const floats = new Float32Array(4 * 16 * 16).map((_, k) => Math.sin(k));
  const x = { shape: [1, 4, 16, 16], data: btoa(String.fromCharCode(...new Uint8Array(floats.buffer))) };
  const painted = { step: 2, request: { prompt: 'a blue cup', ...inner, branch: once }, x };
  const runs = {
    plain: run("a red fox's den"),
    other: run('a blue cup'),
    branched: run('a blue cup', { branch: once }),
    painted: run('a frog', { branch: painted }),
    edited: run('a frog', { strength: 0.9 }, { image }),
    adapted: run('a zeb fox <lora:one:0.7>'),
    filled: run('a frog', { strength: 0.9, branch: { ...once, request: { ...once.request, strength: 0.9 } } },
      { image, mask_image }),
  };
  for (const [id, each] of Object.entries(runs)) each.id = id;
  const local = { edit: { edit: 'a blue fox in snow', word: 'snow' }, mix: { to: 'a blue cup', count: 2 },
    axes: { x: 'prompt', y: 'sampler', xs: "a cup, a fox's den", ys: 'euler' },
    ablationMade: { names: ['unet.mid.attn.0.block.0.cross_attn'], strength: 0.5, area: '10,01' } };
  const made = (current) => {
    const state = { ...initial(), about, runs, order: Object.keys(runs), current, other: 'other', local,
      options: { prompt: "a red fox's den", num_inference_steps: 2, upscale: 1 } };
    return Object.fromEntries(VIEWS.map((view) => [view.id, view.copy?.(state)]));
  };
  return Object.fromEntries(Object.keys(runs).map((id) => [id, made(id)]));
}"""


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """The files that copied texts name: an image to start from, and its mask."""
    image, mask = Image.linear_gradient("L").resize((32, 32)), Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 16, 32))
    return {"start.png": png_bytes(image.convert("RGB")), "mask.png": png_bytes(mask.convert("RGB"))}


@pytest.fixture(scope="module")
def adapters(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a folder of LoRAs, and a learned word."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "loras").mkdir()
    tensors = lora_files.kohya(lora_files.layers(tiny, wanted=lora_files.trained))
    lora_files.write(folder / "loras/one.safetensors", tensors)
    width = tiny.text_encoder.config.width
    lora_files.write(folder / "zeb.safetensors", {"emb_params": torch.linspace(-1, 1, 2 * width).reshape(2, width)})
    return folder


@pytest.fixture(scope="module")
def copied(opened, tiny_folder: Path, pictures, adapters) -> Iterator[dict[str, dict[str, dict[str, str]]]]:
    """Run on show -> view -> language -> text, on a server of the tiny model, opened as the lab does on a CPU."""
    flags = AdapterFlags(adapters / "loras", (adapters / "zeb.safetensors",))
    engine = Engine(opened_by_the_lab(ModelSource(str(tiny_folder), device="cpu"), flags))
    with listening(application(engine)) as address, opened() as page:
        ids = [
            httpx.post(f"{address}/api/v1/pictures", files={"picture": content}, timeout=PATIENCE).json()["id"]
            for content in pictures.values()
        ]
        page.goto(f"{address}/lab/style/tokens.css")
        yield dict(page.evaluate(COPIED, [str(tiny_folder), *ids]))
    engine.stop(drain=False)


IMAGE_VIEWS = ["generate", "runs", "branch", "tours"]
"""Views of the run itself: what they copy is one text."""

RUNS = {
    "plain": [
        *("generate", "grid", "steps", "schedule", "guidance", "compare", "attention", "self-attention", "modules"),
        *("tokens", "layers", "mix", "ablation", "edit", "colour"),
    ],
    "branched": ["generate", "schedule", "attention"],
    "painted": ["generate", "compare"],
    "edited": ["generate", "schedule", "layers", "grid"],
    "adapted": ["generate", "attention", "schedule", "compare"],
    "filled": ["generate", "attention"],
}
"""Run on show -> the views of which each text is run."""

RECORDED = r"""
diffuscope() { printf '%s\0' diffuscope "$@"; printf '\n\0'; }
python() { printf '%s\0' python "$@"; printf '\n\0'; }
"""
"""Functions of a shell in the place of our commands, which run in this process: they say how they are called."""


def shell(text: str, folder: Path) -> str:
    """What the commands print."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # the commands of this installation
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def command(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What commands print that a shell reads, and that run in this process."""
    calls = shell(RECORDED + text, folder).split("\n\0")[:-1]
    assert calls
    monkeypatch.chdir(folder)
    for call in calls:
        program, *arguments = call.split("\0")[:-1]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if program == "diffuscope":
                assert main(arguments) == 0
            else:
                assert arguments[0] == "-c"
                exec(arguments[1], {})
    return printed.getvalue()


def array_of(folder: Path, printed: str, tensor: str | None, key: str | None) -> torch.Tensor:
    """What was written to files, or printed."""
    files = sorted(path for path in folder.glob("*.safetensors") if path.stem != "zeb")
    if len(files) == 2:
        one, other = (load_file(folder / f"{name}.safetensors")["x0"] for name in ("one", "other"))
        return one - other
    if files:
        assert tensor is not None
        return load_file(files[0])[tensor]
    images = sorted(folder.glob("cell*.png"), key=lambda path: int("0" + "".join(filter(str.isdigit, path.stem))))
    if images:
        return torch.stack([pixels(path) for path in images])
    if (folder / "image.png").exists():
        return pixels(folder / "image.png")
    found = json.loads(printed)
    for part in (key or "").split("."):
        found = (
            (found[int(part)] if part.isdigit() else found[part]) if isinstance(found, dict | list) and part else found
        )
    return torch.tensor(np.asarray(found))


def pixels(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path)).copy())


KEYS = {"schedule": "sigmas", "modules": "counts", "tokens": "windows.0.ids"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine: apt-get install curl")
@pytest.mark.parametrize(("run", "view"), [(run, view) for run, views in RUNS.items() for view in views])
def test_each_language_gives_the_same_array(copied, pictures, adapters, run, view, tmp_path, monkeypatch):
    texts = copied[run][view]
    python, cli, http = (tmp_path / name for name in ("python", "cli", "http"))
    for folder in (python, cli, http):
        shutil.copytree(adapters, folder) if run == "adapted" else folder.mkdir()
        for name, content in pictures.items():
            (folder / name).write_bytes(content)
            if view == "compare":
                (folder / f"one-{name}").write_bytes(content)
    monkeypatch.chdir(python)
    names: dict[str, object] = {}
    exec(texts["python"], names)
    expected = torch.tensor(np.asarray(names["array"]))
    tensor = found[1] if (found := re.search(r'array = found\["(.+)"\]', texts["python"])) else None
    printed = command(texts["cli"], cli, monkeypatch)
    assert torch.equal(array_of(cli, printed, tensor, None).to(expected.dtype), expected), "the command"
    printed = shell(texts["http"].replace("TOKEN=...", "TOKEN=none"), http)
    served = array_of(http, printed, tensor, KEYS.get(view))
    if expected.dtype == torch.uint8:
        rounding = 0 if view == "generate" else 1  # the others' are made beside other calls
        assert (served.int() - expected.int()).abs().max() <= rounding, "the request"
    else:
        torch.testing.assert_close(served.to(expected.dtype), expected, rtol=1e-4, atol=1e-4)


def test_every_view_can_be_copied(copied):
    languages = {"python", "cli", "http"}
    for run, views in copied.items():
        assert {view: set(texts or ()) for view, texts in views.items()} == dict.fromkeys(views, languages), run
        assert all(views[view] == views["generate"] for view in IMAGE_VIEWS)
    assert {*RUNS["plain"], *IMAGE_VIEWS} == copied["plain"].keys()


def test_the_menu_closes_when_one_leaves_it(page):
    menu = page.locator("details.copy")
    for leave in ("press Escape", "click", "focus"):
        menu.locator("summary").click()
        menu.get_by_role("button", name="HTTP").click()
        expect(menu).to_have_attribute("open", "")
        if leave == "press Escape":
            page.keyboard.press("Escape")
            expect(menu.locator("summary")).to_be_focused()
        elif leave == "click":
            page.get_by_role("heading", level=1).click()
        else:
            page.get_by_label("Prompt", exact=True).focus()
        expect(menu).not_to_have_attribute("open", "")
