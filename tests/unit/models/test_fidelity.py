import pytest
import torch

from diffuscope.config import TINY
from diffuscope.models.fidelity import Extremes, fidelity
from diffuscope.models.vae import VAE
from diffuscope.training.vae import VAELoss, VAETask


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VAE(TINY.vae).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_psnr_is_that_of_the_clamped_output(vae, pixels):
    output = vae(pixels).clamp(-1, 1)
    error = (((output + 1) / 2 - (pixels + 1) / 2) ** 2).mean((1, 2, 3))
    assert torch.allclose(fidelity(vae, pixels).psnr, 10 * torch.log10(1 / error), atol=1e-4)


def test_nothing_depends_on_the_batch(vae, pixels):
    one, other = fidelity(vae, pixels, chunk=6), fidelity(vae, pixels, chunk=1)
    assert torch.allclose(one.psnr, other.psnr, atol=1e-4)
    assert one.largest_activation == pytest.approx(other.largest_activation, rel=1e-3)


def test_the_largest_activation_is_told_by_hand():
    extremes = Extremes()
    value = torch.zeros(1, 1, 10, 10)
    value[0, 0, 3, 3] = -50.0
    assert extremes.largest == 0.0
    assert extremes.wants("vae.decoder.up.0.resnet.1")
    assert not extremes.wants("vae.decoder.mid.self_attn.weights")
    assert not extremes.wants("vae.encoder.down.0.resnet.1")
    assert extremes("vae.decoder.up.0.resnet.1", value) is value
    std, mean = torch.std_mean(value.double())
    assert extremes.largest == pytest.approx(((50 + mean) / std).item(), rel=1e-5)


def test_a_decoder_that_shouts_in_one_place_is_found(vae, pixels):
    quiet = fidelity(vae, pixels).largest_activation
    with torch.no_grad():
        kept = vae.decoder.conv_in.weight.clone()
        vae.decoder.conv_in.weight[0] *= 300
        loud = fidelity(vae, pixels).largest_activation
        vae.decoder.conv_in.weight.copy_(kept)
    assert loud > 1.5 * quiet


def test_training_measures_the_same(vae, pixels):
    """What the autoencoder's training logs is what the scores say."""
    logged = VAETask(vae, lambda _: pixels, pixels, VAELoss()).validate(vae)
    scored = fidelity(vae, pixels)
    assert logged["psnr"] == pytest.approx(scored.psnr.mean().item(), abs=1e-4)
    assert logged["largest_activation"] == pytest.approx(scored.largest_activation, rel=1e-5)
