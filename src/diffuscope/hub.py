"""Models by hub id, such as "stable-diffusion-v1-5/stable-diffusion-v1-5", through the extra ``hub``.

The cache is that of huggingface_hub, shared with other programs: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE and HF_TOKEN
apply. A model that is complete in the cache is used without a request.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from diffuscope.errors import DiffuscopeError, InputError, ModelNotFoundError
from diffuscope.weights.layout import diffusers_folder

_ID = re.compile(
    r"(?!.*\.\.)(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?P<file>(/\w[\w.-]*)+)?(@(?P<revision>\w[\w./-]*))?"
)
TIMEOUT = 10.0
"""Seconds for the hub's first answer."""

_SMALL = re.compile(
    r"model_index\.json|(unet|vae|text_encoder(_2)?)/config\.json|scheduler/scheduler_config\.json"
    r"|tokenizer(_2)?/(tokenizer|vocab|added_tokens|special_tokens_map|tokenizer_config)\.json|tokenizer(_2)?/merges\.txt"
)


def is_id(name: str) -> bool:
    """Whether ``name`` may be a hub id, owner/name[/file][@revision], and no local path."""
    match = _ID.fullmatch(name)
    return match is not None and not Path(name.split("/")[0]).exists()


def fetch(name: str) -> Path:
    """The folder or single file of a model in the hub's cache; missing files are downloaded, resumably."""
    match = _ID.fullmatch(name)
    if match is None:
        raise InputError("name_or_path", name, "owner/name, owner/name@revision or owner/name/file.safetensors")
    repository, revision = match["repository"], match["revision"]
    file = None if match["file"] is None else match["file"].lstrip("/")
    try:
        from huggingface_hub import constants
    except ImportError as error:
        raise InputError(
            "name_or_path", name, "a file or folder that exists", "For hub ids: pip install huggingface_hub"
        ) from error
    cached = _cached(repository, revision)
    if cached is not None and _is_whole(cached, file):
        return cached if file is None else cached / file
    if constants.HF_HUB_OFFLINE:
        state = "not" if cached is None else "not complete"
        raise ModelNotFoundError(
            f"no model {name!r}: there is no such folder, it is {state} in the hub's cache {constants.HF_HUB_CACHE}, "
            "and HF_HUB_OFFLINE is set; unset it, or give a model's folder"
        )
    folder = _download(repository, revision, file)
    return folder if file is None else folder / file


def needed(repository: str, names: Iterable[str]) -> list[str]:
    """The files of a repository that a diffusers model is read from.

    Configurations, the tokenizers' merges, and one set of safetensors per network: full precision before half, one file
    before shards. No pickles, no safety checker, no other variants.
    """
    names = sorted(names)
    if "model_index.json" not in names:
        single = [name for name in names if name.endswith(".safetensors")]
        files = ", ".join(single[:5]) or "no safetensors at all"
        raise InputError(
            "name_or_path",
            repository,
            "a repository with model_index.json, or one of its files as owner/name/FILE",
            f"It has {files}",
        )
    wanted = [name for name in names if _SMALL.fullmatch(name)]
    for path in diffusers_folder.WEIGHTS.values():
        wanted += _weights(path, names)
    return wanted


def _weights(path: str, names: list[str]) -> list[str]:
    """The files of one network, in the first variant that exists."""
    stem = path.removesuffix(".safetensors")
    for variant in ("", ".fp16"):
        whole = f"{stem}{variant}.safetensors"
        if whole in names:
            return [whole]
    for variant in ("", ".fp16"):
        shard = re.compile(re.escape(f"{stem}{variant}") + r"-\d{5}-of-\d{5}\.safetensors")
        index = f"{stem}.safetensors.index{variant}.json"
        if index in names:
            return [index, *filter(shard.fullmatch, names)]
    return []


def _cached(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _is_whole(folder: Path, file: str | None) -> bool:
    if file is not None:
        return (folder / file).is_file()
    try:
        config = diffusers_folder.describe(folder).config
        parts = ("text_encoder", "text_encoder_2")[: len(config.text_encoders)]
        for part in (*parts, "unet", "vae"):
            diffusers_folder.find_weights(folder, diffusers_folder.subfolder(config, part))
    except DiffuscopeError:
        return False
    return True


def _download(repository: str, revision: str | None, file: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        # This asks once, where listing the files would ask a missing network six times, for half a minute.
        siblings = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT).siblings
        names = [each.rfilename for each in siblings or ()]
        if file is not None and file not in names:
            raise ModelNotFoundError(f"{repository} has no file {file!r}; it has {', '.join(names[:5])} ...")
        wanted = needed(repository, names) if file is None else [file]
        return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))
    except DiffuscopeError:
        raise
    except Exception as error:  # each version of huggingface_hub has another HTTP client with its own errors
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise ModelNotFoundError(
            f"no model {repository!r}: there is no such folder, and the hub does not serve it ({first}); check the "
            "spelling, set HF_TOKEN if it needs one, or give a model's folder"
        ) from error
