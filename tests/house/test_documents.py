"""Documents tell the truth: the tree is the real one, links lead somewhere, code runs, no path is one machine's."""

import ast
import functools
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

import diffuscope as ds
from diffuscope import pipeline
from diffuscope.cli import main
from diffuscope.config import EMOJI
from diffuscope.evaluate import report
from house.places import ROOT, SOURCE, assert_none, documents, name_of, tracked

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = re.compile(r"^```(?:\{code-cell\} )?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".sh", ""}


def python_blocks(path: Path) -> list[str]:
    return [code for language, code in CODE.findall(path.read_text(encoding="utf-8")) if language == "python"]


def headings(path: Path) -> set[str]:
    """Anchors of a Markdown file's headings, as GitHub makes them, and its labels, "(name)=" above a heading."""
    prose = CODE.sub("", path.read_text(encoding="utf-8"))
    lines = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    labels = set(re.findall(r"^\((.+)\)=$", prose, re.MULTILINE))
    return labels | {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def tree() -> dict[str, set[str]]:
    """The annotated tree of CONTRIBUTING: folder below src/diffuscope -> names of its modules and folders."""
    block = next(code for _, code in CODE.findall(CONTRIBUTING) if code.startswith("src/diffuscope/"))
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
    real = {folder: below(SOURCE / folder) for folder in stated if folder}
    real[""] = {path.name for path in SOURCE.glob("*.py")} | {name for name in below(SOURCE) if name.endswith("/")}
    stated.pop("assets", None)
    assert_none(
        f"src/diffuscope/{folder}: {', '.join(sorted(names ^ real[folder]))} is only in the tree, or only in the folder"
        for folder, names in stated.items()
        if names != real[folder]
    )
    top = {path.relative_to(ROOT).parts[0] for path in tracked() if path.parent != ROOT} - {"src", ".ci"}
    assert_none(
        f"{name}/ is not in the tree" for name in top if not re.search(rf"^{name}/ ", CONTRIBUTING, re.MULTILINE)
    )


def test_scores_are_those_that_were_measured():
    """``python benchmarks/fill_scores.py benchmarks/results/emoji.json docs/model-card.md README.md`` writes them."""
    scores = report.read(ROOT / "benchmarks" / "results" / "emoji.json")
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/model-card.md")}
    assert_none(f"{name} states other scores" for name, text in texts.items() if report.fill(text, scores) != text)


def test_every_row_of_what_opens_names_its_test():
    text = (ROOT / "docs/how-to/open-a-model.md").read_text(encoding="utf-8")
    rows = text[text.index("| what opens | tested by |") :].split("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 8
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = {row: re.findall(r"`([\w/]+\.py)`", row.rpartition("|")[0].rpartition("|")[2]) for row in rows}
    assert_none(f"no test in {row}" for row, names in named.items() if not names)
    files = [name for names in named.values() for name in names]
    assert_none(f"{name} is gone" for name in files if not ((ROOT / name).is_file() if "/" in name else name in tests))


def broken_links(path: Path) -> Iterator[str]:
    """Each link of a document to a file or heading that is not there."""
    for link in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        if "docs/reference/generated" in target.as_posix():
            continue  # made by `make docs`, which fails where one is missing
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and target.suffix == ".md" and anchor not in headings(target):
            yield f"{link}: no such heading"


def test_links_lead_somewhere():
    assert_none(f"{name_of(path)}: {fault}" for path in documents() for fault in broken_links(path))


def test_python_in_documents_parses():
    def faults(path: Path) -> Iterator[str]:
        for code in python_blocks(path):
            try:
                ast.parse(code)
            except SyntaxError as error:
                yield f"{error.msg} in {(error.text or code).strip()!r}"

    assert_none(f"{name_of(path)}: {fault}" for path in documents() for fault in faults(path))


def test_code_in_pages_can_be_read_without_scrolling():
    pages = [path for path in documents() if path.is_relative_to(ROOT / "docs") or path.name == "README.md"]
    assert_none(
        f"{name_of(path)}: {line}"
        for path in pages
        for _, code in CODE.findall(path.read_text(encoding="utf-8"))
        for line in code.splitlines()
        if len(line) > 88
    )


@pytest.fixture
def fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, where the shipped model makes three steps at 64 pixels by default."""
    preset = replace(EMOJI.preset, num_inference_steps=3, height=64, width=64, upscale=1)
    load, open_model = ds.load, functools.cache(pipeline.open_model)

    def faster(pipe: ds.Pipeline) -> ds.Pipeline:
        pipe.config = replace(pipe.config, preset=preset)
        return pipe

    monkeypatch.setattr(ds, "load", lambda *given, **options: faster(load(*given, **options)))
    monkeypatch.setattr(pipeline, "open_model", lambda source: faster(open_model(source)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


BEGINNERS = pytest.mark.parametrize("name", ["README.md", "docs/tutorial/first-picture.md"])


@BEGINNERS
def test_python_in_documents_runs(name: str, fast: Path, capsys):
    blocks = python_blocks(ROOT / name)
    assert blocks
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, name, "exec"), names)
    assert list(fast.glob("*.png"))


@BEGINNERS
@pytest.mark.slow
def test_commands_in_documents_run(name: str, fast: Path, capsys):
    """Each line of ours in their order; those of make are there; what installs is run by CI, from an empty checkout."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for language, code in CODE.findall(text) if language == "sh" for line in code.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    assert [words[0] for words in commands].count("diffuscope") > 2
    for words in commands:
        if words[0] == "diffuscope":
            assert main(words[1:]) == 0, words
        elif words[0] == "make":
            subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        else:
            assert words == ["source", ".venv/bin/activate"]
    assert "identical: every pixel is the same" in capsys.readouterr().out


@pytest.mark.usefixtures("registry")
def test_the_sampler_that_the_how_to_writes_works(fast: Path):
    names: dict[str, object] = {}
    for code in python_blocks(ROOT / "docs/how-to/write-a-sampler.md"):
        exec(compile(code, "write-a-sampler.md", "exec"), names)
    assert {"midpoint", "end", "exact"} <= names.keys()  # the page itself compares the last two
    assert (fast / "fox.png").exists()


def test_the_branches_of_the_how_to(tiny: ds.Pipeline, monkeypatch: pytest.MonkeyPatch):
    """On the tiny model with as many steps: the page itself compares the same branch from a run and from a file."""
    preset = replace(tiny.config.preset, num_inference_steps=12)
    model = ds.Pipeline(replace(tiny.components, config=replace(tiny.config, preset=preset)))
    monkeypatch.setattr(ds, "load", lambda _: model)
    names: dict[str, object] = {}
    for code in python_blocks(ROOT / "docs/how-to/branch-a-run.md"):
        exec(compile(code, "branch-a-run.md", "exec"), names)
    assert {"blue", "images", "other", "same"} <= names.keys()


def test_decisions_are_short_and_numbered_without_a_gap():
    pages = sorted((ROOT / "docs/adr").glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    index = (ROOT / "docs/adr/index.md").read_text(encoding="utf-8")
    lengths = {page.name: len(page.read_text(encoding="utf-8").splitlines()) for page in pages}
    assert_none(f"{name} has {length} lines" for name, length in lengths.items() if length >= 60)
    assert_none(f"{page.stem} is not in the index" for page in pages if page.stem not in index)


def test_nothing_speaks_of_one_machine():
    files = [path for path in tracked() if path.suffix in TEXT]
    assert len(files) > 300
    machine = re.compile(r"(?<![\w.\-/])/(?:work|tmp|home|root|Users)/\w+")
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    assert_none(f"{name_of(path)}: {place}" for path, text in texts.items() for place in machine.findall(text))
