"""What ``diffuscope lab`` says before its page is open."""

from importlib.util import find_spec

import diffuscope as ds
from diffuscope.cli.lab import faster
from diffuscope.loading import has_bfloat16


def test_what_gives_more_previews_is_named_where_it_is_there_and_not_used(tiny, tiny_folder):
    hint = faster(tiny) or ""
    assert ("--dtype bfloat16" in hint) == has_bfloat16()
    assert ("--backend openvino" in hint) == (find_spec("openvino") is not None)
    assert "bfloat16" not in (faster(ds.load(str(tiny_folder), dtype="bfloat16")) or "")
    if find_spec("openvino"):
        assert "openvino" not in (faster(ds.load(str(tiny_folder), backend="openvino")) or "")
