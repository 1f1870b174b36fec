"""A measurement has what it says, in the JSON and in its tables."""

import json
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from diffuscope.bench import measure, report, timing
from diffuscope.bench.peers import Peer
from diffuscope.bench.timing import Timer
from diffuscope.cli import main
from diffuscope.config import PRESETS
from diffuscope.request import Request

CPU = torch.device("cpu")
TIMER = Timer(CPU, 1e-6)


def test_times_are_of_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    lasts = iter([9.0, 4.0, 1.0, 3.0, 2.0])

    def call() -> None:
        now[0] += next(lasts)

    found = TIMER.timed(call)
    assert (found["ms"], found["range"], found["number"]) == (2000, [1000, 3000], 3)


def test_the_first_call_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Timer, "once", lambda _, call: call())
    lasts = iter([9.0, 1.0, 3.0, 2.0])
    assert TIMER.whole(lambda: next(lasts)) == {"first_s": 9, "s": 2, "range": [1, 3]}


def test_operations_of_a_product() -> None:
    a = torch.zeros(100, 200)
    assert timing.operations(lambda: a @ a.T) == pytest.approx(2 * 100 * 200 * 100 / 1e12)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the resident memory")
def test_the_peak_of_memory() -> None:
    code = """
import torch
from diffuscope.bench import timing

found = {}
with timing.peak(torch.device("cpu"), found):
    torch.zeros(40 << 18).add_(1)  # and freed
print(found["peak_mib"])
"""  # alone in a process: what others free meanwhile would be taken off
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 35 <= int(run.stdout) <= 80


@pytest.mark.parametrize("family", ["tiny-sd15", "tiny-sdxl", "tiny-sd15-lcm"])
def test_parts_of_a_family(family: str) -> None:
    config = PRESETS[family]
    pipe = measure.random_model(config, CPU, torch.float32)
    size = (32, 32)
    step = measure.step(pipe.unet, config, size, TIMER, peers=False)
    decoder = measure.decode(pipe.vae, size, TIMER, peers=False)
    for each in (step, decoder):
        assert each["tflop"] > 0
        assert each["plain"]["error"] == 0
        assert each["fast"]["error"] < 1e-4
    calls = measure.calls(pipe, Request("a fox", seed=1, num_inference_steps=1, height=32, width=32), TIMER, batch=2)
    assert calls["batch"]["images"] == 2
    document = {"measured": {"step": step, "decoder": decoder, "calls": calls}, "versions": {}, "device": "this"}
    text = report.tables(document | {"rates": {"product_tflops": 1.0}, "command": "command"})
    assert "| step |" in text
    assert "| calls |" in text


def test_a_part_or_a_peer_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Callable[[], object]:
        raise OSError("no such library\nand more")

    found = measure.measured({"bad": fails, "good": lambda: {"ms": 1}}, TIMER, lambda _: None)
    assert "no such library" in found["bad"]["failed"]
    assert found["good"] == {"ms": 1}
    peers = [Peer("other", fails), Peer("another", lambda: lambda: None)]
    monkeypatch.setattr(measure, "decoder_peers", lambda *_, **__: iter(peers))
    vae = measure.made(measure.VAE, PRESETS["tiny-sd15"].vae, CPU, torch.float32)
    decoder = measure.decode(vae, (16, 16), TIMER)
    assert decoder["other"] == {"failed": "OSError: no such library"}
    assert "first_s" in decoder["another"]


@pytest.mark.slow
def test_diffusers_runs_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO runs the decoder: to convert this U-Net too takes 17 s."""
    peers = measure.unet_peers
    monkeypatch.setattr(measure, "unet_peers", lambda *args, **options: islice(peers(*args, **options), 1))
    config = PRESETS["tiny-sdxl"]
    unet = measure.made(measure.UNet, config.unet, CPU, torch.bfloat16)
    vae = measure.made(measure.VAE, config.vae, CPU, torch.bfloat16)
    step, decoder = measure.step(unet, config, (16, 16), TIMER), measure.decode(vae, (16, 16), TIMER)
    for each in (step, decoder):
        assert each["diffusers"]["ms"] > 0
        assert 0 < each["diffusers"]["error"] < 0.05  # of other weights it would be about 1
    assert "failed" not in decoder.get("openvino", {})
    document = {"measured": {"step": step, "decoder": decoder}, "versions": {}, "device": "this", "command": "command"}
    lines = report.tables(document | {"rates": {"product_tflops": 1.0}}).splitlines()
    (title,) = (line for line in lines if "error against float32" in line)
    assert title.endswith("| fast, of diffusers' |")
    ratio = step["fast"]["error"] / step["diffusers"]["error"]
    assert any(line.startswith("| step |") and line.endswith(f"| {ratio:.2f} |") for line in lines)


def test_one_image_on_two_gpus_has_a_table() -> None:
    times = {"one GPU": {"s": 0.3}, "two GPUs": {"s": 0.2}, "ratio": 1.5, "ratio of the steps": 1.6}
    document = {"measured": {"SDXL": times | {"largest difference": {"latents": 0.001}}}, "versions": {}}
    text = report.tables(document | {"device": "this", "command": "command", "rates": {"product_tflops": 1.0}})
    assert "| SDXL | 0.300 | 0.200 | 1.50 | 1.60 | 1.0e-03 |" in text


def test_what_is_exact_is_so_on_a_gpu_too() -> None:
    before = torch.backends.cudnn.allow_tf32
    with measure.full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 is before


def test_the_command_writes_json_and_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, out = tmp_path / "page.md", tmp_path / "bench.json"
    page.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n", encoding="utf-8")
    options = ["--steps", "1", "--seconds", "1e-6", "--no-peers", "--device", "cpu"]
    code = main(["bench", "tiny-sd15", "--random", *options, "--json", str(out), "--page", str(page)])
    assert code == 0
    document = json.loads(out.read_text(encoding="utf-8"))
    assert document["versions"]["torch"]
    assert document["rates"]["product_tflops"] > 0
    assert [name for name in document["measured"] if "step with guidance" in name]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- bench -->\n| ms |")
    assert text.endswith("<!-- /bench -->\nafter\n")
    assert "of the product rate" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["sd99", "--random"], "model"),
        (["tiny-sd15", "--random", "--seconds", "0"], "--seconds"),
        (["tiny-sd15", "--random", "--batch", "1"], "--batch"),
        (["tiny-sd15", "--random", "--page", "nowhere.md"], "--page"),
        (["tiny-sd15", "--random", "--json", "nowhere/bench.json"], "nowhere"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *flags]) == 2
    assert named in capsys.readouterr().err
