"""Files and functions stay small enough to be read at once; nothing that is unfinished stays."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from house.places import MODULES, ROOT, SOURCE, tracked

FILE, FUNCTION, ARGUMENTS = 400, 60, 8
PYTHON = [path for path in tracked() if path.suffix == ".py"]

# The two public entry points take what a picture may be asked for, and pass it on.
LONG = {("pipeline/pipeline.py", "__call__"), ("pipeline/pipeline.py", "steps")}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_there_is_something_to_check():
    assert len(MODULES) > 60
    assert len(PYTHON) > 120


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_files_are_short(path: Path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short_and_take_few_arguments(path: Path):
    inside = path.relative_to(SOURCE).as_posix()
    for function in functions(path):
        if (inside, function.name) in LONG:
            continue
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno
        if inside.startswith("cli/"):  # a command's arguments are its flags, and its docstring is their help
            assert length - len((ast.get_docstring(function) or "").splitlines()) < FUNCTION
            continue
        assert length < FUNCTION, f"{function.name} is too long"
        count = sum(map(len, (function.args.posonlyargs, function.args.args, function.args.kwonlyargs)))
        taken = count - (bool(function.args.args) and function.args.args[0].arg in {"self", "cls"})
        assert taken <= ARGUMENTS, f"{function.name} takes {taken} arguments"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unfinished_or_hidden(path: Path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b", text)
    assert found is None, f"{found and found[0]} in {name_of(path)}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"print", "breakpoint", "eval", "exec"}, f"{called} at {node.lineno}"
            lax = any(word.arg == "strict" and ast.unparse(word.value) == "False" for word in node.keywords)
            assert called == "zip" or not lax, f"strict=False at {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"a bare except at {node.lineno}"
