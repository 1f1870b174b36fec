"""A server under load that does not let up: what was acknowledged as done is there, nothing hangs, memory stays flat.

    python benchmarks/soak.py --seconds 1800 --out soak.json
    python benchmarks/soak.py --seconds 1800 --images 1000 --out soak.json  # longer, if so many need it
    python benchmarks/soak.py --seconds 60 --exact  # no call shared: every image has the bits that it has alone

Callers of all three interfaces ask for images of mixed samplers, steps and sizes. Some leave before they are answered,
some follow events and read nothing of them, some send more than the queue takes. Every native image is compared with
the same request made alone. Then the server is killed and started again on the same port.
"""

import argparse
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

QUEUE, PER_CALLER = 16, 16
SAMPLERS = ("dpmpp_2m", "euler", "euler_ancestral", "heun")
WORDS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("fox", "car", "house", "star")]
REQUESTS = [
    {"prompt": WORDS[k % 12], "seed": 7 * k, "sampler": SAMPLERS[k % 4], "num_inference_steps": 1 + k % 3}
    | {"guidance_scale": 1.0 if k % 5 == 0 else 2.5, "upscale": 1, "width": (64, 128)[k % 7 > 2], "height": 128}
    for k in range(60)
]
"""Sixty requests of which no two are alike."""


class Server:
    """``diffuscope serve`` as a process."""

    def __init__(self, model: str, port: int, *flags: str) -> None:
        self.address = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "diffuscope", "serve", model, "--port", str(port), "--running", "4"]
        command += ["--queue", str(QUEUE), "--per-caller", str(PER_CALLER), *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.address}/readyz", timeout=5).status_code == 200:
                    return
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.1)

    def gpu_megabytes(self) -> int | None:
        """Memory of the GPU that is in use; None without one."""
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        with suppress(OSError):
            return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
        return None

    def megabytes(self) -> float:
        """Resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def kept(self) -> float:
        """Megabytes of what it keeps of steps and for branches, which is limited."""
        lines = httpx.get(f"{self.address}/metrics", timeout=60).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("diffuscope_kept_bytes")) / 1e6


class Load:
    """The callers, and what they count."""

    def __init__(self, address: str, alone: list[np.ndarray]) -> None:
        self.address, self.alone = address, alone
        self.counts: Counter[str] = Counter()
        self.most, self.decibels = 0, list[float]()
        self.end = threading.Event()

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        self.counts[name] += number

    def native(self, http: httpx.Client) -> None:
        """A job of our own interface, to its picture."""
        k = random.randrange(len(REQUESTS))
        answer = http.post(f"{self.address}/api/v1/jobs", json={"request": REQUESTS[k], "record": []})
        if answer.status_code == 429:
            self.count("refused with Retry-After", int("retry-after" in answer.headers))
            self.end.wait(0.2)
            return
        job = answer.json()["id"]
        if "event: done" not in http.get(f"{self.address}/api/v1/jobs/{job}/events").text:
            self.count("not done")
            return
        picture = http.get(f"{self.address}/api/v1/pictures/{job}-0.png")
        if picture.status_code != 200:
            self.count("done and lost")
            return
        difference = pixels(picture.content) - self.alone[k]
        most = int(np.abs(difference).max())
        self.count("native images")
        self.count("images that differ", int(most > 0))
        self.count("images that differ by more than 1 of 255", int(most > 1))
        self.most = max(self.most, most)
        if most:
            self.decibels.append(float(20 * np.log10(255) - 10 * np.log10((difference**2).mean())))

    def openai(self, http: httpx.Client) -> None:
        """An image of OpenAI's interface, streamed or not."""
        body = {"prompt": "a red fox", "num_inference_steps": 2, "size": "256x256", "stream": random.random() < 0.5}
        answer = http.post(f"{self.address}/v1/images/generations", json=body | {"partial_images": 1})
        self.count(f"openai {answer.status_code}")
        self.end.wait(0.2)

    def a1111(self, http: httpx.Client) -> None:
        """An image of AUTOMATIC1111's interface."""
        body = {"prompt": "a (red:1.2) fox", "steps": 2, "width": 256, "height": 256, "sampler_name": "Euler a"}
        answer = http.post(f"{self.address}/sdapi/v1/txt2img", json=body)
        self.count(f"a1111 {answer.status_code}")
        self.end.wait(0.2)

    def leaving(self, http: httpx.Client) -> None:
        """A client that leaves after a second."""
        body = {"prompt": "a red fox", "num_inference_steps": 100, "stream": random.random() < 0.5}
        with (
            suppress(httpx.ReadTimeout),
            http.stream("POST", f"{self.address}/v1/images/generations", json=body, timeout=1),
        ):
            pass
        self.count("clients that left")
        self.end.wait(1)

    def overfull(self, http: httpx.Client) -> None:
        """Ten times what the queue holds, at once."""
        jobs = []
        for _ in range(10 * QUEUE):
            answer = http.post(f"{self.address}/api/v1/jobs", json={"request": REQUESTS[0], "record": []})
            self.count(f"overfull {answer.status_code}")
            jobs += [answer.json()["id"]] if answer.status_code == 202 else []
        for job in jobs:
            http.delete(f"{self.address}/api/v1/jobs/{job}")
        self.end.wait(15)

    def slow(self) -> None:
        """Follow the events, and read nothing of them."""
        with socket.create_connection(self.address.removeprefix("http://").split(":")) as own:
            own.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.end.wait()

    def forever(self, function) -> None:
        """Call a caller until the end."""
        name = base64.b64encode(f"{random.random()}:".encode()).decode()
        with httpx.Client(timeout=120, headers={"Authorization": f"Basic {name}"}) as http:
            while not self.end.is_set():
                try:
                    function(http)
                except Exception as error:
                    self.count(f"broken: {type(error).__name__}")


