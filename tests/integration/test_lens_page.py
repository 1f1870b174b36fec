"""The how-to's code runs, in the order in which it stands; its last example is tested beside the page that it makes."""

import re
from pathlib import Path

import pytest

import diffuscope
from diffuscope.pipeline import Pipeline

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "use-the-lens.md"


@pytest.mark.slow
def test_the_examples_run(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffuscope, "load", lambda _: tiny)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    names: dict[str, object] = {}
    for code in blocks[:-1]:
        exec(compile(code.replace("steps=12", "steps=3").replace("levels(12", "levels(3"), PAGE.name, "exec"), names)
