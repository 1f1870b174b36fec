"""The calls of a Pipeline that change what its networks are and which words they know: LoRAs and embeddings."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from diffuscope.errors import InputError, ModelNotFoundError
from diffuscope.loading import Components
from diffuscope.pipeline.adapters import Adapters, LoraReport
from diffuscope.pipeline.words import EmbeddingReport, Words
from diffuscope.prompt.lora_tags import parse_lora_tags


class Adapted:
    """What a Pipeline can be changed by.

    Attributes:
        adapters: the LoRAs that are loaded.
        words: the embeddings that are loaded.
    """

    def __init__(self, components: Components) -> None:
        """With nothing loaded yet."""
        self.adapters = Adapters(components.networks)
        self.words = Words(components.towers)

    @property
    def lora_dir(self) -> Path | None:
        """The folder in which ``<lora:name:0.8>`` looks for what is not loaded yet; None is nowhere. Assignable."""
        return next(iter(self.adapters.folders), None)

    @lora_dir.setter
    def lora_dir(self, folder: str | PathLike[str] | None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise ModelNotFoundError(f"no folder {folder}; give the one that holds the LoRA files")
        self.adapters.folders = () if folder is None else (Path(folder),)

    def load_lora(
        self,
        path: str | PathLike[str],
        weight: float = 1.0,
        name: str | None = None,
        *,
        allow_pickle: bool = False,
    ) -> LoraReport:
        """Load a LoRA and merge it into the networks: W + weight * (alpha / r) B A. Several add up, in any order.

        LoHa, LoKr and OFT are loaded in the same way; their changes are those of ``weights.adapter.deltas``.

        Files of kohya, diffusers, PEFT and ComfyUI are read, for the U-Net and the text encoders, with convolutions
        and DoRA. The networks keep their modules, speed and tap names; their unchanged tensors are kept as well.

        Args:
            path: a .safetensors file, or the folder that diffusers or PEFT wrote.
            weight: how strong; 0 leaves the networks as they are, bit for bit. May be negative.
            name: for ``set_lora``, ``unload_lora`` and ``<lora:name:0.8>``; the file's own if left out. One that is
                loaded under it is replaced.
            allow_pickle: also read a file that torch pickled, as ``load`` does.

        Returns:
            How many of the file's layers the model has, and which it does not.

        Raises:
            ModelNotFoundError: there is no such file.
            WeightsError: it is damaged, a pickle, or no LoRA.
            WeightMismatchError: it fits none of the model's layers, or was made for another family of models.
            InputError: the weight is no finite number, or the name cannot stand in a prompt.
        """
        return self.adapters.load(path, weight, name, allow_pickle=allow_pickle)

    def set_lora(self, name: str, weight: float) -> None:
        """Give a loaded LoRA another weight.

        Raises:
            InputError: none of that name is loaded, or the weight is no finite number.
        """
        self.adapters.set({name: weight})

    def set_loras(self, weights: Mapping[str, float]) -> None:
        """Give several loaded LoRAs other weights at once, for the cost of one; the others keep theirs.

        Every merge is computed from the unchanged tensors, so after any number of changes the networks are those of
        the last weights, bit for bit.

        Raises:
            InputError: none of one of the names is loaded, or a weight is no finite number; then nothing is changed.
        """
        self.adapters.set(weights)

    def unload_lora(self, name: str | None = None) -> None:
        """Take a LoRA away, or all of them. Without any the networks have the very tensors that they were loaded with.

        Raises:
            InputError: none of that name is loaded.
        """
        self.adapters.unload(name)

    def load_embedding(
        self, path: str | PathLike[str], word: str | None = None, *, allow_pickle: bool = False
    ) -> EmbeddingReport:
        """Load a textual-inversion embedding: from now on ``word`` in a prompt stands for its vectors.

        The tokenizer gives the word ids beyond CLIP's, and the text encoder vectors for these; ``pipe.save`` leaves
        both out. The word is found in any case, where no letter, digit or underscore adjoins it.

        Args:
            path: a file of diffusers, AUTOMATIC1111's web UI or SDXL's pairs, or a folder with learned_embeds.
            word: without white space; the file's own if left out. One that is loaded under it is replaced.
            allow_pickle: also read ``.pt`` and ``.bin``, as ``load`` does.

        Raises:
            ModelNotFoundError: there is no such file.
            WeightsError: it is damaged, a pickle that is not allowed, or no embedding.
            WeightMismatchError: its vectors are not as wide as the model's text.
            InputError: the word cannot stand in a prompt.
        """
        return self.words.load(path, word, allow_pickle=allow_pickle)

    def unload_embedding(self, word: str | None = None) -> None:
        """Forget a word that was loaded, or all of them.

        Raises:
            InputError: none of that name is loaded.
        """
        self.words.unload(word)


def untagged(prompts: Sequence[str]) -> tuple[tuple[str, ...], Mapping[str, float]]:
    """The prompts without their LoRA tags, and the weights that the tags ask for.

    Raises:
        InputError: a tag is not possible, or prompts of one call ask for different ones.
    """
    tagged = [parse_lora_tags(prompt) for prompt in prompts]
    if any(each.loras != tagged[0].loras for each in tagged):
        raise InputError("the prompts of one call name different LoRAs, which change the whole network; call once each")
    return tuple(each.text for each in tagged), tagged[0].loras


def refuse_tags(negative_prompts: Sequence[str]) -> None:
    """That no negative prompt names a LoRA.

    Raises:
        InputError: one does.
    """
    if any(parse_lora_tags(prompt).loras for prompt in negative_prompts):
        raise InputError("a negative prompt names a LoRA, which has no meaning there; name it in the prompt")
