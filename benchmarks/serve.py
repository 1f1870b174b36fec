"""What an Engine costs and gives: a lone request against the library, many against one after the other and batches.

    python benchmarks/serve.py --out serve.json
    python benchmarks/serve.py --model sd15 --random --requests 32 --running 16 --rows 32 --out serve.json

Requests are mixed: three samplers, four numbers of steps, with and without guidance. All sides decode and upscale.
A lone request is also asked for over HTTP, to its PNG; the library then writes the same PNG. Processor seconds, those
of the client included, tell the overhead where other programs use the processor too.
One image beside a job of 64 images of another caller is compared with the same alone, in the same run.
"Offline" are the same images in batches of one kind each, which is the most that a device does with them.
"""

import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import torch
import tyro
import uvicorn

import diffuscope as ds
from diffuscope import loading
from diffuscope.bench import measure, report
from diffuscope.config import PRESETS
from diffuscope.pipeline import Pipeline
from diffuscope.serve import Engine
from diffuscope.serve.http.app import application
from diffuscope.serve.http.run import listening
from diffuscope.weights.store.documents import write_text

KINDS: tuple[dict[str, Any], ...] = (
    {"sampler": "dpmpp_2m", "num_inference_steps": 12},
    {"sampler": "euler_ancestral", "num_inference_steps": 16},
    {"sampler": "ddim", "num_inference_steps": 8, "guidance_scale": 1.0},
    {"sampler": "dpmpp_2m", "num_inference_steps": 10, "guidance_scale": 4.0},
)


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    return costs(function)[0]


def costs(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds of one call, and those of the processor."""
    start, used = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - used


def ratio(costly: list[tuple[float, float]], usual: list[tuple[float, float]], k: int) -> float:
    """Of the medians of seconds (k 0), or of processor seconds (1)."""
    return statistics.median(each[k] for each in costly) / statistics.median(each[k] for each in usual)


def mixed(count: int) -> list[ds.Request]:
    """Requests of all kinds in turn."""
    return [ds.Request(prompt=f"a red fox, number {k}", seed=k, **KINDS[k % len(KINDS)]) for k in range(count)]


def together(engine: Engine, mix: list[ds.Request]) -> list[torch.Tensor]:
    """Latents of all of them, asked for at once."""
    return [job.result()[0].latents for job in [engine.submit(request) for request in mix]]


def offline(pipe: Pipeline, mix: list[ds.Request], rows: int) -> None:
    """All of them by the library, in batches of one kind each."""
    for kind in range(len(KINDS)):
        some = mix[kind :: len(KINDS)]
        prompts, seeds = [request.prompt for request in some], [request.seed for request in some]
        pipe(some[0], prompt=prompts, seed=seeds, batch_size=rows // 2)


def beside_many(engine: Engine, request: ds.Request, rounds: int) -> dict[str, object]:
    """Seconds of one image alone and beside a job of 64 images of another caller, watched and not watched."""

    def image(**how: Any) -> float:
        return seconds(lambda: engine.submit(request, owner="one", **how).result())

    alone = [image() for _ in range(rounds)]
    many = engine.submit(replace(request, num_images_per_prompt=64), owner="many")
    time.sleep(2 * max(alone))  # until as many run as may
    watched, unwatched = ([image(interactive=each) for _ in range(rounds)] for each in (True, False))
    many.cancel()
    again = [image() for _ in range(rounds)]
    usual = statistics.median(alone + again)
    ratios = {name: statistics.median(each) / usual for name, each in (("watched", watched), ("not", unwatched))}
    return {"over alone, median": ratios, "alone": alone + again, "watched": watched, "not watched": unwatched}


@contextmanager
def over_http(engine: Engine, request: ds.Request) -> Iterator[Callable[[], bytes]]:
    """Ask a server of this process for the PNG of a request."""
    with listening("127.0.0.1", 0) as own:
        server = uvicorn.Server(uvicorn.Config(application(engine), log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{own.getsockname()[1]}/api/v1"
        body = {"request": json.loads(request.to_json()), "record": []}
        with httpx.Client(timeout=None) as http:

            def ask() -> bytes:
                job = http.post(f"{address}/jobs", json=body).raise_for_status().json()["id"]
                http.get(f"{address}/jobs/{job}/events")
                return http.get(f"{address}/pictures/{job}-0.png").raise_for_status().content

            yield ask
        server.should_exit = True
        thread.join()


def main(
    *,
    model: str = "emoji",
    random: bool = False,
    device: str = "auto",
    requests: int = 16,
    rounds: int = 7,
    running: int = 8,
    rows: int = 16,
    out: Path,
) -> None:
    """Measure, and write JSON.

    Args:
        model: what is served.
        random: random weights; the model is a family, such as sd15.
        device: auto, cpu, cuda.
        requests: in the mix.
        rounds: of lone requests, alternating between library and engine.
        running: images that run at the same time.
        rows: most rows of a network call.
        out: file to write.
    """
    chosen = loading.choose_device(device)
    dtype = loading.choose_dtype("auto", chosen)
    pipe = measure.random_model(PRESETS[model], chosen, dtype) if random else ds.load(model, device=device)
    mix = mixed(requests)
    engine = Engine(pipe, running=running, rows=rows)
    for warming in (
        lambda: [pipe(request) for request in mix[:4]],
        lambda: together(engine, mix),
        lambda: together(engine, mix),
        lambda: offline(pipe, mix, rows),
    ):
        warming()
    library: list[tuple[float, float]] = []
    served, written, asked = library.copy(), library.copy(), library.copy()
    with tempfile.TemporaryDirectory() as folder, over_http(engine, mix[0]) as ask:
        file = Path(folder) / "image.png"
        ask()
        for _ in range(rounds):
            library.append(costs(lambda: pipe(mix[0])))
            served.append(costs(lambda: engine.submit(mix[0]).result()))
            written.append(costs(lambda: pipe(mix[0]).save(file)))
            asked.append(costs(ask))
    alone, served_latents = list[torch.Tensor](), list[torch.Tensor]()
    one_by_one = seconds(lambda: alone.extend(pipe(request).latents for request in mix))
    batched = seconds(lambda: offline(pipe, mix, rows))
    calls = engine.batcher.calls, engine.batcher.joined
    at_once = seconds(lambda: served_latents.extend(together(engine, mix)))
    rows_of_a_call = (engine.batcher.joined - calls[1]) / (engine.batcher.calls - calls[0])
    beside = beside_many(engine, mix[0], rounds)
    engine.stop()
    document = {
        "lone request over the library's, median": ratio(served, library, 0),
        "the same over HTTP, to the PNG": ratio(asked, written, 0),
        "in processor seconds": {"engine": ratio(served, library, 1), "HTTP": ratio(asked, written, 1)},
        "one after the other over together": one_by_one / at_once,
        "offline batches over together": batched / at_once,
        "images a second": {"served": requests / at_once, "offline": requests / batched},
        "seconds": {
            "library": [each for each, _ in library],
            "engine": [each for each, _ in served],
            "library, to the PNG": [each for each, _ in written],
            "HTTP, to the PNG": [each for each, _ in asked],
            "one by one": one_by_one,
            "offline": batched,
            "together": at_once,
        },
        "runs in a call, mean": rows_of_a_call,
        "one image beside a job of 64": beside,
        "largest error of latents, against the same alone": max(map(measure.relative, served_latents, alone)),
        "machine": report.device_name(pipe.device),
        "torch": torch.__version__,
        "command": " ".join(sys.argv),
    }
    write_text(out, json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
