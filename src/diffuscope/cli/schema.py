"""``diffuscope schema``: the options of a call as a JSON Schema."""

import json

from diffuscope.cli.terminal import say


def schema() -> None:
    """Print the JSON Schema of a call's options: types, ranges, choices, defaults and help."""
    from diffuscope.request import Request
    from diffuscope.schema import schema as of

    say(json.dumps(of(Request), indent=2, ensure_ascii=False))
