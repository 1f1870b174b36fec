"""Write the numbers of a scores document into the places for them in Markdown files.

python benchmarks/fill_scores.py benchmarks/results/emoji.json docs/model-card.md README.md
"""

import sys
from pathlib import Path

from diffuscope.errors import DiffuscopeError
from diffuscope.evaluate import report
from diffuscope.weights.store.documents import write_text


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print(__doc__)
        return 2
    try:
        document = report.read(Path(arguments[0]))
        for name in arguments[1:]:
            path = Path(name)
            write_text(path, report.fill(path.read_text(encoding="utf-8"), document))
    except DiffuscopeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
