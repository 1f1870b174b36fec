"""``diffuscope data``: the corpus that the emoji model learns from."""

import sys
import tempfile
from pathlib import Path

from diffuscope.errors import OutputError


def build(*, folder: Path | None = None, out: Path = Path("corpus.jsonl.xz"), attribution: Path | None = None) -> None:
    """Build the corpus: captioned vector pictures under permissive licences, in one compressed file.

    The same packages make the same file, byte for byte; its hash is printed.

    Args:
        folder: a node_modules folder that has the packages; if left out, the npm client downloads them.
        out: where to write the corpus.
        attribution: where to write the list of works and licences, made from the packages' own words.
    """
    from diffuscope.data import corpus, packages
    from diffuscope.weights.store.files import write_text

    for path in (out, attribution):
        if path is not None and not path.absolute().parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.absolute().parent}; make it first")
    with tempfile.TemporaryDirectory() as temporary:
        source = packages.download(Path(temporary)) if folder is None else folder
        made = corpus.build(source, out)
        if attribution is not None:
            write_text(attribution, packages.attribution(source))
    sys.stdout.write(f"{out}  {len(made.pictures)} pictures  sha256 {made.hash}\n")
