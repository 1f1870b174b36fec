"""What ``pip install .`` installs is enough for all that is shown, and a message names what pip can install."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import Requirement

from house.places import MODULES, ROOT, SOURCE, assert_none, name_of
from house.test_constraints import PROJECT

BELOW = {"anyio": "fastapi", "starlette": "fastapi", "pydantic": "fastapi", "triton": "torch"}
"""Module -> the package that brings it, triton where there is a GPU."""

PACKAGES = {"PIL": "pillow", "sklearn": "scikit_learn"}
"""Module -> package, where the names differ."""

PEERS = {"bench/peers.py": {"diffusers", "onnxruntime"}}
"""What is compared with where somebody has it, and never needed."""


def imported(path: Path) -> Iterator[str]:
    """The top module of every import in a file, those within functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


def names(lines: Iterable[str]) -> set[str]:
    """The packages, by the names of their modules."""
    return {Requirement(line).name.lower().replace("-", "_") for line in lines}


def test_every_import_is_of_a_dependency_or_a_named_extra():
    always = names(PROJECT["project"]["dependencies"])
    assert "matplotlib" in always  # README shows figures and ``explain`` after its first command
    extras = names(line for lines in PROJECT["project"]["optional-dependencies"].values() for line in lines)
    known = always | extras | {module for module, package in BELOW.items() if package in always | extras}
    assert_none(
        f"{name_of(path)}: {module} is no dependency"
        for path in MODULES
        for module in sorted(set(imported(path)))
        if module not in sys.stdlib_module_names
        and module != "diffuscope"
        and PACKAGES.get(module, module) not in known
        and module not in PEERS.get(path.relative_to(SOURCE).as_posix(), ())
    )


def test_no_message_sends_people_to_an_index_for_our_own_package():
    """The package is installed from its checkout: an index may hold something else under its name."""
    asked = re.compile(r"install '?diffuscope\b(?! again)")
    files = [*MODULES, *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    assert_none(name_of(path) for path in files if asked.search(path.read_text(encoding="utf-8").lower()))
