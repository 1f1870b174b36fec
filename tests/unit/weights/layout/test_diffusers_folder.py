"""The JSON files of a diffusers folder: exact both ways."""

import json
from dataclasses import replace

import pytest

from diffuscope.config import (
    EMOJI,
    FAMILIES,
    SD15,
    SDXL,
    TINY,
    ScheduleConfig,
    TextEncoderConfig,
    VAEConfig,
)
from diffuscope.errors import ModelNotFoundError, OutputError, WeightsError
from diffuscope.weights.layout import diffusers_folder, network_config, scheduler_config

MODELS = (TINY, EMOJI, *(model for name, model in FAMILIES.items() if name != "sd15-lcm"))
PARTS = ("text_encoder/config.json", "unet/config.json", "vae/config.json", diffusers_folder.SCHEDULER)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_folder_gives_back_the_config_that_it_was_written_from(tmp_path, model):
    diffusers_folder.write_config(tmp_path, model)
    assert diffusers_folder.describe(tmp_path).config == model
    assert diffusers_folder.describe(tmp_path, name="other").config == replace(model, name="other")


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_without_our_own_key_only_the_preset_is_lost(tmp_path, model):
    diffusers_folder.write_config(tmp_path, model)
    index = json.loads((tmp_path / "model_index.json").read_text())
    del index["_diffuscope"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = diffusers_folder.describe(tmp_path).config
    assert found.name == tmp_path.name
    own = {name: getattr(model, name) for name in ("name", "preset", "draws", "examples")}
    assert replace(found, **own) == model
    assert (found.preset.height, found.preset.width) == (model.preset.height, model.preset.width)
    assert (found.preset.sampler, found.preset.sigmas) == (model.preset.sampler, model.preset.sigmas)


def test_examples_that_are_no_texts_are_refused(tmp_path):
    diffusers_folder.write_config(tmp_path, EMOJI)
    index = json.loads((tmp_path / "model_index.json").read_text())
    for examples in ("a fox", [1], {"a": "fox"}):
        index["_diffuscope"]["examples"] = examples
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(WeightsError, match="examples"):
            diffusers_folder.describe(tmp_path)


def test_deep_unet_round_trip():
    assert network_config.unet_from_json(network_config.unet_to_json(SDXL.unet)) == SDXL.unet


def test_absent_keys_mean_what_diffusers_means():
    assert network_config.unet_from_json({}) == replace(SD15.unet, context_dim=1280)
    assert network_config.vae_from_json({"block_out_channels": [64]}) == VAEConfig(
        channels=(64,), blocks=1, upcast=True
    )
    assert network_config.text_encoder_from_json({}) == TextEncoderConfig(width=512, heads=8, hidden=2048)


@pytest.mark.parametrize(
    "sampler",
    [
        *("ddim", "lms", "euler", "euler_ancestral", "dpmpp_2m", "heun", "ddpm", "pndm", "unipc", "deis", "kdpm2"),
        "f_pndm",
        *("kdpm2_ancestral", "dpmpp_2s", "dpmpp_3m", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "lcm", "tcd"),
    ],
)
def test_every_sampler_has_its_class(sampler):
    preset = replace(TINY.preset, sampler=sampler)
    document = scheduler_config.to_json(ScheduleConfig(), preset)
    assert scheduler_config.from_json(document)[:2] == (ScheduleConfig(), {"sampler": sampler, "sigmas": "model"})


def test_karras_levels_and_zero_snr_are_carried():
    preset = replace(TINY.preset, sampler="dpmpp_2m", sigmas="karras")
    schedule = ScheduleConfig(zero_snr=True, betas="cosine", prediction="x0", spacing="trailing")
    document = scheduler_config.to_json(schedule, preset)
    assert scheduler_config.from_json(document)[:2] == (schedule, {"sampler": "dpmpp_2m", "sigmas": "karras"})
    assert scheduler_config.to_json(schedule, replace(preset, sampler="lms"))["_class_name"] == "DDIMScheduler"


@pytest.mark.parametrize("sigmas", ["karras", "exponential", "beta"])
def test_ramps_are_carried(sigmas):
    preset = replace(TINY.preset, sampler="unipc", sigmas=sigmas)
    assert scheduler_config.from_json(scheduler_config.to_json(ScheduleConfig(), preset))[1]["sigmas"] == sigmas


def test_pndm_has_its_runge_kutta_start_unless_it_is_skipped():
    document = {"_class_name": "PNDMScheduler"}
    assert scheduler_config.from_json(document)[1]["sampler"] == "f_pndm"
    assert scheduler_config.from_json({**document, "skip_prk_steps": True})[1]["sampler"] == "pndm"


@pytest.mark.parametrize(
    ("read", "document", "message"),
    [
        (network_config.unet_from_json, {"act_fn": "gelu"}, r"unet/config\.json has act_fn = 'gelu', expected 'silu'"),
        (network_config.unet_from_json, {"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        (network_config.unet_from_json, {"down_block_types": ["KDownBlock2D"] * 4}, "down_block_types"),
        (network_config.unet_from_json, {"up_block_types": ["UpBlock2D"] * 4}, "mirror of down_block_types"),
        (network_config.unet_from_json, {"attention_head_dim": [8, 8]}, "one number for each of 4 levels"),
        (network_config.unet_from_json, {"attention_head_dim": 7}, "320 channels do not split into 7 heads"),
        (network_config.unet_from_json, {"block_out_channels": 320}, r"unet/config\.json makes no network"),
        (network_config.vae_from_json, {"use_quant_conv": False}, "use_quant_conv = False"),
        (network_config.vae_from_json, {"shift_factor": 0.1}, "shift_factor"),
        (network_config.vae_from_json, {"out_channels": 4}, "out_channels = 4, expected 3"),
        (network_config.text_encoder_from_json, {"hidden_act": "relu"}, "hidden_act = 'relu'"),
        (network_config.text_encoder_from_json, {"num_attention_heads": 7}, "does not split into 7 heads"),
        (scheduler_config.from_json, {"_class_name": "UniPCScheduler"}, "expected 'DDIMScheduler'"),
        (scheduler_config.from_json, {}, "_class_name = None"),
        (scheduler_config.from_json, {"_class_name": ["x"]}, "_class_name"),
        (scheduler_config.from_json, {"_class_name": "PNDMScheduler", "trained_betas": [0.1]}, "trained_betas"),
        (
            scheduler_config.from_json,
            {"_class_name": "PNDMScheduler", "beta_schedule": "sigmoid"},
            "expected 'scaled_linear'",
        ),
        (scheduler_config.from_json, {"_class_name": "PNDMScheduler", "prediction_type": "flow"}, "prediction_type"),
        (scheduler_config.from_json, {"_class_name": "PNDMScheduler", "timestep_spacing": "odd"}, "timestep_spacing"),
        (scheduler_config.from_json, {"_class_name": "PNDMScheduler", "beta_start": "low"}, "beta_start"),
        (scheduler_config.from_json, {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order"),
        (scheduler_config.from_json, {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh3"}, "solver_type"),
        (scheduler_config.from_json, {"_class_name": "UniPCMultistepScheduler", "predict_x0": False}, "predict_x0"),
    ],
)
def test_what_our_networks_do_not_do_is_refused(read, document, message):
    with pytest.raises(WeightsError, match=message):
        read(document)


def test_a_depth_without_equal_in_diffusers_is_refused():
    with pytest.raises(WeightsError, match="no equal"):
        network_config.unet_to_json(replace(TINY.unet, depth=(1, 1), mid_depth=2))


@pytest.mark.parametrize("path", ["model_index.json", *PARTS])
def test_a_missing_or_damaged_part_is_named(tmp_path, path):
    diffusers_folder.write_config(tmp_path, TINY)
    for damage in ("{", "[]", "\udcff"):
        (tmp_path / path).write_bytes(damage.encode("utf-8", "surrogateescape"))
        with pytest.raises(WeightsError, match=path):
            diffusers_folder.describe(tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(ModelNotFoundError, match=f"{path} is missing"):
        diffusers_folder.describe(tmp_path)


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    diffusers_folder.write_config(tmp_path, TINY)
    path = tmp_path / "unet/config.json"
    path.write_text(json.dumps(network_config.unet_to_json(replace(TINY.unet, context_dim=48))))
    with pytest.raises(WeightsError, match="text of width 48, the encoder writes 32"):
        diffusers_folder.describe(tmp_path)


def test_weights_are_found_in_full_or_half_precision(tmp_path):
    unet = tmp_path / "unet"
    unet.mkdir()
    with pytest.raises(ModelNotFoundError, match="is missing"):
        diffusers_folder.find_weights(tmp_path, "unet")
    (unet / "diffusion_pytorch_model.bin").touch()
    with pytest.raises(WeightsError, match="is a pickle"):
        diffusers_folder.find_weights(tmp_path, "unet")
    (unet / "diffusion_pytorch_model.fp16.safetensors").touch()
    assert [path.name for path in diffusers_folder.find_weights(tmp_path, "unet")] == [
        "diffusion_pytorch_model.fp16.safetensors"
    ]
    (unet / "diffusion_pytorch_model.safetensors").touch()
    assert [path.name for path in diffusers_folder.find_weights(tmp_path, "unet")] == [
        "diffusion_pytorch_model.safetensors"
    ]


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be made"):
        diffusers_folder.write_config(tmp_path / "file", TINY)
