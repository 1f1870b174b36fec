"""The run that the page opens with: begun before a browser asks, so that it is under way when the page is there."""

import json
from contextlib import suppress

from diffuscope.config import ModelConfig
from diffuscope.errors import DiffuscopeError
from diffuscope.request import Request
from diffuscope.serve.branches import call_of
from diffuscope.serve.engine import Engine
from diffuscope.serve.http.callers import owner
from diffuscope.serve.http.native import Submission
from diffuscope.serve.http.page import page_files

MOMENT = 256 * 256
"""Pixels of a preset up to which a run costs a moment."""


def is_quick(config: ModelConfig) -> bool:
    """Whether a run of the preset costs a moment, so that the page may begin one by itself."""
    return config.preset.width * config.preset.height <= MOMENT


def begin(engine: Engine, host: str) -> None:
    """Queue the request of the page's recorded run, as the page of a browser at that address would, if it is quick."""
    if not is_quick(engine.pipe.config):
        return
    recorded = json.loads(page_files()["opening/run.json"][0])
    submission = Submission(request=Request(**recorded["request"]), interactive=True)
    with suppress(DiffuscopeError):  # no request for this model: the page makes the same, and says why not
        engine.submit(call_of(submission.request), **submission.how(owner("native", host)))
