"""What runs on Ray, with the real Ray on this machine: each must equal what runs without it, to the bit.

    python benchmarks/ray_cluster.py batch kill data serve train --out benchmarks/results/ray.json

Needs ``ray[data,serve,train]``. ``batch``: images a second of two processes of torchrun and of two workers of Ray, in
turn. ``kill``: a worker dies in the middle of a line, and another line is refused. ``data``: such a list by
``map_batches``. ``serve``: pictures of two replicas. ``train``: a training of two workers. All are on the loopback, and
Ray starts and ends with each.
"""

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

import diffuscope as ds
from diffuscope.batch.many import generate_many, read_requests
from diffuscope.batch.ray import ImageGenerator, generate_on_ray
from diffuscope.bench import report
from diffuscope.bench.timing import Report
from diffuscope.images import image_hash, open_image
from diffuscope.weights.store.documents import write_text

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
MODEL = ["--model", "emoji-turbo", "--device", "cpu"]
TESTS = Path(__file__).parents[1] / "tests"
PORT = 18_231


@contextmanager
def local(cpus: int) -> Iterator[None]:
    """A cluster of this machine."""
    import ray

    ray.init("local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


def files(folder: Path) -> dict[str, bytes]:
    """The pictures with their receipts."""
    return {path.name: path.read_bytes() for path in folder.glob("0*.png")}


def _listed(place: Path, lines: int, *, refused: bool = False) -> list[str]:
    """A list of so many requests, the last of which may have an impossible size."""
    asked = [{"prompt": f"a red fox {k}", "seed": k} for k in range(lines)]
    if refused:
        asked[-1]["width"] = 33
    found = [json.dumps(line) for line in asked]
    (place / "list.jsonl").write_text("\n".join(found) + "\n")
    return found


def rate(out: Path, command: list[str]) -> float:
    """Images a second from the fourth on, by the times of the files, so that starting does not count."""
    subprocess.run([sys.executable, *command, "--quiet", "--out", str(out)], check=True)
    times = sorted(path.stat().st_mtime for path in out.glob("0*.png"))
    return round((len(times) - 4) / (times[-1] - times[3]), 3)


def batch(place: Path, lines: int) -> Report:
    """Two processes and two workers, twice each, in turn."""
    listed, command = _listed(place, lines), ["-m", "diffuscope", "batch", str(place / "list.jsonl"), *MODEL]
    ours, rays = [], []
    for turn in range(2):
        ours.append(rate(place / f"ours-{turn}", [*TORCHRUN, "--rdzv-endpoint", "localhost:0", *command]))
        rays.append(rate(place / f"ray-{turn}", [*command, "--ray", "local", "--workers", "2"]))
    first, *others = [files(place / f"{kind}-{turn}") for kind in ("ours", "ray") for turn in range(2)]
    assert len(first) == len(listed)
    return {
        "images a second, torchrun": ours,
        "images a second, Ray": rays,
        "the same files": all(first == each for each in others),
        "load": os.getloadavg()[0],
    }


def kill(place: Path, lines: int) -> Report:
    """A worker that is killed in the middle of a line, once; a line that is refused; and a second start."""
    _listed(place, lines, refused=True)
    requests, flag, failed = read_requests(place / "list.jsonl"), place / "killed", []

    def load() -> Callable[[ds.Request], ds.Result]:
        pipe = ds.load("emoji-turbo", device="cpu")

        def call(request: ds.Request) -> ds.Result:
            if request.seed == lines // 2 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return pipe(request)

        return call

    with local(2):
        asked = partial(generate_on_ray, load, requests, place / "ray", failed=lambda *which: failed.append(which))
        made = [number for number, written in asked() if written is not None]
        again = [number for number, written in asked() if written is None]
    torch.set_num_threads(1)
    for _ in generate_many(load(), requests[:-1], place / "one"):
        pass
    return {
        "killed": flag.exists(),
        "each line once": sorted(made) == sorted(again) == [*range(1, lines)],
        "the same files": files(place / "ray") == files(place / "one"),
        "refused": [f"line {number}: {error}" for number, error in failed],
    }


def data(place: Path, lines: int) -> Report:
    """Ray Data's pipeline against one process; the list has a request that is refused."""
    import ray

    wanted = _listed(place, lines, refused=True)
    with local(3):  # two for the workers and one for the reader
        rows = ray.data.read_text(str(place / "list.jsonl")).rename_columns({"text": "request"})
        load = partial(ds.load, "emoji-turbo", device="cpu")
        images = rows.map_batches(ImageGenerator, fn_constructor_args=[load], batch_size=4, concurrency=2).take_all()
    torch.set_num_threads(1)
    generate = ImageGenerator(load).generate
    by_request = {row["request"]: row for row in images}
    return {
        "each request once": sorted(row["request"] for row in images) == sorted(wanted),
        "the same files": all(list(by_request[text]["images"]) == generate(text) for text in wanted[:-1]),
        "refused": by_request[wanted[-1]]["error"],
    }


def serve(place: Path, lines: int) -> Report:
    """A picture of each replica, over HTTP."""
    from ray import serve

    from diffuscope.serve import Engine
    from diffuscope.serve.http.app import application

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
    @serve.ingress(lambda: application(Engine(ds.load("emoji-turbo", device="cpu"), exact=True)))
    class Images:
        pass

    with local(4):
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(Images.bind())
        asked = {"prompt": "a red fox", "seed": 32, "response_format": "b64_json", "size": "512x512"}
        answers = []
        for _ in range(lines):
            request = urllib.request.Request(
                f"http://127.0.0.1:{PORT}/v1/images/generations",
                json.dumps(asked).encode(),
                {"content-type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                answers.append(base64.b64decode(json.load(answer)["data"][0]["b64_json"]))
        serve.shutdown()
    torch.set_num_threads(1)
    expected = image_hash(ds.load("emoji-turbo", device="cpu")("a red fox", seed=32).images[0])
    found = []
    for k, content in enumerate(answers):
        (place / f"{k}.png").write_bytes(content)
        found.append(image_hash(open_image(place / f"{k}.png")) == expected)
    return {"answers": lines, "the same images": all(found)}


def train(place: Path, _: int) -> Report:
    """A training of two workers against one of two processes of torchrun."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    script = place / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import ray_cluster as here\n"
        f"here.train_line({str(place / 'torchrun')!r})\n"
    )
    subprocess.run([sys.executable, *TORCHRUN, "--rdzv-endpoint", "localhost:0", str(script)], check=True)
    with local(3):
        where, folder = str(Path(__file__).parent), str(place / "ray")

        def train_loop_per_worker() -> None:
            sys.path.insert(0, where)
            import ray_cluster

            ray_cluster.train_line(folder)

        TorchTrainer(
            train_loop_per_worker,
            scaling_config=ScalingConfig(num_workers=2),
            run_config=RunConfig(storage_path=str(place / "results")),
        ).fit()
    logs = [(place / name / "log.jsonl").read_text() for name in ("torchrun", "ray")]
    losses = [[json.loads(line).get("loss") for line in text.splitlines()] for text in logs]
    first, *others = [
        torch.load(place / name / f"{rank}.pt", weights_only=True) for name in ("torchrun", "ray") for rank in (0, 1)
    ]
    return {
        "losses": losses[0][:6],
        "the same losses": losses[0] == losses[1],
        "the same weights in all": all(torch.equal(first[name], each[name]) for each in others for name in first),
    }


def train_line(folder: str) -> None:
    """A small training in the processes that a launcher has started."""
    sys.path.insert(0, str(TESTS))
    from diffuscope.training import distributed
    from diffuscope.training.loop import train as trained
    from line import CONFIG, Line

    torch.set_num_threads(1)
    with distributed.process_group(torch.device("cpu")):
        average = trained(Line(), CONFIG, Path(folder))
        torch.save(average.state_dict(), Path(folder) / f"{distributed.rank()}.pt")


PARTS: dict[str, Callable[[Path, int], Report]] = {
    "batch": batch,
    "kill": kill,
    "data": data,
    "serve": serve,
    "train": train,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what runs on Ray with what runs without it.")
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--lines", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    document = report.head(torch.device("cpu"), torch.float32, report.this_command())
    document["versions"]["ray"] = version("ray")
    for part in asked.parts:
        with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
            os.environ |= ENVIRONMENT | {"RAY_TMPDIR": folder}
            document[part] = PARTS[part](Path(folder), asked.lines)
            print(json.dumps({part: document[part]}, indent=1), flush=True)
        assert False not in document[part].values()
    write_text(asked.out, json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
