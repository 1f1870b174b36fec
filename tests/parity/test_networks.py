"""Our networks against transformers' and diffusers', randomly initialised, through our own weight tables."""

from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffuscope.config import EMOJI, TINY, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import network_config
from diffuscope.weights.layout.diffusers import from_diffusers, to_diffusers
from diffuscope.weights.store.assign import load_into

TOLERANCE = 1e-5  # largest absolute difference, float32 on the CPU

TEXT_ENCODERS = {
    "tiny": TINY.text_encoder,
    "sd2": TextEncoderConfig(width=32, layers=3, heads=4, hidden=64, activation="gelu"),
    "emoji": replace(EMOJI.text_encoder, width=64, layers=2, heads=2, hidden=128, projection=48),
}
UNETS = {
    "tiny": TINY.unet,
    "sd15": UNetConfig(channels=(16, 32, 32), depth=(1, 1, 0), heads=(2, 2, 2), context_dim=24, norm_groups=8),
    "sd2": UNetConfig(
        channels=(16, 32, 64),
        depth=(1, 1, 0),
        heads=(1, 2, 4),
        context_dim=24,
        linear_projection=True,
        norm_groups=8,
    ),
    "sdxl": UNetConfig(
        channels=(16, 32, 32),
        depth=(0, 2, 3),
        mid_depth=3,
        heads=(1, 2, 2),
        context_dim=24,
        linear_projection=True,
        extra_dim=20 + 6 * 256,
        norm_groups=8,
    ),
    "ssd-1b": UNetConfig(
        channels=(16, 32, 32),
        depth=(0, 1, 2),
        up_depth=((2, 1, 3), (2, 1, 1), 0),
        mid_resnets=1,
        mid_depth=0,
        heads=(5, 2, 2),  # no level without attention has to split into its heads
        context_dim=24,
        linear_projection=True,
        extra_dim=20 + 6 * 32,
        size_dim=32,
        norm_groups=8,
    ),
    "bk-sdm-small": UNetConfig(
        channels=(16, 32, 32),
        blocks=1,
        depth=(1, 1, 1),
        mid_resnets=0,
        mid_depth=0,
        heads=(2, 2, 2),
        context_dim=24,
        norm_groups=8,
    ),
    "emoji": replace(EMOJI.unet, channels=(48, 64, 64), context_dim=32, norm_groups=8),
}
VAES = {
    "tiny": TINY.vae,
    "sd15": VAEConfig(channels=(16, 32, 32), norm_groups=8),
    "emoji": replace(EMOJI.vae, channels=(8, 16, 24, 32), norm_groups=4),
}


def shaken(network):
    """Every parameter moved off its start: norms begin as ones and zeros, and a swap of two would not show."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def ours_from(theirs, make, config):
    """Our network with their weights, made on the meta device as loading does it."""
    with torch.device("meta"):
        network = make(config)
    load_into(network, from_diffusers(theirs.state_dict(), config))
    return network.eval()


def assert_same_eps(network, theirs):
    """A norm's epsilon hardly shows in the output, so it is compared by itself, name by name."""
    norms = {name: module for name, module in theirs.named_modules() if hasattr(module, "eps")}
    renamed = from_diffusers({f"{name}.weight": torch.tensor(norm.eps) for name, norm in norms.items()}, network.config)
    ours = {f"{name}.weight": module.eps for name, module in network.named_modules() if hasattr(module, "eps")}
    assert ours == {name: pytest.approx(eps.item()) for name, eps in renamed.items()}


def assert_round_trip(network, theirs, prefix=""):
    back = to_diffusers(network.state_dict(), network.config)
    expected = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], expected[name]) for name in back)


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= TOLERANCE


def texts(count, length=77):
    ids = torch.full((count, length), 49407)
    ids[:, 0] = 49406
    generator = torch.Generator().manual_seed(1)
    for row in range(count):
        ids[row, 1 : 4 + 5 * row] = torch.randint(0, 49000, (3 + 5 * row,), generator=generator)
    return ids


@pytest.mark.parametrize("name", TEXT_ENCODERS)
@torch.no_grad()
def test_text_encoder_equals_transformers(name):
    torch.manual_seed(0)
    config = TEXT_ENCODERS[name]
    projected = config.projection is not None
    theirs = (CLIPTextModelWithProjection if projected else CLIPTextModel)(
        CLIPTextConfig(**network_config.text_encoder_to_json(config))
    )
    theirs = shaken(theirs)
    network = ours_from(theirs, TextEncoder, config)
    assert_same_eps(network, theirs)
    assert_round_trip(network, theirs, "" if projected else "text_model.")
    ids = texts(2)
    expected = theirs(ids, output_hidden_states=True)
    states = network(ids)
    close(states.last_hidden_state, expected.last_hidden_state)
    close(states.pooled, expected.text_embeds if projected else expected.pooler_output)
    assert len(states.hidden_states) == len(expected.hidden_states)
    for ours, their in zip(states.hidden_states, expected.hidden_states, strict=True):
        close(ours, their)


@pytest.mark.parametrize("name", UNETS)
@torch.no_grad()
def test_unet_equals_diffusers(name):
    torch.manual_seed(0)
    config = UNETS[name]
    theirs = shaken(UNet2DConditionModel.from_config(network_config.unet_to_json(config)))
    network = ours_from(theirs, UNet, config)
    assert_same_eps(network, theirs)
    assert_round_trip(network, theirs)
    size = (7, 10) if name == "sd15" else (8, 8)  # odd sides: the way up takes the size of its skip
    x, context = torch.randn(2, 4, *size), torch.randn(2, 5, config.context_dim)
    extra = added = None
    if config.extra_dim is not None:
        extra = {"pooled": torch.randn(2, 20), "sizes": torch.randint(0, 1024, (2, 6))}
        added = {"text_embeds": extra["pooled"], "time_ids": extra["sizes"]}
    for time in (torch.tensor([3, 981]), torch.tensor(500.25), 17):
        expected = theirs(x, time, context, added_cond_kwargs=added).sample
        close(network(x, time, context, extra=extra), expected)


@pytest.mark.parametrize("name", VAES)
@torch.no_grad()
def test_vae_equals_diffusers(name):
    torch.manual_seed(0)
    config = VAES[name]
    theirs = shaken(AutoencoderKL.from_config(network_config.vae_to_json(config)))
    network = ours_from(theirs, VAE, config)
    assert_same_eps(network, theirs)
    assert_round_trip(network, theirs)
    pixels = torch.rand(2, 3, 32, 24) * 2 - 1
    ours, expected = network.encode(pixels), theirs.encode(pixels).latent_dist
    close(ours.mean, expected.mean)
    close(ours.logvar, expected.logvar)
    close(ours.std, expected.std)
    close(network.decode(ours.mean), theirs.decode(expected.mean).sample)


def test_old_attention_names_of_the_autoencoder_are_read():
    theirs = AutoencoderKL.from_config(network_config.vae_to_json(TINY.vae)).state_dict()
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    renamed = {}
    for name, tensor in theirs.items():
        for new_part, old_part in old.items():
            name = name.replace(new_part, old_part)
        renamed[name] = tensor
    assert renamed.keys() != theirs.keys()
    expected, found = from_diffusers(theirs, TINY.vae), from_diffusers(renamed, TINY.vae)
    assert expected.keys() == found.keys()
    assert all(found[name] is expected[name] for name in found)
