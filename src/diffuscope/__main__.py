"""``python -m diffuscope`` is the ``diffuscope`` command."""

import sys

from diffuscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
