"""Count the lines of the core, as the README states them: raw lines of its Python files, docstrings and blanks too.

ADR 30 says what belongs to it, and how many lines it may have.

python benchmarks/lines.py            # a table
python benchmarks/lines.py README.md  # and write the total into <!-- lines --> ... <!-- /lines -->
"""

import re
import sys
from pathlib import Path

from diffuscope.weights.store.documents import write_text

SOURCE = Path(__file__).parents[1] / "src" / "diffuscope"
CORE = ("nn", "models", "diffusion", "weights", "pipeline")


def lines(folder: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in folder.rglob("*.py"))


def core() -> dict[str, int]:
    return {name: lines(SOURCE / name) for name in CORE}


def fill(text: str, total: int) -> str:
    return re.sub(r"(<!-- lines -->).*?(<!-- /lines -->)", rf"\g<1>{total:,}\g<2>", text)


def main(documents: list[str]) -> None:
    counts = core()
    for name, count in counts.items():
        print(f"{name:10}{count:7,}")
    print(f"{'core':10}{sum(counts.values()):7,}\n{'package':10}{lines(SOURCE):7,}")
    for name in documents:
        path = Path(name)
        write_text(path, fill(path.read_text(encoding="utf-8"), sum(counts.values())))


if __name__ == "__main__":
    main(sys.argv[1:])
