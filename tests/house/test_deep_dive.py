"""The pages of the deep dive: their cells run, as plain Python; their form is one; each experiment has its place."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffuscope.weights.layout.diffusers_folder import OWN as OWN_KEY
from house.places import ROOT, assert_none
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
OWN = {"12-digits-from-nothing": "STEPS = 1000", "14-fifty-steps-to-one": "STEPS = 60"}
"""Pages with a model of their own, trained there: what their first cell says of the length."""

ROWS = [*range(1, 48), 49, *range(54, 58), 59, 62, *range(64, 71)]
"""Of the checklist, those that are shown; the others train whole models."""

LONGEST = 20  # lines of a cell, of at most 88 columns: one idea; the whole loop is one


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
        if number == 1:
            own = OWN.get(path.stem)
            code = code.replace(own, "STEPS = 2") if own else code.replace(CHOICE, f"MODEL = {model!r}")
        exec(compile(code, f"{path.name}, cell {number}", "exec"), names)


@pytest.fixture(scope="session")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Stable Diffusion 1.x folder as others write it, with random weights: nothing in it knows of our presets."""
    folder = random_model(SD1).save(tmp_path_factory.mktemp("model") / "sd1")
    index = folder / "model_index.json"
    theirs = {key: value for key, value in json.loads(index.read_text()).items() if key != OWN_KEY}
    index.write_text(json.dumps(theirs))
    return str(folder)


@pytest.mark.slow
# Forward-mode derivatives load torch's decompositions, which torch itself compiles with what it deprecates.
@pytest.mark.filterwarnings("default:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("path", PAGES, ids=stem)
def test_a_page_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With the shipped model at full size, since what the pages assert are facts about its pictures.

    Pages that train make a step or two here: building the documentation runs them as they are.
    """
    monkeypatch.chdir(tmp_path)
    run(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in PAGES if path.stem not in OWN], ids=stem)
def test_a_page_runs_with_stable_diffusion_1(path: Path, sd1: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What holds for any model is asserted here too; facts of the shipped one stand under ``if MODEL == "emoji":``."""
    monkeypatch.chdir(tmp_path)
    run(path, sd1)


def faults(path: Path) -> Iterator[str]:
    """Where a page is not a notebook that opens any model and has one idea a cell."""
    text, code = text_of(path), cells(path)
    if not text.startswith(HEADER):
        yield "it does not start with the header of a notebook"
    if not text.count("```{code-cell}") == len(code) > 1:
        yield "it has fewer than two cells, or a cell that is not Python"
    if path.stem in OWN:
        if not code or not code[0].startswith(f"{OWN[path.stem]}  # "):
            yield f"its first cell does not say {OWN[path.stem]}"
    elif not code or code[0].replace("\n\n", "\n") != FIRST:
        yield "its first cell is not the one that opens MODEL"
    for cell in code:
        if len(cell.splitlines()) > LONGEST:
            yield f"a cell has more than {LONGEST} lines; it begins {cell.splitlines()[0]!r}"


def test_every_page_is_a_notebook_that_takes_any_model():
    assert_none(f"{path.name}: {fault}" for path in PAGES for fault in faults(path))


def test_pages_are_numbered_without_a_gap_and_labels_are_unique():
    assert [int(path.name[:2]) for path in PAGES] == list(range(1, len(PAGES) + 1))
    labels = Counter(label for path in PAGES for label in LABEL.findall(text_of(path)))
    assert_none(f"({label})= stands {count} times" for label, count in labels.items() if count > 1)


def test_the_map_leads_to_every_experiment():
    """Each label of a row is linked once from the first page's table, with the title of its page; and none other."""
    there = {label: path for path in PAGES for label in rows(path)}
    table = re.findall(
        r"^\| (\d+) \| \[[^\]]+\]\(([\w.-]*)#([\w-]+)\) \| (\d+)\. (.+) \|$", text_of(PAGES[0]), re.MULTILINE
    )
    assert [int(row) for row, *_ in table] == sorted(int(label.removeprefix("row-")) for label in there) == ROWS
    assert_none(
        f"row {row} links {name}#{label} as page {number}, {title!r}; it is on {page.name}"
        for row, name, label, number, title in table
        for page in [there[label]]
        if (label, name, int(number)) != (f"row-{row}", page.name, int(page.name[:2]))
        or f"\n# {title}\n" not in text_of(page)
    )
