"""What ``diffuscope lab`` says before its page is open."""

import diffuscope as ds
from diffuscope.cli.lab import faster
from diffuscope.loading import has_bfloat16


def test_bfloat16_is_named_where_the_processor_has_it_and_it_is_not_used(tiny, tiny_folder):
    hint = faster(tiny)
    assert (hint is not None) == has_bfloat16()
    assert hint is None or "--dtype bfloat16" in hint
    assert faster(ds.load(str(tiny_folder), dtype="bfloat16")) is None
