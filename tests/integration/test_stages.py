"""The whole recipe on a tiny model: every stage really runs, and what comes out is a model that paints."""

import json
from dataclasses import replace

import pytest
import torch

import diffuscope
from diffuscope import model_files
from diffuscope.config import EMOJI, Preset, TextEncoderConfig, UNetConfig, VAEConfig
from diffuscope.recipes import emoji, ship, stages
from diffuscope.training.loop import LoopConfig
from diffuscope.training.rounding import round_weights
from diffuscope.training.text import TextTraining
from diffuscope.training.unet import DiffusionModel, UNetTraining
from diffuscope.training.vae import VAELoss

MODEL = replace(
    EMOJI,
    text_encoder=TextEncoderConfig(width=16, layers=1, heads=2, hidden=32, projection=16),
    unet=UNetConfig(channels=(16, 16), blocks=1, depth=(1, 0), heads=(1, 1), context_dim=16, norm_groups=4),
    vae=VAEConfig(channels=(8, 8, 16, 16), norm_groups=4, scale=1.0, blocks=1),
    preset=Preset(num_inference_steps=2, guidance_scale=2.0, sampler="dpmpp_2m", height=32, width=32, upscale=1),
)
SOURCE = "a test"
LOOP = LoopConfig(steps=8, warmup_steps=2, log_every=4, lr=3e-3)


@pytest.fixture(scope="module")
def dataset(corpus_file):
    return stages.Dataset.load(corpus_file, torch.device("cpu"), 32)


@pytest.fixture(scope="module")
def run(dataset, feature_net_file, tmp_path_factory):
    """The folder of a run through all four stages."""
    folder = tmp_path_factory.mktemp("run")
    recipe = emoji.VAERecipe(model=MODEL, batch_size=4, scenes=256, loop=LOOP)
    stages.train_vae(recipe, dataset, feature_net_file, folder / "vae")
    finetuned = replace(recipe, loss=VAELoss(kl=5e-3, spikes=2e-5, perceptual_from=0.0))
    vae = stages.train_vae(
        finetuned, dataset, feature_net_file, folder / "vae-finetune", folder / "vae" / "vae.safetensors"
    )
    examples = stages.make_examples(
        emoji.ExamplesRecipe(scenes=64, held_out=256), dataset, vae, feature_net_file, folder, SOURCE
    )
    stages.train_text(
        emoji.TextRecipe(model=MODEL, training=TextTraining(batch_size=16), loop=LOOP), examples, folder / "text"
    )
    recipe = emoji.UNetRecipe(model=MODEL, training=UNetTraining(batch_size=8), loop=LOOP)
    model = stages.new_model(recipe, stages.load_clip(recipe, folder / "text" / "towers.safetensors"))

    def export(ema):
        ship.export_model(
            ema,
            vae.state_dict(),
            ship.used_tokens(examples[0].ids, MODEL.text_encoder.vocabulary),
            folder / "model",
            MODEL,
        )

    stages.train_unet(recipe, examples, model, folder / "unet", on_save=export)
    return folder


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_every_stage_ends_with_a_validation(run):
    assert log(run / "vae-finetune")[-1]["validation.psnr"] > 5
    assert 0 <= log(run / "text")[-1]["validation.r1"] <= 1
    assert log(run / "unet")[-1]["validation.error"] > 0


def test_latents_come_out_centred_and_of_unit_variance(run):
    examples = stages.cached_examples(run, torch.device("cpu"), SOURCE)
    assert examples is not None
    assert examples[0].latents.float().mean().abs() < 0.5
    assert 0.5 < examples[0].latents.float().std() < 1.5


def test_examples_of_another_autoencoder_are_not_taken_for_these(run, tmp_path):
    assert stages.cached_examples(run, torch.device("cpu"), "another") is None
    (tmp_path / "vae").write_bytes(b"1")
    (tmp_path / "corpus").write_bytes(b"2")
    one = stages.provenance(emoji.examples(), tmp_path / "corpus", tmp_path / "vae")
    (tmp_path / "vae").write_bytes(b"3")
    assert stages.provenance(emoji.examples(), tmp_path / "corpus", tmp_path / "vae") != one


def test_the_shipped_folder_opens_and_paints(run):
    pipe = diffuscope.load(run / "model", device="cpu")
    result = pipe("a red apple, noto style", seed=1)
    assert result.images[0].size == (32, 32)
    assert result.latents.isfinite().all()


def test_training_resumes_from_a_shipped_folder(run, dataset, feature_net_file, tmp_path):
    model = ship.load_model(run / "model")
    config = emoji.UNetRecipe(model=MODEL, training=UNetTraining(batch_size=8), loop=replace(LOOP, steps=2))
    before = model.unet.conv_out.weight.detach().clone()
    examples = stages.cached_examples(run, torch.device("cpu"), SOURCE)
    trained = stages.train_unet(config, examples, model, tmp_path)
    assert isinstance(trained, DiffusionModel)
    assert not torch.equal(before, trained.unet.conv_out.weight)


def test_a_difference_is_trained_as_it_is_stored(run, tmp_path, monkeypatch):
    """Convolutions and tokens stay; what the file of two bits a number gives back is what was validated."""
    monkeypatch.setattr(model_files, "shipped_models", lambda: {"base": run / "model"})
    model = ship.load_model(run / "model")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = replace(MODEL, base="base")
    recipe = emoji.UNetRecipe(
        model=config, training=UNetTraining(batch_size=8), rounded_from=0.5, loop=replace(LOOP, ema_decay=0.0)
    )
    examples = stages.cached_examples(run, torch.device("cpu"), SOURCE)
    trained = stages.train_unet(recipe, examples, model, tmp_path / "unet")
    part = stages.trained_part(trained)
    for name, value in trained.named_parameters():
        assert torch.equal(value, before[name]) == (name not in part), name
    assert {"unet.conv_in.weight", "clip.text_encoder.token_embedding.weight"}.isdisjoint(part)
    ship.export_difference(trained, tmp_path / "model", config)
    assert not (tmp_path / "model" / "vae.safetensors").exists()
    assert (tmp_path / "model" / "unet.safetensors").stat().st_size < (run / "model/unet.safetensors").stat().st_size
    pipe = diffuscope.load(tmp_path / "model", device="cpu")
    stored = stages.DiffusionModel(trained.clip, trained.unet).requires_grad_(False)
    round_weights(
        stored, {name: before[name] for name in part if not name.startswith("clip.image") and "scale" not in name}
    )
    for name, value in pipe.unet.state_dict().items():
        torch.testing.assert_close(value, stored.unet.state_dict()[name], rtol=0, atol=1e-3)
    last = log(tmp_path / "unet")[-1]
    assert last["validation.stored"] != last["validation.error"]
    assert pipe("a red apple, noto style", seed=1).latents.isfinite().all()


def test_only_tokens_of_the_texts_are_shipped(run):
    examples = stages.cached_examples(run, torch.device("cpu"), SOURCE)
    seen = ship.used_tokens(examples[0].ids, MODEL.text_encoder.vocabulary)
    model = ship.load_model(run / "model")
    table = model.clip.text_encoder.token_embedding.weight
    unseen = torch.ones(len(table), dtype=torch.bool)
    unseen[seen] = False
    assert table[seen].abs().sum(1).gt(0).all()
    assert not table[unseen].any()
    assert torch.equal(ship.trained_tokens(model), seen)
