"""Names of diffusers that are others here: arguments of a call and of opening a model, methods of a pipeline.

Each table is written as answer -> the names that it is for. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import fields

from diffuscope.request import Request


def _by_name(answers: Mapping[str, str]) -> dict[str, str]:
    return {name: answer for answer, names in answers.items() for name in names.split()}


CALL = _by_name(
    {
        "it is 6 for the prompt of a refiner": "aesthetic_score",
        "use `for step in pipe.steps(...)`: the loop is yours": "callback callback_steps",
        "use `for step in pipe.steps(...)`: the loop is yours, and step.x may be assigned": "callback_on_step_end",
        "use `for step in pipe.steps(...)`: a step has x, x0 and sigma": "callback_on_step_end_tensor_inputs",
        "the weight of a LoRA is pipe.set_lora(name, weight), or <lora:name:0.8> in the prompt": (
            "cross_attention_kwargs"
        ),
        "use sampler_options={'eta': 0.5}": "eta",
        "use guidance_options={'rescale': 0.7}": "guidance_rescale",
        "there are no IP-Adapters here": "ip_adapter_image ip_adapter_image_embeds",
        "they are computed from image and mask_image": "masked_image_latents",
        "it is 2.5 for the negative prompt of a refiner": "negative_aesthetic_score",
        "the negative prompt has the sizes of the prompt here": (
            "negative_crops_coords_top_left negative_original_size negative_target_size"
        ),
        "pass negative_prompt as text": "negative_pooled_prompt_embeds negative_prompt_embeds",
        "both text encoders read negative_prompt": "negative_prompt_2",
        "it belongs to networks that enlarge images; use upscale=4, or image=": "noise_level",
        "distilled networks run on the 50 timesteps of their training": "original_inference_steps",
        "crop image and mask before the call, and paste the result": "padding_mask_crop",
        "use conditioning=, which pipe.encode_prompt(...) returns": "pooled_prompt_embeds prompt_embeds",
        "both text encoders read prompt": "prompt_2",
        "a call always returns a Result; its images are result.images": "return_dict",
        "use sigmas=[...], noise levels; pipe.schedule.t_to_sigma(t) is that of a timestep": "timesteps",
    }
)
"""Argument of a call of diffusers -> what to use here."""

LOAD = _by_name(
    {
        "images get no watermark": "add_watermarker",
        "set HF_HOME or HF_HUB_OFFLINE in the environment, before diffuscope is imported": (
            "cache_dir force_download local_files_only mirror proxies token use_auth_token"
        ),
        "no code of a model is ever run": "custom_pipeline custom_revision",
        "use device='cuda:1'": "device_map max_memory",
        "weights are always mapped": "disable_mmap",
        "there is no safety checker here": "feature_extractor requires_safety_checker safety_checker",
        "it is read from the model's folder": "force_zeros_for_empty_prompt is_cosxl_edit requires_aesthetics_score",
        "there are no IP-Adapters here": "image_encoder",
        "weights are never in memory twice": "low_cpu_mem_usage",
        "memory is kept small without it; see dtype and device of load": "offload_folder offload_state_dict",
        "use model=": "pretrained_model_name_or_path",
        "write it behind the id: 'owner/name@revision'": "revision",
        "the sampler is an argument of a call: sampler='dpmpp_2m'": "scheduler",
        "give the path of the subfolder": "subfolder",
        "use dtype='float16'": "torch_dtype",
        "only safetensors, or pickles with allow_pickle=True": "use_onnx",
        "safetensors are the default; allow_pickle=True reads pickles too": "use_safetensors",
        "half-precision files are found by themselves": "variant",
    }
)
"""Argument of opening a model -> what to use here."""

_OF_A_CALL = "it is an argument of a call, and result.receipt holds its value"

METHODS = dict.fromkeys((field.name for field in fields(Request)), _OF_A_CALL) | _by_name(
    {
        "images get no watermark": "add_watermarker watermark",
        "a call checks its arguments before a network runs": "check_inputs",
        "the configuration is pipe.config, which pipe.save(folder) writes": (
            "config_name extract_init_dict force_zeros_for_empty_prompt get_config_dict has_compatibles "
            "ignore_for_config is_cosxl_edit register_to_config requires_aesthetics_score to_json_string"
        ),
        "use pipe.set_lora(name, weight)": "cross_attention_kwargs lora_scale",
        "use pipe.decode(latents)": "decode_latents",
        "use pipe.config.preset.width and pipe.config.preset.height": "default_sample_size",
        "use pipe.unload_lora(name)": "delete_adapters",
        "torch's fused attention is always used": (
            "disable_attention_slicing disable_xformers_memory_efficient_attention enable_attention_slicing "
            "enable_xformers_memory_efficient_attention set_attention_slice "
            "set_use_memory_efficient_attention_xformers"
        ),
        "tap= changes activations by name, for one call": "disable_freeu enable_freeu",
        "use pipe.set_loras({})": "disable_lora unfuse_lora",
        "images are decoded in pieces by themselves": (
            "disable_vae_slicing disable_vae_tiling enable_vae_slicing enable_vae_tiling"
        ),
        "guidance_scale=1 is a call without guidance": "do_classifier_free_guidance",
        "load('owner/name') fetches a model that is not in the cache": "download",
        "use diffuscope.load(..., offload=True), which begins by itself where memory is short": (
            "enable_group_offload enable_model_cpu_offload enable_sequential_cpu_offload maybe_free_model_hooks "
            "model_cpu_offload_seq remove_all_hooks"
        ),
        "use pipe.set_loras({name: weight})": "enable_lora set_adapters",
        "use pipe.unload_lora(name) and pipe.load_lora('other.safetensors')": "enable_lora_hotswap",
        "there is no safety checker here": (
            "feature_extractor requires_safety_checker run_safety_checker safety_checker"
        ),
        "use diffuscope.load(folder)": "from_config",
        "one pipeline does text-to-image, img2img and inpainting: image=, mask_image=": "from_pipe",
        "use diffuscope.load(...)": "from_pretrained",
        "use diffuscope.load('model.safetensors')": "from_single_file",
        "a LoRA is merged while a call runs: pipe.set_loras({name: weight})": "fuse_lora",
        "load(model, fast=True) joins them": "fuse_qkv_projections unfuse_qkv_projections",
        "see pipe.adapters": "fused_loras get_active_adapters get_list_adapters num_fused_loras",
        "a U-Net that embeds guidance_scale does so by itself": "get_guidance_scale_embedding",
        "use pipe.schedule.levels(steps, sampler=...)": "get_timesteps set_timesteps",
        "it is an option of a call: guidance_options={'rescale': 0.7}": "guidance_rescale",
        "use pipe.device": "hf_device_map",
        "there are no IP-Adapters here": (
            "image_encoder load_ip_adapter prepare_ip_adapter_image_embeds set_ip_adapter_scale unload_ip_adapter"
        ),
        "use pipe.encode_image(image) and pipe.decode(latents)": "image_processor",
        "use run = pipe.steps(...) and run.cancel()": "interrupt",
        "use diffuscope.load(folder).config": "load_config",
        "use pipe.load_lora('file.safetensors')": (
            "load_lora_into_text_encoder load_lora_into_unet load_lora_weights lora_state_dict"
        ),
        "use pipe.load_embedding('file.safetensors')": "load_textual_inversion",
        "use mask_image=": "mask_processor",
        "embeddings are found in the prompt by themselves": "maybe_convert_prompt",
        "the networks are pipe.text_encoder, pipe.unet and pipe.vae": (
            "modules parameters register_modules text_encoder_name unet_name"
        ),
        "use pipe.config.name": "name_or_path",
        "use result.receipt['num_inference_steps']": "num_timesteps",
        "result.images are PIL images": "numpy_to_pil",
        "LoRAs are files; they stay as they are": "pack_weights save_lora_weights write_lora_layers",
        "use sampler_options={'eta': 0.5}": "prepare_extra_step_kwargs",
        "use pipe.encode_image(image)": "prepare_image_latents",
        "use pipe.add_noise(latents, sigma=..., seed=...)": "prepare_latents",
        "they are computed from image and mask_image": "prepare_mask_latents",
        "use `for step in tqdm(pipe.steps(...))`": "progress_bar",
        "use pipe.save(folder)": "push_to_hub save_config save_pretrained to_json_file",
        "no code of a model is ever run": "register_for_auto_class",
        "device and dtype are chosen when a model is opened: load(model, device='cuda', dtype='float16')": (
            "reset_device_map to"
        ),
        "the sampler is an argument of a call: sampler='dpmpp_2m'; its levels are those of pipe.schedule": "scheduler",
        "LoRAs are where their network is": "set_lora_device",
        "a call shows no bar; use `for step in tqdm(pipe.steps(...))`": "set_progress_bar_config",
        "use pipe.unload_lora()": "unload_lora_weights",
        "use pipe.unload_embedding(word)": "unload_textual_inversion",
        "a VAE whose values overflow runs again in float32 by itself": "upcast_vae",
        "use pipe.config.vae.factor": "vae_scale_factor",
    }
)
"""Methods and attributes of a pipeline of diffusers -> what to use here; options of a call are attributes there."""
