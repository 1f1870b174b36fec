"""Every public name is there when it is asked for."""

import pytest

import diffuscope as ds


@pytest.mark.parametrize("name", ds.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(ds, name) is not None
    assert name in dir(ds)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'loud'.*load"):
        ds.loud  # noqa: B018


def test_samplers_as_functions_and_as_names() -> None:
    assert list(ds.samplers()) == list(ds.diffusion.samplers.SAMPLERS)
    assert ds.samplers()["heun"].calls == 2
