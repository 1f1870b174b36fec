"""What the three networks promise beside parity: formats, dtypes, compiling, sizes, errors."""

from dataclasses import replace

import pytest
import torch

from diffuscope.config import EMOJI, SD15, TINY
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE, LatentDistribution
from diffuscope.nn.taps import tap_points
from refusals import refused

IDS = torch.tensor([[49406, 320, 1674, 49407, 49407]])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def unet_inputs(batch=2, size=8):
    return torch.randn(batch, 4, size, size), torch.full((batch,), 500.0), torch.randn(batch, 5, 32)


@torch.no_grad()
def test_text_encoder_in_two_parts_is_the_whole():
    encoder = TextEncoder(replace(TINY.text_encoder, projection=8)).eval()
    whole = encoder(IDS)
    parts = encoder.encode(encoder.embed(IDS), IDS)
    assert torch.equal(whole.last_hidden_state, parts.last_hidden_state)
    assert torch.equal(whole.pooled, parts.pooled)
    assert encoder.encode(encoder.embed(IDS)).pooled is None
    assert len(whole.hidden_states) == 1 + TINY.text_encoder.layers
    assert torch.equal(whole.hidden_states[0], encoder.embed(IDS))


@torch.no_grad()
def test_pooled_is_the_state_at_the_first_end_of_text():
    encoder = TextEncoder(TINY.text_encoder).eval()
    states = encoder(IDS)
    assert torch.equal(states.pooled, states.last_hidden_state[:, 3])


@torch.no_grad()
def test_a_token_does_not_see_those_behind_it():
    encoder = TextEncoder(TINY.text_encoder).eval()
    other = IDS.clone()
    other[0, 3:] = 5
    assert torch.equal(encoder(IDS).last_hidden_state[:, :3], encoder(other).last_hidden_state[:, :3])
    assert not torch.equal(encoder(IDS).last_hidden_state[:, 3], encoder(other).last_hidden_state[:, 3])


def test_more_tokens_than_positions_is_an_error():
    with refused("ids", "78 tokens"):
        TextEncoder(TINY.text_encoder)(torch.zeros(1, 78, dtype=torch.int64))


@torch.no_grad()
def test_unet_takes_time_as_number_scalar_or_batch():
    unet = UNet(TINY.unet).eval()
    x, time, context = unet_inputs()
    expected = unet(x, time, context)
    for other in (500, 500.0, torch.tensor(500), torch.tensor([500.0])):
        assert torch.equal(unet(x, other, context), expected)


@torch.no_grad()
def test_unet_batch_rows_are_independent():
    unet = UNet(TINY.unet).eval()
    x, _, context = unet_inputs()
    times = torch.tensor([3.0, 900.0])
    both = unet(x, times, context)
    for row in range(2):
        alone = unet(x[row : row + 1], times[row], context[row : row + 1])
        torch.testing.assert_close(both[row : row + 1], alone, rtol=0, atol=1e-5)


def test_extra_conditioning_is_asked_for_where_it_is_read():
    x, time, context = unet_inputs()
    with refused("extra", "pooled") as caught:
        UNet(TINY.unet)(x, time, context, extra={"pooled": torch.ones(2, 8)})
    assert caught.value.want == "nothing"
    deep = UNet(replace(TINY.unet, extra_dim=8 + 6 * 256))
    with refused("extra", "nothing") as caught:
        deep(x, time, context)
    assert caught.value.want == "pooled, sizes"
    with refused("extra", "pooled"):
        deep(x, time, context, extra={"pooled": torch.ones(2, 8)})


@torch.no_grad()
def test_channels_last_and_contiguous_agree():
    x, time, context = unet_inputs()
    unet, vae = UNet(TINY.unet).eval(), VAE(TINY.vae).eval()
    pixels = torch.rand(1, 3, 16, 16)
    expected = unet(x, time, context), vae(pixels)
    unet, vae = (model.to(memory_format=torch.channels_last) for model in (unet, vae))
    last = torch.channels_last
    found = unet(x.to(memory_format=last), time, context), vae(pixels.to(memory_format=last))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_stays_near_float32(autocast):
    x, time, context = unet_inputs()
    unet, vae = UNet(TINY.unet).eval(), VAE(TINY.vae).eval()
    pixels = torch.rand(1, 3, 16, 16)
    expected = unet(x, time, context), vae(pixels)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = unet(x, time, context), vae(pixels)
    else:
        found = (
            unet.bfloat16()(x.bfloat16(), time, context.bfloat16()),
            vae.bfloat16()(pixels.bfloat16()),
        )
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == torch.bfloat16
        assert (one - other.float()).abs().max() < 0.05 * one.abs().max() + 0.02


def test_inputs_are_not_modified():
    unet, vae = UNet(TINY.unet), VAE(TINY.vae)
    x, time, context = unet_inputs()
    kept = [x.clone(), time.clone(), context.clone()]
    unet(x, time, context)
    vae.decode(x)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, time, context), strict=True))


@torch.no_grad()
def test_vae_distribution():
    vae = VAE(TINY.vae).eval()
    pixels = torch.rand(2, 3, 16, 24) * 2 - 1
    latents = vae.encode(pixels)
    assert latents.mean.shape == latents.std.shape == (2, 4, 8, 12)
    assert vae.decode(latents.mean).shape == pixels.shape
    assert torch.equal(latents.sample(torch.zeros(2, 4, 8, 12)), latents.mean)
    wide = LatentDistribution(torch.ones(1), torch.full((1,), 2.0))
    torch.testing.assert_close(wide.sample(torch.tensor([-1.0])), 1 - torch.tensor([2.0]).mul(0.5).exp())


def test_logvar_is_clamped():
    vae = VAE(TINY.vae)
    torch.nn.init.zeros_(vae.quant_conv.weight)
    vae.quant_conv.bias.data = torch.tensor([0.0] * 4 + [-1e3, 1e3, -1e3, 1e3])
    logvar = vae.encode(torch.zeros(1, 3, 16, 16)).logvar[0, :, 0, 0]
    assert logvar.tolist() == [-30, 20, -30, 20]


def test_shipped_sizes_are_those_of_the_literature():
    """Parameters of the published SD 1.x networks, and the heads of 64 that the fused kernels like."""
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in network.parameters())
            for network in (TextEncoder(SD15.text_encoder), UNet(SD15.unet), VAE(SD15.vae))
        ]
    assert sizes == [123_060_480, 859_520_964, 83_653_863]
    assert {c // h for c, h in zip(EMOJI.unet.channels, EMOJI.unet.heads, strict=True)} == {64}
    assert EMOJI.text_encoder.width // EMOJI.text_encoder.heads == 64


def test_the_documented_name_exists():
    with torch.device("meta"):
        assert "unet.up.2.attn.1.block.0.cross_attn.weights" in tap_points(UNet(SD15.unet))
