"""The JSON files of a diffusers folder: diffusers and transformers mean by them what we do."""

import inspect
import json
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextConfig

from diffuscope.config import EMOJI, FAMILIES, TINY
from diffuscope.errors import WeightsError
from diffuscope.models.text_encoder import TextEncoder
from diffuscope.models.unet import UNet
from diffuscope.models.vae import VAE
from diffuscope.weights.layout import diffusers_folder, fields, network_config, scheduler_config
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.store import files

MODELS = (TINY, EMOJI, *(model for name, model in FAMILIES.items() if name != "sd15-lcm"))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_what_diffusers_saves_of_our_json_reads_the_same(tmp_path, model):
    """Their classes fill in every key that they know; reading that must mean what we wrote."""
    saved = diffusers.AutoencoderKL.from_config(network_config.vae_to_json(TINY.vae)).config
    assert network_config.vae_from_json(json.loads(json.dumps(saved))) == TINY.vae
    scheduler = scheduler_config.to_json(model.schedule, model.preset)
    instance = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
    instance.save_pretrained(tmp_path)
    schedule, preset, *_ = scheduler_config.from_json(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert schedule == model.schedule
    assert preset["sampler"] == model.preset.sampler
    for encoder in model.text_encoders:
        text = CLIPTextConfig(**network_config.text_encoder_to_json(encoder)).to_dict()
        elsewhere = {"states": encoder.states, "pad": encoder.pad}  # what the text encoder's own file does not say
        assert replace(network_config.text_encoder_from_json(text), **elsewhere) == encoder


def test_unet_saved_by_diffusers_reads_the_same():
    unet = diffusers.UNet2DConditionModel.from_config(network_config.unet_to_json(TINY.unet))
    assert network_config.unet_from_json(json.loads(json.dumps(unet.config))) == TINY.unet


@pytest.mark.parametrize("projection", [None, 16])
@torch.no_grad()
def test_diffusers_opens_what_we_write(tmp_path, projection):
    """The pipeline reads text states, so a projection in the file must not change the class that it takes."""
    torch.manual_seed(0)
    model = replace(TINY, text_encoder=replace(TINY.text_encoder, projection=projection))
    networks = {"text_encoder": TextEncoder(model.text_encoder), "unet": UNet(model.unet), "vae": VAE(model.vae)}
    diffusers_folder.write_config(tmp_path, model)
    for part, network in networks.items():
        tensors = to_diffusers(network.state_dict(), network.config)
        files.write(tmp_path / diffusers_folder.WEIGHTS[part], tensors, {"format": "pt"})
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path, tokenizer=None, local_files_only=True)
    ids = torch.tensor([[49406, 320, 49407]])
    ours = networks["text_encoder"](ids).last_hidden_state
    assert (pipe.text_encoder(ids)[0] - ours).abs().max() < 1e-5
    x = torch.randn(1, 4, 8, 8)
    assert (pipe.unet(x, 5, ours).sample - networks["unet"](x, 5, ours)).abs().max() < 1e-5
    assert (pipe.vae.decode(x).sample - networks["vae"].decode(x)).abs().max() < 1e-5
    assert type(pipe.scheduler).__name__ == "DDIMScheduler"


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # diffusers' own
@pytest.mark.parametrize("name", scheduler_config.SCHEDULERS)
def test_defaults_of_every_scheduler_class_are_theirs(name):
    """An empty document and all of the class's defaults written out mean the same."""
    full = dict(getattr(diffusers, name)().config) | {"_class_name": name}
    if full.get("clip_sample"):
        with pytest.raises(WeightsError, match="clip_sample = True"):
            scheduler_config.from_json({"_class_name": name})
        full["clip_sample"] = False
    short = {"_class_name": name, "clip_sample": False}
    assert scheduler_config.from_json(short)[:3] == scheduler_config.from_json(full)[:3]


def test_every_field_that_they_know_is_read_refused_or_irrelevant():
    """So what a folder of theirs says is never dropped without a word."""
    classes = {
        "unet": [diffusers.UNet2DConditionModel],
        "vae": [diffusers.AutoencoderKL],
        "scheduler": [getattr(diffusers, name) for name in scheduler_config.SCHEDULERS],
        "model_index": [getattr(diffusers, name) for name in diffusers_folder.PIPELINES],
    }
    known = {kind: [inspect.signature(each).parameters for each in each_kind] for kind, each_kind in classes.items()}
    known["text_encoder"] = [CLIPTextConfig().to_dict()]
    for kind, documents in known.items():
        for document in documents:
            assert fields.unused(kind, kind, dict.fromkeys(document)) == []
