"""Write every family in every layout, open it again here and in diffusers, and publish how far the answers are apart.

python benchmarks/parity_layouts.py docs/reference/parity-layouts.md

Networks are narrow and have random weights, which both sides share; the numbers are the largest differences of the text
states, of the U-Net's answer and of the decoded picture, relative to the largest value, in float32.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from diffuscope.config import FAMILIES, ModelConfig, narrow
from diffuscope.loading import Components, load_components
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.nn.embeddings import guidance_scale_embedding
from diffuscope.saving import save
from diffuscope.weights.layout import diffusers_folder
from diffuscope.weights.store.documents import write_text

HEAD = """# Parity of the layouts

A narrow model of each family, with random weights, is saved in each layout. *Here again*: whether every tensor is read
back bit for bit. *In diffusers*: the largest difference between diffusers' outputs and ours for the saved model, over
text states, U-Net and decoder, relative to the largest value, float32 on a CPU.
`python benchmarks/parity_layouts.py docs/reference/parity-layouts.md` writes this page.

| family | own folder, here again | diffusers folder, here again | in diffusers | one file, here again | in diffusers |
|---|---|---|---|---|---|
"""

NOT_CONVERTED = {"sd15-lcm": "its conversion drops the guidance embedding"}


def model(config: ModelConfig) -> Components:
    """Random weights; the two text encoders of SDXL differ in width, by which diffusers tells them."""
    config = narrow(config)
    second = config.text_encoder_2
    if second is not None:
        second = replace(second, width=48)
        config = replace(config, text_encoder_2=second, unet=replace(config.unet, context_dim=80))
    networks = {"text_encoder": TextEncoder(config.text_encoder), "unet": UNet(config.unet), "vae": VAE(config.vae)}
    tokenizers = {"tokenizer": Tokenizer(pad=config.text_encoder.pad)}
    if second is not None:
        networks["text_encoder_2"] = TextEncoder(second, component="text_encoder_2")
        tokenizers["tokenizer_2"] = Tokenizer(pad=second.pad)
    for network in networks.values():
        network.eval().requires_grad_(False)
    return Components(config=config, **networks, **tokenizers)


def same(ours: Components, path: Path) -> str:
    """Whether every tensor of a saved model is that of ``ours``."""
    again = load_components(path, "cpu")
    equal = all(
        torch.equal(tensor, again.networks[part].state_dict()[name])
        for part, network in ours.networks.items()
        for name, tensor in network.state_dict().items()
    )
    return "equal" if equal and again.config == ours.config else "**differs**"


def difference(ours: Components, theirs: diffusers.DiffusionPipeline) -> str:
    """The largest relative difference of answers; the same inputs for both."""
    worst = 0.0
    ids = torch.tensor([[49406, 320, 736, 49407, 49407]])
    x, config = torch.randn(1, 4, 8, 8), ours.config
    context, extra = torch.randn(1, 7, config.unet.context_dim), added(config)
    for part, network in ours.networks.items():
        found = getattr(theirs, diffusers_folder.subfolder(config, part))
        if isinstance(network, TextEncoder):
            mine, other = network(ids).hidden_states[-2], found(ids, output_hidden_states=True).hidden_states[-2]
        elif isinstance(network, VAE):
            mine, other = network.decode(x), found.decode(x).sample
        else:
            latents = torch.randn(1, config.unet.in_channels, 8, 8)
            named = {}
            if "pooled" in extra:
                named["added_cond_kwargs"] = {"text_embeds": extra["pooled"], "time_ids": extra["sizes"]}
            if config.unet.guidance_dim is not None:
                named["timestep_cond"] = guidance_scale_embedding(extra["guidance"], config.unet.guidance_dim)
            mine = network(latents, 500, context, extra=extra or None)
            other = found(latents, 500, context, **named).sample
        worst = max(worst, relative(mine, other))
    return f"{worst:.1e}"


def added(config: ModelConfig) -> dict[str, Tensor]:
    """What the U-Net reads beside the text."""
    extra = {}
    if config.unet.extra_dim is not None:
        extra = {"pooled": torch.randn(1, config.pooled_dim), "sizes": torch.full((1, config.sizes), 64.0)}
    return extra | ({} if config.unet.guidance_dim is None else {"guidance": torch.tensor([7.5])})


def relative(a: Tensor, b: Tensor) -> float:
    if not (a.isfinite().all() and b.isfinite().all() and b.any()):
        return float("inf")
    return float((a - b).abs().max() / b.abs().max())


def row(name: str, folder: Path) -> str:
    ours = model(FAMILIES[name])
    own, theirs, single = folder / "own", folder / "theirs", folder / "model.safetensors"
    save(ours, own, "own")
    save(ours, theirs, "diffusers")
    save(ours, single, "single")
    kind = getattr(diffusers, diffusers_folder.pipeline_class(ours.config))
    opened = kind.from_pretrained(theirs, local_files_only=True)
    cells = [name, same(ours, own), same(ours, theirs), difference(ours, opened), same(ours, single)]
    if name in NOT_CONVERTED:
        cells.append(NOT_CONVERTED[name])
    else:
        converted = kind.from_single_file(single, config=str(theirs), local_files_only=True)
        cells.append(difference(ours, converted))
    return f"| {' | '.join(cells)} |"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document", type=Path, nargs="?")
    asked = parser.parse_args()
    torch.manual_seed(0)
    rows = []
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row(name, Path(folder)))
            print(rows[-1])
    if asked.document is not None:
        write_text(asked.document, HEAD + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
