"""Guidance on two devices: the numbers of one, from one copy of the U-Net that follows its weights."""

import pytest
import torch
from torch import Tensor, nn

from diffuscope.perf.engine import Engine
from diffuscope.perf.unet import FastUNet, Prompt
from narrow import made


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_guidance_on_two_devices_is_the_same_to_rounding(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"num_inference_steps": 2, "seed": 5, "num_images_per_prompt": 2}
    one, two = made(family), made(family)
    plain = one("a red fox", **options)
    two.engine = Engine(True, second=torch.device("cpu"))
    rows, real = [], FastUNet.__call__

    def seen(self: FastUNet, x: Tensor, timed: Tensor, prompt: Prompt) -> Tensor:
        rows.append((self.unet is two.unet, len(x)))
        return real(self, x, timed, prompt)

    monkeypatch.setattr(FastUNet, "__call__", seen)
    found = two("a red fox", **options)
    assert (found.latents - plain.latents).abs().max() <= 1e-4 * plain.latents.abs().max()
    assert rows == [(False, 2), (True, 2)] * 2
    for pipe in (one, two):
        pipe.unet.conv_out.weight.mul_(0.5)  # the copy has to follow
    plain, found = one("a red fox", **options), two("a red fox", **options)
    assert (found.latents - plain.latents).abs().max() <= 1e-4 * plain.latents.abs().max()


@torch.no_grad()
def test_a_second_device_gets_one_copy_until_the_weights_change() -> None:
    unet, engine = made("sd15").unet, Engine(True, second=torch.device("cpu"))
    assert engine.second is not None
    generator, time = torch.Generator().manual_seed(0), torch.tensor(501.5)
    x = torch.randn(1, unet.config.in_channels, 8, 8, generator=generator).repeat(2, 1, 1, 1)
    context = torch.randn(2, 7, unet.config.context_dim, generator=generator)

    def agrees() -> bool:
        difference = engine.predictor(unet, context, None, pairs=True)(x, time) - unet(x, time, context)
        return bool(difference.abs().max() <= 1e-5)

    copies = []
    for _ in range(3):
        assert agrees()
        copies.append(engine.second.copy(engine._unet.known(unet)))
    assert copies[0] is copies[1] is copies[2]
    own = {each.data_ptr() for each in unet.parameters()}
    assert own.isdisjoint(each.data_ptr() for each in copies[0].parameters())
    unet.conv_out = nn.Conv2d(unet.conv_out.in_channels, unet.conv_out.out_channels, 3, padding=1)
    assert agrees()


def test_what_the_second_device_cannot_record_is_told() -> None:
    engine = Engine(True, second=torch.device("cpu"))
    assert engine._there is not None
    engine._there.graphs.failure = "no memory"
    assert ["no memory" in note for note in engine.notes] == [True]
