"""Documents tell the truth: the tree is the real one, links lead somewhere, code runs, no path is one machine's."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from diffuscope.evaluate import report
from house.places import ROOT, SOURCE, documents, tracked

README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```(?:\{code-cell\} )?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".sh", ""}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_blocks(path: Path) -> list[str]:
    return [code for language, code in CODE.findall(path.read_text(encoding="utf-8")) if language == "python"]


def headings(path: Path) -> set[str]:
    """Anchors of a Markdown file's headings, as GitHub makes them, and its labels, "(name)=" above a heading."""
    prose = CODE.sub("", path.read_text(encoding="utf-8"))
    lines = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    labels = set(re.findall(r"^\((.+)\)=$", prose, re.MULTILINE))
    return labels | {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def tree() -> dict[str, set[str]]:
    """The README's annotated tree: folder below src/diffuscope -> names of its modules and folders."""
    block = next(code for _, code in CODE.findall(README) if code.startswith("src/diffuscope/"))
    found: dict[str, set[str]] = {"": set()}
    folder = ""
    for line in block.splitlines()[1:]:
        if entry := re.match(r"(│   )?[├└]── (\S+)", line):
            parent = folder.partition("/")[0] if entry[1] else ""
            found[parent].add(entry[2])
            folder = f"{parent}/{entry[2]}".strip("/") if entry[2].endswith("/") else ""
            if folder:
                found[folder] = set()
        elif (folder and " · " in line) or re.fullmatch(r"│? +[\w/]+", line):
            found[folder] |= set(line.strip("│ ").split(" · "))
    return found


def below(folder: Path) -> set[str]:
    """Names in a package's folder: modules without their suffix, folders with a slash; what is private is left out."""
    names = set()
    for path in folder.iterdir():
        if path.is_dir() and any(path.rglob("*.*")) and path.name != "__pycache__":
            names.add(f"{path.name}/")
        elif path.suffix == ".py" and not path.name.startswith("__"):
            names.add(path.stem)
    return names


def test_the_tree_is_the_real_one():
    stated = tree()
    top = {path.name for path in SOURCE.glob("*.py")} | {name for name in below(SOURCE) if name.endswith("/")}
    assert stated.pop("") == top
    stated.pop("assets", None)
    for folder, names in stated.items():
        assert names == below(SOURCE / folder), folder


def test_the_tree_names_every_folder_of_the_repository():
    first = {path.relative_to(ROOT).parts[0] for path in tracked() if len(path.relative_to(ROOT).parts) > 1}
    for name in first - {"src", ".ci"}:
        assert re.search(rf"^{name}/ ", README, re.MULTILINE), f"README's tree lacks {name}/"


def test_the_number_of_lines_is_about_right():
    """Within one in ten; ``python benchmarks/lines.py README.md`` writes it anew."""
    stated = re.search(r"<!-- lines -->([\d,]+)<!-- /lines -->", README)
    assert stated is not None
    counted = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "lines.py"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"^core +([\d,]+)$", counted, re.MULTILINE)
    assert found is not None
    assert int(stated[1].replace(",", "")) == pytest.approx(int(found[1].replace(",", "")), rel=0.1)


@pytest.mark.parametrize("name", ["README.md", "docs/model-card.md"])
def test_scores_are_those_that_were_measured(name):
    """``python benchmarks/fill_scores.py benchmarks/results/emoji.json docs/model-card.md README.md`` writes them."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert report.fill(text, report.read(ROOT / "benchmarks" / "results" / "emoji.json")) == text


def test_every_row_of_what_opens_is_held_by_a_test():
    table = README[README.index("| what opens | held by |") :].split("\n\n")[0]
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    rows = table.splitlines()[2:]
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"`([\w/]+\.py)`", row.rpartition("|")[0].rpartition("|")[2])
        assert named, row
        for name in named:
            assert (ROOT / name).is_file() if "/" in name else name in tests, name


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_links_lead_somewhere(path: Path):
    prose = CODE.sub("", path.read_text(encoding="utf-8"))
    for link in LINK.findall(prose):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (path.parent / place).resolve() if place else path
        if "docs/reference/generated" in target.as_posix():
            continue  # made by `make docs`, which fails where one is missing
        assert target.exists(), f"{link} leads nowhere"
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), f"{link}: no such heading"


@pytest.mark.parametrize("path", documents(), ids=name_of)
def test_python_in_documents_parses(path: Path):
    for code in python_blocks(path):
        ast.parse(code)


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial/first-picture.md"])
def test_python_in_documents_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """With the shipped model, in three steps at 64 pixels so that it is fast, and otherwise as it stands."""
    from dataclasses import replace

    import diffuscope as ds

    load = ds.load

    def load_fast(*arguments, **settings):
        pipe = load(*arguments, **settings)
        pipe.config = replace(pipe.config, preset=replace(pipe.config.preset, steps=3, height=64, width=64, upscale=1))
        return pipe

    monkeypatch.setattr(ds, "load", load_fast)
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(ROOT / name)
    assert blocks
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, name, "exec"), names)
    assert list(tmp_path.glob("*.png"))


def test_the_sampler_that_the_how_to_writes_works():
    names: dict[str, object] = {}
    for code in python_blocks(ROOT / "docs/how-to/write-a-sampler.md"):
        exec(compile(code, "write-a-sampler.md", "exec"), names)
    assert {"midpoint", "end", "exact"} <= names.keys()  # the page itself compares the last two


def test_decisions_are_short_and_numbered_without_a_gap():
    pages = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs/adr/index.md").read_text(encoding="utf-8")
    for page in pages:
        assert len(page.read_text(encoding="utf-8").splitlines()) < 60, page.name
        assert page.stem in index


@pytest.mark.parametrize("path", [path for path in tracked() if path.suffix in TEXT], ids=name_of)
def test_nothing_speaks_of_one_machine(path: Path):
    text = path.read_text(encoding="utf-8")
    for root in ("work", "tmp", "home", "root", "Users"):
        found = re.search(rf"(?<![\w.\-/])/{root}/\w+", text)
        assert found is None, f"{found and found[0]} is a path of one machine"
