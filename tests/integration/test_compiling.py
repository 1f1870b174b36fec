"""The networks under torch's compiler."""

import torch

from diffuscope.config import TINY
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE

IDS = torch.tensor([[49406, 320, 1674, 49407, 49407]])


@torch.no_grad()
def test_networks_compile_in_one_graph():
    torch.manual_seed(0)
    text, unet, vae = TextEncoder(TINY.text_encoder), UNet(TINY.unet), VAE(TINY.vae)
    x, time, context = torch.randn(2, 4, 8, 8), torch.full((2,), 500.0), torch.randn(2, 5, 32)
    pixels = torch.rand(1, 3, 16, 16)
    for run, inputs in (
        (lambda ids: text(ids).last_hidden_state, (IDS,)),
        (unet, (x, time, context)),
        (vae, (pixels,)),
    ):
        compiled = torch.compile(run, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(*inputs), run(*inputs), rtol=0, atol=1e-6)
