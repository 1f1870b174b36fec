"""The pages of the deep dive as notebooks to download: their cells and prose, without what only Sphinx reads."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
CELL = re.compile(r"^```\{code-cell\} python\n(.*?)^```$\n?", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^\([\w-]+\)=\n", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\((?!https?://)[^)]+\)")


def write(pages: list[Path], folder: Path) -> None:
    """Write each page as ``folder``/NAME.ipynb."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        path = folder / f"{page.stem}.ipynb"
        path.write_text(
            json.dumps(notebook(text), indent=1, ensure_ascii=False) + "\n",
            encoding="utf-8",
        )


def notebook(text: str) -> dict[str, object]:
    """A page as a notebook of format 4.5, without outputs."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [
            cell | {"id": f"cell-{number}"}
            for number, cell in enumerate(cells(text), 1)
        ],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cells(text: str) -> Iterator[dict[str, object]]:
    """Prose and code of a page in turn."""
    for number, part in enumerate(CELL.split(HEADER.sub("", text))):
        source = (
            part.strip("\n")
            if number % 2
            else LINK.sub(_link, IMAGE.sub(r"*\1*", LABEL.sub("", part))).strip("\n")
        )
        if not source.strip():
            continue
        if number % 2:
            empty = {"execution_count": None, "outputs": []}
            yield {
                "cell_type": "code",
                "metadata": {},
                **empty,
                "source": source.splitlines(keepends=True),
            }
        else:
            yield {
                "cell_type": "markdown",
                "metadata": {},
                "source": source.splitlines(keepends=True),
            }


def _link(found: re.Match[str]) -> str:
    """A link to another page of the deep dive leads to its notebook; of any other link the words stay."""
    words, target, _ = found.groups()
    return (
        f"[{words}]({target.removesuffix('.md')}.ipynb)"
        if re.fullmatch(r"\d\d-[\w-]+\.md", target)
        else words
    )
