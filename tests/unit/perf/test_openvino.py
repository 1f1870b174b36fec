"""What OpenVINO runs agrees with torch; what was converted is kept, and made again where it is broken."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffuscope.perf import openvino
from diffuscope.perf.engine import Engine
from diffuscope.perf.openvino import Converted, Twin
from narrow import made
from refusals import refused

pytest.importorskip("openvino", reason="OpenVINO has no build for this system")


def lay(network: nn.Module) -> Twin:
    return lambda new: network(new[0]) + new[1]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 4).requires_grad_(False)


def inputs(rows: int = 3, dtype: torch.dtype = torch.float32) -> Sequence[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, width, generator=generator).to(dtype) for width in (8, 4)]


def same(converted: Converted, layer: nn.Module, given: Sequence[Tensor], tolerance: float = 1e-5) -> bool:
    found, wanted = converted("L", layer, lay, given), lay(layer)(given)
    return found.dtype == wanted.dtype and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_each_shape_and_dtype_is_converted_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, converted = network(), Converted(tmp_path)
    assert same(converted, layer, inputs())
    assert same(converted, layer, inputs(5))
    assert same(converted, network().bfloat16(), inputs(3, torch.bfloat16), 2**-6)
    assert len(list(tmp_path.glob("*.xml"))) == len(list(tmp_path.glob("*.bin"))) == 3
    monkeypatch.setattr(openvino, "_convert", None)
    assert same(Converted(tmp_path), layer, inputs())
    assert converted.note is None


def test_other_weights_are_another_network(tmp_path: Path) -> None:
    layer, converted = network(), Converted(tmp_path)
    assert same(converted, layer, inputs())
    layer.weight.mul_(2)
    converted.forget("L")
    assert same(converted, layer, inputs())


def test_a_broken_file_is_made_again_and_a_closed_folder_costs_a_note(tmp_path: Path) -> None:
    assert same(Converted(tmp_path), network(), inputs())
    (path,) = tmp_path.glob("*.xml")
    path.write_text("<net", encoding="utf-8")
    assert same(Converted(tmp_path), network(), inputs())
    assert len(path.read_text(encoding="utf-8")) > 100
    closed = Converted(path)  # a file
    assert same(closed, network(), inputs())
    assert closed.note is not None
    assert "not kept" in closed.note


def test_the_twins_run_by_it_but_for_taps() -> None:
    unet = made("sd15").unet
    engine = Engine(backend="openvino")
    assert engine.runs(unet, None)
    assert not engine.runs(unet, _Tap())
    assert not Engine().runs(unet, None)


class _Tap:
    def wants(self, name: str) -> bool:  # noqa: ARG002
        return True

    def __call__(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        return value


def test_without_openvino_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda _: None)
    with refused("backend", got="openvino"):
        Engine(backend="openvino")


def test_the_folder_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIFFUSCOPE_CACHE", str(tmp_path))
    assert openvino.cache_folder() == tmp_path / "openvino"
    monkeypatch.delenv("DIFFUSCOPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert openvino.cache_folder() == tmp_path / "diffuscope" / "openvino"
