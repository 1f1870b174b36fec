"""``python -m diffuscope`` is the ``diffuscope`` command."""

from diffuscope.cli import command

if __name__ == "__main__":
    command()
