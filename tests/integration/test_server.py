"""`diffuscope serve` as a process, and OpenAI's own client as its guest."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import openai
import pytest
from PIL import Image

from diffuscope.images import png_bytes
from served import PATIENCE

KEY = "a-key"


class Running(NamedTuple):
    """A server."""

    address: str
    process: subprocess.Popen


@contextmanager
def server(*arguments, program=("-m", "diffuscope"), **environment):
    """A server on a free port of this machine, which ends by SIGTERM."""
    command = [sys.executable, *program, "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    try:
        said = ""
        while (found := re.search(r" on (http://\S+);", said)) is None:
            line = process.stderr.readline()
            assert line, said  # it has ended
            said += line
        assert get(f"{found[1]}/readyz").status_code == 200
        yield Running(found[1], process)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        assert process.returncode == 0, process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def get(url):
    return httpx.get(url, timeout=PATIENCE)


@pytest.fixture(scope="module")
def address(tiny_folder):
    """That of a server with a key."""
    with server(str(tiny_folder), "--device", "cpu", DIFFUSCOPE_KEY=KEY) as running:
        yield running.address


def opened(content):
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_openais_client_generates_and_streams(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.images.generate(model="tiny", prompt="a fox", n=2, size="32x32")
        assert [opened(one.b64_json).size for one in answer.data] == [(32, 32)] * 2
        events = list(client.images.generate(model="tiny", prompt="a fox", stream=True, partial_images=1))
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.BadRequestError, match="n: got 11"):
            client.images.generate(model="tiny", prompt="a fox", n=11)
    with (
        openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.images.generate(model="tiny", prompt="a fox")


@pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on this machine, and so no AI SDK: install Node.js")
def test_the_ai_sdk_generates_and_edits(address, tiny):
    """npm's @ai-sdk/openai-compatible, which `make test` installs; it gets the pixels that Python gets."""
    packages = Path(sys.prefix) / "node"
    assert (packages / "node_modules/@ai-sdk").is_dir(), "the AI SDK is not installed: make node"
    picture = base64.b64encode(png_bytes(Image.new("RGB", (32, 32), "red"))).decode()
    script = Path(__file__).with_name("ai_sdk.mjs").read_text(encoding="utf-8")
    # The code as an argument: modules are looked for in the working folder.
    command = ["node", "--input-type=module", "--eval", script, "--", address, KEY, picture]
    done = subprocess.run(command, cwd=packages, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    images = [opened(image["base64"]) for image in found["generated"]["images"] + found["edited"]["images"]]
    assert [(image.format, image.size) for image in images] == [("PNG", (32, 32))] * 3
    call = {"seed": 5, "num_inference_steps": 3, "upscale": 1}
    expected = tiny("a fox", num_images_per_prompt=2, **call).images
    for image, alone in zip(images, expected, strict=False):
        assert np.abs(np.asarray(image, int) - np.asarray(alone, int)).max() <= 1  # made together: to rounding
    assert found["generated"]["warnings"] == found["edited"]["warnings"] == []
    refused = found["refused"]
    assert (refused["name"], refused["status"]) == ("AI_APICallError", 400)
    assert refused["message"].startswith("size: got")


def test_a_public_address_without_a_key_is_refused(tiny_folder):
    environment = {name: value for name, value in os.environ.items() if name != "DIFFUSCOPE_KEY"}
    command = [sys.executable, "-m", "diffuscope", "serve", str(tiny_folder), "--host", "0.0.0.0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert "DIFFUSCOPE_KEY" in done.stderr


@contextmanager
def killed(*arguments):
    """A server that does not live to be told to end."""
    with suppress(ProcessLookupError, AssertionError), server(*arguments) as running:
        yield running


def submit(address, **request):
    body = {"request": {"prompt": "a fox", "seed": 1, "upscale": 1} | request}
    return httpx.post(f"{address}/api/v1/jobs", json=body, timeout=PATIENCE)


TOLD = """
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from diffuscope.cli import main
from diffuscope.serve import Engine
from diffuscope.serve.http import run

folder, work = Path(sys.argv[1]), Engine._run

def until(name):
    while not (folder / name).exists():
        time.sleep(0.01)

def begin(*given):
    until("begin")
    work(*given)

Engine._run = begin
run.time = SimpleNamespace(sleep=lambda _: until("end"))
sys.exit(main(sys.argv[2:]))
"""
"""A server whose jobs begin, and whose grace after the last one ends, when a file of that name is there."""


def test_a_signal_lets_running_and_waiting_jobs_end_and_takes_no_more(tiny_folder, tmp_path):
    options = ("--device", "cpu", "--running", "1", "--drain", str(PATIENCE))
    program = ("-c", TOLD, str(tmp_path))
    with server(str(tiny_folder), *options, program=program) as (address, process):
        jobs = [submit(address).json()["id"] for _ in range(3)]
        with httpx.stream("GET", f"{address}/api/v1/events?after=none", timeout=PATIENCE) as events:
            process.send_signal(signal.SIGTERM)
            refused = submit(address)
            assert (refused.status_code, int(refused.headers["retry-after"]) > 0) == (503, True)
            assert get(f"{address}/readyz").status_code == 503
            (tmp_path / "begin").touch()
            for job in jobs:
                assert "event: done" in get(f"{address}/api/v1/jobs/{job}/events").text
                assert get(f"{address}/api/v1/pictures/{job}-0.png").content.startswith(b"\x89PNG")
            (tmp_path / "end").touch()
            assert "event: reset" in "".join(events.iter_text())  # the stream ends with the server
        assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize(("drain", "sign"), [("0.1", signal.SIGTERM), ("9", signal.SIGINT)])
def test_who_waits_for_a_job_that_cannot_end_is_told(tiny_folder, tmp_path, drain, sign):
    options, program = ("--device", "cpu", "--running", "1", "--drain", drain), ("-c", TOLD, str(tmp_path))
    with server(str(tiny_folder), *options, program=program) as (address, process), ThreadPoolExecutor() as pool:
        asked = {"prompt": "a fox", "n": 2}
        waiting = pool.submit(httpx.post, f"{address}/v1/images/generations", json=asked, timeout=PATIENCE)
        while "state" not in get(f"{address}/metrics").text:
            assert not waiting.done()
        process.send_signal(sign)
        answer = waiting.result()
        assert (answer.status_code, "cancelled" in answer.json()["error"]["message"]) == (410, True)
        (tmp_path / "begin").touch()
        (tmp_path / "end").touch()
        process.wait(PATIENCE)
        assert "Traceback" not in process.stderr.read()
        process.returncode = 0  # of SIGINT it is another


FULL = """
import resource
import signal
import sys

from diffuscope.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
sys.exit(main(sys.argv[1:]))
"""
"""A program that can write no byte into a file, as on a disk that is full."""


def test_a_full_disk_costs_no_picture(tiny_folder):
    picture = png_bytes(Image.effect_noise((1400, 1400), 90).convert("RGB"))
    assert len(picture) > 2_000_000  # more than a form's part may have in memory by default
    with server(str(tiny_folder), "--device", "cpu", program=("-c", FULL)) as (address, _):
        sent = httpx.post(f"{address}/api/v1/pictures", files={"picture": picture}, timeout=PATIENCE).json()["id"]
        body = {"request": {"prompt": "a fox", "upscale": 1, "width": 64, "height": 64}, "image": sent}
        job = httpx.post(f"{address}/api/v1/jobs", json=body, timeout=PATIENCE).json()["id"]
        assert "event: done" in get(f"{address}/api/v1/jobs/{job}/events").text
        assert get(f"{address}/api/v1/pictures/{job}-0.png").content.startswith(b"\x89PNG")


def test_a_second_server_on_the_port_says_so_in_one_sentence(tiny_folder, address):
    port = address.rpartition(":")[2]
    command = [sys.executable, "-m", "diffuscope", "serve", str(tiny_folder), "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert port in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


def test_a_lab_on_a_port_that_is_taken_says_which_one_it_has(tiny_folder, address):
    taken = address.rpartition(":")[2]
    command = [
        sys.executable,
        "-m",
        "diffuscope",
        "lab",
        str(tiny_folder),
        "--device",
        "cpu",
        "--no-browser",
        "--port",
        taken,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        own = re.search(r":(\d+)/lab/", process.stdout.readline())[1]
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=PATIENCE)[1]
    assert own != taken
    assert f"port {taken}" in said
    assert f"port {own}" in said


def test_what_was_done_before_a_kill_is_not_confused_with_what_comes_after(tiny_folder):
    with killed(str(tiny_folder), "--device", "cpu") as (address, process):
        with httpx.stream("GET", f"{address}/api/v1/events", timeout=PATIENCE) as events:
            position = next(line for line in events.iter_lines() if line.startswith("id: ")).removeprefix("id: ")
        job = submit(address).json()["id"]
        process.kill()
    with server(str(tiny_folder), "--device", "cpu") as (again, _):
        assert get(f"{again}/api/v1/jobs/{job}").status_code == 404
        with httpx.stream("GET", f"{again}/api/v1/events?after={position}", timeout=PATIENCE) as events:
            assert next(line for line in events.iter_lines() if line.startswith("event")) == "event: reset"
        assert submit(again).status_code == 202
