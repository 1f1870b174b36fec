"""The page is whole in itself and safe from what a prompt holds, and tells what the run did."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from diffuscope.cli import main
from diffuscope.diffusion.prediction import x0_from
from diffuscope.lens.capture import Capture
from diffuscope.lens.explain import explain
from diffuscope.lens.recording import Record
from diffuscope.pipeline import Pipeline
from refusals import refused


class Page(HTMLParser):
    """Collects what a page loads, its headings and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_page_needs_nothing_else_and_escapes_the_prompt(tiny: Pipeline) -> None:
    text = explain(tiny, "a <script>alert(1)</script> fox", seed=3, num_inference_steps=2)
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 6
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "http" not in text
    assert re.findall("<h2>(.*?)</h2>", text) == ["Tokens", "Schedule", "Trajectory", "Attention", "Guidance"]
    assert "seed [3]" in text


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun"])
def test_the_two_estimates_of_guidance_are_those_that_it_joins(tiny: Pipeline, sampler: str) -> None:
    outputs, record = Capture("unet.conv_out", reduce="all"), Record()
    tiny("a fox", seed=1, sampler=sampler, guidance_scale=3.0, tap=outputs, guidance=record)
    assert len(outputs["unet.conv_out"]) == len(record.x0)
    for output, x, x0, sigma in zip(outputs["unet.conv_out"], record.x, record.x0, record.sigmas, strict=True):
        without, told = x0_from(tiny.config.schedule.prediction, output, x, sigma)
        torch.testing.assert_close(torch.lerp(without, told, 3.0), x0[0], rtol=1e-4, atol=1e-4)
    assert "Guidance</h2>" in explain(tiny, "a fox", sampler=sampler, num_inference_steps=2, guidance=lambda d: d)


def test_without_guidance_there_is_none_to_show(tiny: Pipeline) -> None:
    text = explain(tiny, "a fox", num_inference_steps=2, guidance_scale=1.0, sampler="heun")
    assert "Guidance</h2>" not in text
    with refused("tap", {}):
        explain(tiny, "a fox", tap={})
    with refused("prompt", ("a fox",)):
        explain(tiny, ["a fox"])


def test_the_command_writes_the_page(tiny_folder: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "report.html"
    assert main(["explain", "a fox", "--model", str(tiny_folder), "--steps", "1", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    for wrong in (tmp_path / "report.pdf", tmp_path / "none" / "report.html"):
        assert main(["explain", "a fox", "--model", str(tiny_folder), "--out", str(wrong)]) == 2
        assert wrong.name in capsys.readouterr().err
