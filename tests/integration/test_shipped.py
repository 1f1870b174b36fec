"""The shipped models, at full size."""

import diffuscope as ds
from diffuscope.config import EMOJI
from diffuscope.loading import shipped_models


def test_shipped_models_are_whole() -> None:
    for name in shipped_models():
        pipe = ds.load(name, device="cpu")
        assert pipe.config.name == name
    assert "emoji" not in shipped_models() or ds.load("emoji", device="cpu").config.unet == EMOJI.unet
