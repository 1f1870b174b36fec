"""Every module and every public name says what it is."""

import ast
from collections.abc import Iterator
from pathlib import Path

from house.places import MODULES, assert_none, name_of


def public(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef | ast.FunctionDef]:
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield child
            if isinstance(child, ast.ClassDef):
                yield from public(child)


def silent(path: Path) -> Iterator[str]:
    """The module, if it has no docstring, and each of its public names that has none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not ast.get_docstring(tree):
        yield "the module"
    for node in public(tree):
        marks = {ast.unparse(mark) for mark in node.decorator_list}
        exempt = "overload" in marks or any(mark.endswith(".setter") for mark in marks)
        if not exempt and not ast.get_docstring(node):
            yield node.name


def test_every_public_name_has_a_docstring():
    assert_none(f"{name_of(path)}: {name} has no docstring" for path in MODULES for name in silent(path))
