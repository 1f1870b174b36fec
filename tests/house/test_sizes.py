"""Files and functions stay small enough to be read at once; nothing that is unfinished stays."""

import ast
import functools
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

from house.places import MODULES, ROOT, SOURCE, assert_none, documents, name_of, tracked

FILE, FUNCTION, ARGUMENTS = 400, 60, 8
PYTHON = [path for path in tracked() if path.suffix == ".py"]

# The two public entry points take what a picture may be asked for, and pass it on.
LONG = {("pipeline/pipeline.py", "__call__"), ("pipeline/pipeline.py", "steps")}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@functools.cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def test_there_is_something_to_check():
    """A rule over no files holds."""
    assert len(MODULES) > 60
    assert len(PYTHON) > 120
    assert len(documents()) > 40


def test_files_are_short():
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON}
    assert_none(f"{name_of(path)} has {length} lines" for path, length in lengths.items() if length > FILE)


def test_the_core_is_no_larger_than_was_decided():
    """A feature that needs more lines raises the number in ADR 30, and is named there."""
    record = (ROOT / "docs" / "adr" / "0030-how-many-lines-the-core-may-have.md").read_text(encoding="utf-8")
    (ceiling,) = re.findall(r"<!-- ceiling -->([\d,]+)<!-- /ceiling -->", record)
    core = runpy.run_path(str(ROOT / "benchmarks" / "lines.py"))["core"]()
    assert sum(core.values()) <= int(ceiling.replace(",", "")), core


def excess(path: Path) -> Iterator[str]:
    """What a module's functions have too much of."""
    inside = path.relative_to(SOURCE).as_posix()
    for function in functions(path):
        if (inside, function.name) in LONG:
            continue
        assert function.end_lineno is not None
        length = function.end_lineno - function.lineno
        command = inside.startswith("cli/")  # its arguments are its flags, and its docstring is their help
        if command:
            length -= len((ast.get_docstring(function) or "").splitlines())
        if length >= FUNCTION:
            yield f"{function.name} has {length} lines"
        count = sum(map(len, (function.args.posonlyargs, function.args.args, function.args.kwonlyargs)))
        taken = count - (bool(function.args.args) and function.args.args[0].arg in {"self", "cls"})
        kernel = inside == "perf/kernels.py"  # Triton has no structures: each tensor and size is an argument
        if taken > ARGUMENTS and not command and not kernel:
            yield f"{function.name} takes {taken} arguments"


def test_functions_are_short_and_take_few_arguments():
    assert_none(f"{name_of(path)}: {fault}" for path in MODULES for fault in excess(path))


def leftovers(path: Path) -> Iterator[str]:
    """What a module leaves unfinished or hides."""
    text = path.read_text(encoding="utf-8")
    yield from re.findall(r"\b(TODO|FIXME|XXX|HACK|NotImplementedError)\b", text)
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if called in {"print", "breakpoint", "eval", "exec"}:
                yield f"{called} in line {node.lineno}"
            lax = any(
                word.arg == "strict" and isinstance(word.value, ast.Constant) and word.value.value is False
                for word in node.keywords
            )
            if lax and called != "zip":
                yield f"strict=False in line {node.lineno}"
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield f"a bare except in line {node.lineno}"


def test_nothing_is_unfinished_or_hidden():
    assert_none(f"{name_of(path)}: {fault}" for path in MODULES for fault in leftovers(path))
