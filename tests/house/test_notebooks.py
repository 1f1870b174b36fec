"""The notebooks to download: the pages' own cells, and nothing that only the documentation's builder reads."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from house.places import ROOT

PAGES = sorted((ROOT / "docs" / "deep-dive").glob("*.md"))
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def notebooks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    spec = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("notebooks")
    module.write(PAGES, folder)
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in folder.iterdir()}


def sources(notebook: dict, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_notebook_has_the_cells_of_its_page_and_clean_prose(page: Path, notebooks: dict[str, dict]):
    notebook = notebooks[page.stem]
    assert sources(notebook, "code") == [code.strip("\n") for code in CELL.findall(page.read_text(encoding="utf-8"))]
    prose = "\n".join(sources(notebook, "markdown"))
    assert re.findall("^# .*", prose, re.MULTILINE) == [prose.splitlines()[0]]
    assert not re.search(r"^\([\w-]+\)=|^---$|\{code-cell\}|^:::", prose, re.MULTILINE)
    links = re.findall(r"\]\((?!https?://)([^)]+)\)", prose)
    assert [link for link in links if link.removesuffix(".ipynb") not in notebooks] == []


def test_a_notebook_is_of_format_4_5_and_has_no_outputs(notebooks: dict[str, dict]):
    assert len(notebooks) == len(PAGES)
    for notebook in notebooks.values():
        assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
        ids = [cell["id"] for cell in notebook["cells"]]
        assert len(set(ids)) == len(ids)
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
