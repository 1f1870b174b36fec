"""The parts of ``benchmarks/train_gpu.sh`` on tiny networks: what they measure on a GPU they find on a CPU too."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "train_gpu.sh"

pytestmark = pytest.mark.slow


def run(out: Path, part: str) -> dict:
    """The document of a part."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # the script says python3
    env = os.environ | {"PATH": path, "TINY": "1", "OMP_NUM_THREADS": "1", "FASHION": str(out), "LIMIT": "2000"}
    done = subprocess.run(["bash", str(SCRIPT), str(out), part], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.startswith(f"{part}: exit code 0"), (out / f"{part}.log").read_text()
    name = part if part == "fashion" else f"train-{part}"
    return json.loads((out / f"{name}.json").read_text())


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with forty pictures of noise in the files of Fashion-MNIST."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 28, 28))
    for name in ("train", "t10k"):
        for kind, values in (("images-idx3", pixels), ("labels-idx1", np.arange(40) % 10)):
            shape = b"".join(size.to_bytes(4, "big") for size in values.shape)
            data = bytes([0, 0, 8, values.ndim]) + shape + values.astype(np.uint8).tobytes()
            (tmp_path / f"{name}-{kind}-ubyte.gz").write_bytes(gzip.compress(data))
    return tmp_path


def test_both_loops_do_the_same_work(out: Path) -> None:
    measured = run(out, "speed")["measured"]
    assert measured["ours"]["images a second"] > 0
    assert measured["ours"]["tflop"] == measured["diffusers"]["tflop"] > 0


def test_every_training_says_what_it_needs(out: Path) -> None:
    measured = run(out, "memory")["measured"]
    assert len(measured) == 5
    assert all(each["planned_mib"] > each["model_mib"] > 0 for each in measured.values())
    plain, checkpointed = (measured[name]["planned_mib"] for name in ("SD 1.5 LoRA", "SD 1.5 LoRA, checkpoints"))
    assert checkpointed < plain


def test_a_loaded_batch_is_timed_beside_one_that_stays(out: Path) -> None:
    measured = run(out, "loader")["measured"]
    assert [*measured] == ["emoji, U-Net", "SD 1.5 LoRA"]
    for row in measured.values():
        assert row["steps of each"] == 4
        assert row["idle"] == pytest.approx(1 - row["resident_ms"] / row["loaded_ms"], abs=1e-3)


def test_each_number_of_processes_has_its_rate(out: Path) -> None:
    measured = run(out, "processes")["measured"]
    assert [each["processes"] for each in measured.values()] == [1, 2]
    assert all(each["of linear"] > 0 for each in measured.values())


def test_without_autocast_both_trainings_are_one(out: Path) -> None:
    measured = run(out, "precision")["measured"]
    assert measured["float32"] == measured["bfloat16 autocast"]
    assert set(measured["bfloat16 over float32, less 1"].values()) == {0.0}


def test_fashion_is_trained_drawn_and_measured(out: Path) -> None:
    document = run(out, "fashion")
    assert [(each["sampler"], each["steps"]) for each in document["samplers"]] == [
        ("lms", 20),
        ("ddim", 100),
        ("ddim", 50),
    ]
    assert all(each["over the floor"] == each["distance"] / document["floor"] for each in document["samplers"])
    assert (out / "fashion.png").stat().st_size > 1000


def test_an_unknown_part_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path), "all"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "no part all\n")
