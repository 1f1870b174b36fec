"""`diffuscope serve` as a process, and OpenAI's own client as its guest."""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import openai
import pytest
from PIL import Image

KEY = "a-key"


@contextmanager
def server(*arguments, **environment):
    """A server on a free port of this machine; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "diffuscope", "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise AssertionError(process.stderr.read())
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM), process.stderr.read()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_openais_client_generates_and_streams(tiny_folder):
    with server(str(tiny_folder), "--device", "cpu", DIFFUSCOPE_KEY=KEY) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0)
        answer = client.images.generate(model="tiny", prompt="a fox", n=2, size="32x32")
        assert [Image.open(io.BytesIO(base64.b64decode(one.b64_json))).size for one in answer.data] == [(32, 32)] * 2
        events = list(client.images.generate(model="tiny", prompt="a fox", stream=True, partial_images=1))
        assert [event.type for event in events] == ["image_generation.partial_image", "image_generation.completed"]
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.BadRequestError, match="n: got 11"):
            client.images.generate(model="tiny", prompt="a fox", n=11)
        stranger = openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.images.generate(model="tiny", prompt="a fox")


def test_a_public_address_without_a_key_is_refused(tiny_folder):
    environment = {name: value for name, value in os.environ.items() if name != "DIFFUSCOPE_KEY"}
    command = [sys.executable, "-m", "diffuscope", "serve", str(tiny_folder), "--host", "0.0.0.0"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "DIFFUSCOPE_KEY" in done.stderr
