"""``diffuscope data``: the corpus of the emoji model."""

import tempfile
from pathlib import Path

from diffuscope.cli.common import OptionalPath
from diffuscope.cli.terminal import say
from diffuscope.errors import OutputError


def build(
    *, folder: OptionalPath = None, out: Path = Path("corpus.jsonl.xz"), attribution: OptionalPath = None
) -> None:
    """Build the corpus: vector pictures with names and tags, under permissive licences, in one compressed file.

    The same packages give the same file, byte for byte; its hash is printed.

    Args:
        folder: node_modules folder with the packages, instead of a download with npm.
        out: the corpus file to write.
        attribution: also write the list of works and licences to this Markdown file.
    """
    from diffuscope.data import corpus, packages
    from diffuscope.weights.store.documents import write_text

    for path in (out, attribution):
        if path is not None and not path.absolute().parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.absolute().parent}; make it first")
    with tempfile.TemporaryDirectory() as temporary:
        source = packages.download(Path(temporary)) if folder is None else folder
        built = corpus.build(source, out)
        if attribution is not None:
            write_text(attribution, packages.attribution(source))
    say(f"{out}  {len(built.pictures)} pictures  sha256 {built.hash}")
