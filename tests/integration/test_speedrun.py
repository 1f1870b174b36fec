"""The speedrun on tiny networks: from a corpus to a record, stopped once, on one clock."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_that_was_stopped_goes_on_and_is_recorded(corpus_file, feature_net_file, tmp_path):
    records = tmp_path / "records.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks/speedrun.py"), f"--corpus={corpus_file}", "--device=cpu",
               f"--feature-net={feature_net_file}", f"--out={tmp_path / 'run'}", f"--records={records}",
               "--is-tiny", "--note=tiny networks"]  # fmt: skip

    def call(*more: str) -> str:
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "the same command goes on" in call("--stop-after=0")
    before = json.loads((tmp_path / "run/laps.json").read_text())
    assert {"imports", "render", "vae", "examples", "text", "unet"} == before.keys()
    assert "| passed: vae.psnr" in call()
    (record,) = map(json.loads, records.read_text().splitlines())
    assert record["passed"]
    assert record["data"] == "corpus file"
    assert record["seconds"] == sum(record["laps"].values())
    assert record["laps"]["vae"] == before["vae"]  # done once
    assert record["laps"]["imports"] > before["imports"]  # both calls count
    assert [row["measure"] for row in record["exam"]] == ["vae.psnr", "held_out.r1", "both.both"]
