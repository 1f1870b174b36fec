"""Every module and every public name says what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from house.places import MODULES, ROOT


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_public_name_has_a_docstring(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the module has none"
    for node in public(tree):
        marks = {ast.unparse(mark) for mark in node.decorator_list}
        spoken_for = "overload" in marks or any(mark.endswith(".setter") for mark in marks)
        assert spoken_for or ast.get_docstring(node), f"{node.name} has none"
