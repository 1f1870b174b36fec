"""A hub's files on this machine."""

import shutil
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(model: Path, hub: Path) -> Path:
    """A cache in the folder ``hub`` in which owner/tiny is whole, with the files of ``model``: its snapshot."""
    repository = hub / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return shutil.copytree(model, repository / "snapshots" / COMMIT)
