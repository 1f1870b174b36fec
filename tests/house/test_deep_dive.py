"""The pages of the deep dive: their cells run, as plain Python; their form is one; each experiment has its place."""

import json
import re
from pathlib import Path

import pytest

from diffuscope.weights.layout.diffusers_folder import OWN
from house.places import ROOT
from narrow import SD1, random_model

PAGES = sorted((ROOT / "docs" / "deep-dive").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^\(([\w-]+)\)=$", re.MULTILINE)
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""
CHOICE = 'MODEL = "emoji"'
FIRST = f"""import diffuscope as ds
{CHOICE}  # or any Stable Diffusion 1.x model: a folder, a file, a hub id
pipe = ds.load(MODEL)
"""
ROWS = [*range(1, 48), 55, 57, *range(64, 68), 70]
"""Of the checklist, those that are shown; the others train whole models."""

LONGEST = 16  # lines of a cell: one idea; the whole loop is one


def stem(path: Path) -> str:
    return path.stem


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(path: Path) -> list[str]:
    """The labels of a page that stand for a row of the map."""
    return [label for label in LABEL.findall(text_of(path)) if label.startswith("row-")]


def cells(path: Path) -> list[str]:
    """The code of a page, cell by cell; options of the cell (":tags: ...") left out."""
    found = CELL.findall(text_of(path))
    return ["\n".join(line for line in code.splitlines() if not line.startswith(":")) + "\n" for code in found]


def run(path: Path, model: str = "emoji") -> None:
    """Every cell of the page as plain Python, with the model that its first cell names."""
    names: dict[str, object] = {}
    for number, code in enumerate(cells(path), 1):
        code = code.replace(CHOICE, f"MODEL = {model!r}") if number == 1 else code
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Stable Diffusion 1.x folder as others write it, with random weights: nothing in it knows of our presets."""
    folder = random_model(SD1).save(tmp_path_factory.mktemp("model") / "sd1")
    index = folder / "model_index.json"
    theirs = {key: value for key, value in json.loads(index.read_text()).items() if key != OWN}
    index.write_text(json.dumps(theirs))
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the shipped model at full size, since what the pages assert are facts about its pictures."""
    monkeypatch.chdir(tmp_path)
    run(path)


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_runs_with_stable_diffusion_1(path: Path, sd1: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What holds for any model is asserted here too; facts of the shipped one stand under ``if MODEL == "emoji":``."""
    monkeypatch.chdir(tmp_path)
    run(path, sd1)


@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_is_a_notebook_that_takes_any_model(path: Path):
    text = text_of(path)
    assert text.startswith(HEADER)
    assert text.count("```{code-cell}") == len(cells(path)) > 1
    assert cells(path)[0].replace("\n\n", "\n") == FIRST
    for code in cells(path):
        assert len(code.splitlines()) <= LONGEST, f"a cell is one idea:\n{code}"


def test_the_pages_are_numbered_without_a_gap():
    assert [int(path.name[:2]) for path in PAGES] == list(range(1, len(PAGES) + 1))


def test_a_label_stands_once():
    labels = [label for path in PAGES for label in LABEL.findall(text_of(path))]
    assert len(labels) == len(set(labels)), sorted(label for label in labels if labels.count(label) > 1)


def test_the_map_leads_to_every_experiment():
    """Each label of a row is linked once from the first page's table, with the title of its page; and none other."""
    there = {label: path for path in PAGES for label in rows(path)}
    table = re.findall(
        r"^\| (\d+) \| \[[^\]]+\]\(([\w.-]*)#([\w-]+)\) \| (\d+)\. (.+) \|$", text_of(PAGES[0]), re.MULTILINE
    )
    assert [int(row) for row, *_ in table] == sorted(int(label.removeprefix("row-")) for label in there) == ROWS
    for row, place, label, number, title in table:
        page = there[label]
        assert (label, place, int(number)) == (f"row-{row}", page.name, int(page.name[:2]))
        assert f"\n# {title}\n" in text_of(page)