def spread(values: list[float]) -> dict[str, float]:
    """Lowest and median."""
    return {"lowest": round(min(values), 1), "median": round(float(np.median(values)), 1)} if values else {}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB")).astype(int)


def made_alone(model: str, dtype: str) -> list[np.ndarray]:
    import diffuscope

    pipe = diffuscope.load(model, dtype=dtype, fast=True)  # as the server opens it
    return [np.asarray(pipe(**request).images[0]).astype(int) for request in REQUESTS]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--images", type=int, default=0, help="go on until so many native images were compared")
    parser.add_argument("--port", type=int, default=7999)
    parser.add_argument("--dtype", default="auto", help="of the server")
    parser.add_argument("--alone", help="dtype of the images made alone; by default that of the server")
    parser.add_argument("--exact", action="store_true", help="let the server share no call")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    flags = ["--dtype", arguments.dtype, *["--exact"] * arguments.exact]
    alone = made_alone(arguments.model, arguments.alone or arguments.dtype)
    server = Server(arguments.model, arguments.port, *flags)
    load = Load(server.address, alone)
    functions = [load.native] * 8 + [load.openai, load.a1111, load.leaving, load.overfull]
    threads = [threading.Thread(target=load.forever, args=(each,), daemon=True) for each in functions]
    threads += [threading.Thread(target=load.slow, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    memory, kept, gpu, start = [], [], [], time.monotonic()
    while time.monotonic() - start < arguments.seconds or load.counts["native images"] < arguments.images:
        time.sleep(arguments.seconds / 20)
        memory.append(round(server.megabytes()))
        gpu.append(server.gpu_megabytes())
        kept.append(round(server.kept()))
    seconds = round(time.monotonic() - start)
    load.end.set()
    for thread in threads:
        thread.join(180)
    hung = sum(thread.is_alive() for thread in threads)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    again = Server(arguments.model, arguments.port, *flags)
    answer = httpx.post(f"{again.address}/api/v1/jobs", json={"request": REQUESTS[0]})
    ends = httpx.get(f"{again.address}/api/v1/jobs/{answer.json()['id']}/events", timeout=60).text
    again.process.send_signal(signal.SIGTERM)
    found = {
        "seconds": seconds,
        "counts": dict(sorted(load.counts.items())),
        "largest difference of 255": load.most,
        "PSNR of those that differ, dB": spread(load.decibels),
        "callers that hang": hung,
        f"memory in MB, each {arguments.seconds / 20:g} s": memory,
        "of it kept for the page and branches": kept,
        "of the GPU": gpu,
        "after kill -9": "done" if "event: done" in ends else "not done",
        "exit code after SIGTERM": again.process.wait(60),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
