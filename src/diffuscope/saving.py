"""A model as a folder or as a single file: whole, or not at all."""

import json
import shutil
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

from diffuscope.errors import InputError, OutputError, Unquoted
from diffuscope.loading import Components
from diffuscope.models.tokenizer import Tokenizer
from diffuscope.output import part_of
from diffuscope.weights.layout import diffusers_folder, own_config, single_file
from diffuscope.weights.layout.diffusers import to_diffusers
from diffuscope.weights.layout.tokenizer_files import AddedToken
from diffuscope.weights.store import documents, files


def save(components: Components, folder: Path, layout: str) -> Path:
    """Write the model into a new folder, or a new file; see ``Pipeline.save``."""
    if layout not in ("diffusers", "own", "single"):
        raise InputError("layout", layout, "one of diffusers, own, single")
    if layout != "own":
        components = plain(components)
    if layout == "single":
        return _single(components, folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise OutputError(f"{folder} exists and is not an empty folder; choose a new name")
    if not folder.parent.is_dir():
        raise OutputError(f"cannot write {folder}: there is no folder {folder.parent}; make it first")
    part = part_of(folder)
    try:
        part.mkdir()
        (_own if layout == "own" else _diffusers)(components, part)
        part.replace(folder)
    except OSError as error:  # an OutputError names a file that is gone by now; what caused it has the reason
        cause = error.__cause__ if isinstance(error, OutputError) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        raise OutputError(f"cannot write {folder} ({reason}); give a folder with permission and space") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def plain(components: Components) -> Components:
    """A few-step model as others run it: at its preset's number of steps and guidance scale, without guidance."""
    config = components.config
    if config.unet.step_dim is None:
        return components
    preset = config.preset
    step_size = config.schedule.train_steps / preset.num_inference_steps
    unet = components.unet.fixed(guidance=preset.guidance_scale, step_size=step_size)
    config = replace(config, unet=unet.config, preset=replace(preset, guidance_scale=1.0))
    return replace(components, unet=unet, config=config)


def _single(components: Components, path: Path) -> Path:
    if path.suffix != ".safetensors":
        raise InputError("folder", str(path), "a name that ends in .safetensors for layout='single'")
    if path.exists():
        raise OutputError(f"{path} exists; choose a new name")
    if components.tokenizer.own_words:
        got = Unquoted("'single' for a model whose tokenizer has words of its own")
        raise InputError("layout", got, "'diffusers' or 'own', which keep the tokenizer")
    networks = {name: network.state_dict() for name, network in components.networks.items()}
    single_file.write(path, networks, components.config, own_config.to_json(components.config))
    return path


def _own(components: Components, folder: Path) -> None:
    for name, network in components.networks.items():
        files.write(folder / f"{name}.safetensors", network.state_dict())
    documents.write_text(folder / own_config.FILE, own_config.to_json(components.config))
    for name, (tokenizer, _) in zip(("tokenizer", "tokenizer_2"), components.towers, strict=False):
        write_tokenizer(tokenizer, folder / name)


def _diffusers(components: Components, folder: Path) -> None:
    diffusers_folder.write_config(folder, components.config)
    for name, network in components.networks.items():
        path = folder / diffusers_folder.WEIGHTS[diffusers_folder.subfolder(components.config, name)]
        files.write(path, to_diffusers(network.state_dict(), network.config), {"format": "pt"})
    for name, (tokenizer, _) in zip(("text_encoder", "text_encoder_2"), components.towers, strict=False):
        place = diffusers_folder.subfolder(components.config, name).replace("text_encoder", "tokenizer")
        write_tokenizer(tokenizer, folder / place)


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer as transformers reads it."""
    start, end, pad = (tokenizer.tokens[i] for i in (tokenizer.start, tokenizer.end, tokenizer.pad))
    special = {"bos_token": start, "eos_token": end, "pad_token": pad, "unk_token": end}
    settings: dict[str, object] = {**special, "model_max_length": tokenizer.length, "tokenizer_class": "CLIPTokenizer"}
    settings |= {"add_prefix_space": False, "do_lower_case": True, "errors": "replace"}
    merges = "".join(f"{first} {second}\n" for first, second in tokenizer.merges)
    folder.mkdir()
    documents.write_text(folder / "vocab.json", _vocabulary(tokenizer.tokens))
    documents.write_text(folder / "merges.txt", f"#version: 0.2\n{merges}")
    added = {
        each.ids[0]: AddedToken(each.word, single_word=each.whole, normalized=each.any_case)
        for each in tokenizer.own_words
    }
    if added:
        sides = {"lstrip": False, "rstrip": False, "special": False}
        settings["added_tokens_decoder"] = {str(i): asdict(token) | sides for i, token in sorted(added.items())}
        table = {token.content: i for i, token in sorted(added.items())}
        documents.write_text(folder / "added_tokens.json", json.dumps(table, indent=2, ensure_ascii=False))
    documents.write_text(folder / "special_tokens_map.json", json.dumps(special, indent=2))
    documents.write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2))


@lru_cache(maxsize=1)
def _vocabulary(tokens: tuple[str, ...]) -> str:
    """The text of ``vocab.json``, which a model with two tokenizers holds twice."""
    return json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False)
