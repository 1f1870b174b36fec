"""The Pipeline: a model's parts as attributes, and the calls that make images with them."""

import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image
from torch import Tensor

from diffuscope import counterparts, fitting, loading, saving
from diffuscope.adapters.embeddings import Embeddings
from diffuscope.adapters.loras import Adapters
from diffuscope.adapters.merging import Loras
from diffuscope.config import LARGEST
from diffuscope.diffusion.noise import PerImageNoise
from diffuscope.diffusion.samplers import Sampler
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import InputError, ModelNotFoundError, Unquoted, shortened
from diffuscope.images import ImageSources, fit_to_size, listed, open_image, to_pixels
from diffuscope.keywords import forwarded, method_takes
from diffuscope.loading import Components
from diffuscope.models.upscaler import Upscaler
from diffuscope.perf import memory, threads
from diffuscope.perf.engine import Backend, Engine
from diffuscope.pipeline import branching, codec, segment
from diffuscope.pipeline import receipt as receipts
from diffuscope.pipeline.answers import BUDGET, Answers
from diffuscope.pipeline.hashing import Hashing
from diffuscope.pipeline.init_latents import InitImages, init_images, init_latents
from diffuscope.pipeline.inputs import Call
from diffuscope.pipeline.notes import notes_after, notes_before, size_note
from diffuscope.pipeline.plan import Plan, in_memory, plan, texts_of, untagged
from diffuscope.pipeline.receipt import Receipt
from diffuscope.pipeline.result import ArrayResult, Result
from diffuscope.pipeline.run import Run, sampler_steps
from diffuscope.pipeline.taps import selected
from diffuscope.prompt import encode_all
from diffuscope.prompt.parts import check_one_text
from diffuscope.request import Syntax
from diffuscope.types import Conditioning, Tap, TapArgument
from diffuscope.vision.clip_score import ClipScore, load_clip_score
from diffuscope.weights.store import stamps
from diffuscope.weights.store.hashing import weights_hash


class Pipeline:
    """A model, ready to make images. Its parts are attributes, each usable by itself.

    Attributes:
        config: what tells this model from another, with its preset.
        tokenizer: text to ids.
        text_encoder: ids to states.
        tokenizer_2: of a second text encoder (SDXL), else None.
        text_encoder_2: a second text encoder, whose states are concatenated to those of the first, else None.
        unet: noisy latents, timestep and text states to a prediction.
        vae: pixels to unscaled latents and back.
        schedule: the noise levels that the U-Net was trained on.
        adapters: the LoRAs that are loaded.
        embeddings: the textual-inversion embeddings that are loaded.
        engine: the fast twins of the U-Net and the VAE, and when they run.
    """

    def __init__(
        self,
        components: Components,
        *,
        fast: bool | None = None,
        backend: Backend = "torch",
        second_device: torch.device | None = None,
    ) -> None:
        """Take the parts as they are: their device and dtype are the pipeline's. Options as in ``ModelSource``."""
        self.components = components
        self.config = components.config
        self.tokenizer = components.tokenizer
        self.text_encoder = components.text_encoder
        self.tokenizer_2 = components.tokenizer_2
        self.text_encoder_2 = components.text_encoder_2
        self.unet = components.unet
        self.vae = components.vae
        self.schedule = Schedule(components.config.schedule)
        self.engine = Engine(fast, backend, second_device)
        self.adapters = Adapters(components.networks, self.engine)
        self.embeddings = Embeddings(components.towers)
        self._hashing: Hashing | None = None
        parameters = (each for network in components.networks.values() for each in network.parameters())
        self._mapped = stamps.stamps(components.files, parameters)

    if not TYPE_CHECKING:  # for a type checker there are no further attributes

        def __getattr__(self, name: str) -> object:
            """AttributeError with the counterpart of a name in diffusers."""
            hint = f": {counterparts.METHODS[name]}" if name in counterparts.METHODS else ""
            raise AttributeError(f"a Pipeline has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        preset, loras = self.config.preset, self.adapters.weights
        size = f"{preset.width}x{preset.height}" + (f", upscaled x{preset.upscale}" if preset.upscale > 1 else "")
        steps = f"{preset.num_inference_steps} steps of {preset.sampler}, guidance {preset.guidance_scale:g}"
        also = "".join(f", LoRA {name} {weight:g}" for name, weight in loras.items())
        dtype = receipts.dtype_name(self.dtype)
        return f"Pipeline({self.config.name!r}, {dtype} on {self.device}: {size}, {steps}{also})"

    load_lora = forwarded("adapters", Adapters.load)
    set_lora = forwarded("adapters", Adapters.set_one)
    set_loras = forwarded("adapters", Adapters.set)
    unload_lora = forwarded("adapters", Adapters.unload)
    load_embedding = forwarded("embeddings", Embeddings.load)
    unload_embedding = forwarded("embeddings", Embeddings.unload)

    @property
    def lora_dir(self) -> Path | None:
        """The folder where ``<lora:name:0.8>`` finds LoRAs that are not loaded; None is nowhere. Assignable."""
        return next(iter(self.adapters.folders), None)

    @lora_dir.setter
    def lora_dir(self, folder: str | PathLike[str] | None) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise ModelNotFoundError(f"no folder {folder}; give the one that holds the LoRA files")
        self.adapters.folders = () if folder is None else (Path(folder),)

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.engine.device(self.unet)

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in; latents are float32 between steps."""
        return self.unet.conv_in.weight.dtype

    @cached_property
    def upscaler(self) -> Upscaler:
        """The x4 upscaler, loaded on first use; float32, on the pipeline's device."""
        return loading.load_upscaler(self.device)

    @cached_property
    def similarity(self) -> ClipScore:
        """The shipped CLIP score of images and texts, loaded on first use; float32, on the pipeline's device."""
        return load_clip_score(self.device)

    @cached_property
    def clip_hash(self) -> str:
        """SHA-256 of all tensors of ``similarity``, in hex; computed once."""
        return weights_hash(self.similarity.tensors())

    @cached_property
    def weights(self) -> dict[str, str]:
        """SHA-256 of each network's tensors without any LoRA, in hex; computed once."""
        return (self._hashing or Hashing(self.adapters, self.components.hashes).begin()).result()

    @method_takes(Call, counterparts.CALL)
    def __call__(self, call: Call) -> Result:
        """Make images: ``steps(...)`` with the same arguments, run to its end.

        Returns:
            The images, ``num_images_per_prompt`` for each prompt in turn, with latents, seeds and receipt.
        """
        return self._begin(call, 0).result()

    @method_takes(Call, counterparts.CALL)
    def steps(self, call: Call) -> Run:
        """Start a run whose loop is yours: iterate over its Steps, then call ``result()``.

        None is the model's preset, which is written into the receipt. A Request may be the first argument; keywords
        override its fields. ``sampler`` may be a function. ``run.branch(step, ...)`` makes a ``branch``. No argument is
        modified. ``diffuscope schema`` prints the range of each option.

        Raises:
            InputError: an argument is not possible; before any network runs.
            WeightsError: a file of the model was changed in place.
            ImageError: ``image`` or ``mask_image`` cannot be read.
            OutOfMemoryError: the size cannot fit into the memory that is left, or a prompt or image could not be
                encoded.
        """
        return self._begin(call)

    @torch.no_grad()
    def encode_prompt(
        self,
        prompt: str | Sequence[str],
        *,
        clip_skip: int = 0,
        prompt_syntax: Syntax = "plain",
        tap: TapArgument | None = None,
    ) -> Conditioning:
        """Conditioning of one text or several: ``ids`` [B,T], ``embeddings`` [B,T,D] and ``pooled``.

        T is 77, and in another syntax than "plain" 77 for each 75 tokens that the texts need.

        Raises:
            InputError: no text, an empty list, more layers to skip than there are, texts that need different T, or one
                that changes during a run or is joined by AND.
        """
        texts, loras = untagged(texts_of(prompt))
        check_one_text(texts, prompt_syntax)
        with self.adapters.in_text_encoders(self.adapters.of_call(loras)):
            towers = self.components.towers
            chosen = selected(tap, [encoder for _, encoder in towers])
            return encode_all(texts, towers, chosen, skip=clip_skip, syntax=prompt_syntax)

    @torch.no_grad()
    def encode_image(
        self,
        image: ImageSources,
        *,
        sample: bool = True,
        seed: int | Sequence[int] | None = None,
        tap: TapArgument | None = None,
    ) -> Tensor:
        """Latents [N,C,h,w] of one image or several, float32, in the U-Net's scale.

        Sides that are no multiple of the VAE's factor are cropped to the next lower one, around the centre. A size far
        from that of the preset is a ``UserWarning``: the U-Net was not trained on such latents.

        Args:
            image: images that share one size.
            sample: sample the latents' distribution; else take its mean.
            seed: of the sample, as in a call.
            tap: reads or replaces activations of the VAE.

        Raises:
            ImageError: an image cannot be read.
            InputError: the sizes differ, or a side is shorter than the VAE's factor.
        """
        images = [open_image(source) for source in listed(image)]
        factor, channels = self.config.vae.factor, self.config.vae.latent_channels
        if not images or min(min(each.size) for each in images) < factor:
            sizes = Unquoted(", ".join(f"{each.width}x{each.height}" for each in images) or "no image")
            raise InputError("image", sizes, f"at least one image, each side at least {factor} pixels")
        images = [fit_to_size(each, *(side - side % factor for side in each.size)) for each in images]
        if note := size_note(self.config, images[0].height, images[0].width):
            warnings.warn(f"image: {note}", stacklevel=3)
        shape = (channels, images[0].height // factor, images[0].width // factor)
        noise = PerImageNoise(fitting.seeds_of(seed, len(images))).draw(shape) if sample else None
        return codec.encode(self.vae, to_pixels(images), noise, selected(tap, (self.vae,)), [], self.engine)

    def add_noise(
        self,
        latents: Tensor,
        *,
        step: int | None = None,
        sigma: float | None = None,
        seed: int | Sequence[int] | None = None,
        sampler: str | Sampler | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Latents with noise, ``latents + sigma * noise`` [N,C,h,w]: what a sampler has at that noise level.

        Args:
            latents: clean, [N,C,h,w] in the U-Net's scale, as ``encode_image`` returns.
            step: number of a step of a run, from 0, whose first noise level is taken.
            sigma: noise level, in its place.
            seed: of the noise, as in a call.
            sampler: of the run; the preset's by default.
            num_inference_steps: of the run; the preset's by default.

        Raises:
            InputError: not one of step and sigma, no such step, a level below 0, or other shapes.
        """
        if (step is None) is (sigma is None):
            raise InputError("step", step, "a step, or None with sigma")
        if step is not None:
            preset = self.config.preset
            steps = preset.num_inference_steps if num_inference_steps is None else num_inference_steps
            levels = self.schedule.levels(steps, sampler=preset.sampler if sampler is None else sampler).sigmas
            if not 0 <= step < len(levels):
                raise InputError("step", step, f"a step from 0 to {len(levels) - 1}")
            sigma = levels[step]
        if latents.ndim != 4:
            raise InputError("latents", latents, "latents of shape [N,C,h,w]")
        if sigma is None or not 0 <= sigma <= LARGEST:
            raise InputError("sigma", sigma, f"a noise level from 0 to {LARGEST:,}")
        noise = PerImageNoise(fitting.seeds_of(seed, len(latents))).draw(latents.shape[1:])
        return latents + sigma * noise.to(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor, *, tap: TapArgument | None = None) -> list[Image.Image]:
        """Images of latents [N,C,h,w] in the U-Net's scale, such as a Result's or a Step's ``x0``; not upscaled.

        Raises:
            InputError: the shape is not that of this model's latents.
            NonFiniteError: the pixels are not finite, in float32 neither.
        """
        return codec.images(codec.decode(self.vae, latents, selected(tap, (self.vae,)), [], self.engine), None, [])

    def save(self, folder: str | PathLike[str], layout: Literal["diffusers", "own", "single"] = "diffusers") -> Path:
        """Write the model as a new folder or file and return its path; it appears whole or not at all.

        Args:
            folder: does not exist yet, or is empty; its parent exists.
            layout: "diffusers" opens there too, and here with the same preset; "own" has our names and one file a
                network. "single" makes of ``folder`` one .safetensors file with the names of the original code, which
                nearly every program opens; it keeps the config but not the tokenizer, as CLIP's own is known.

        Raises:
            InputError: no such layout, or the file's name does not end in .safetensors.
            OutputError: the folder is not empty, the file exists, or it cannot be written.
        """
        stamps.check(self._mapped)
        with self.adapters.using():
            return saving.save(self.components, Path(folder), layout)

    def _begin(self, call: Call, budget: int = BUDGET) -> Run:
        """A run of a call. The texts are encoded here; the U-Net is first called by the run's first step."""
        stamps.check(self._mapped)
        planned = plan(self.config, self.schedule, call)
        planned, short = in_memory(planned, self.config, self.schedule, self.components, self.engine)
        init = init_images(planned, self.components)
        latents = segment.latents(planned)
        parts = segment.segments(self.components, self.adapters, planned)
        receipt = self._receipt(planned, init, parts.loras)
        receipt["notes"] += short
        noise = PerImageNoise(planned.generators or planned.seeds)
        now = Answers(planned.request, parts.loras, receipt["notes"], budget)
        with torch.inference_mode(False), torch.no_grad():
            self._hash()
            with memory.phase("encoding the prompt", self.device.type):
                encode = partial(segment.encoded, self.components, self.adapters, self.engine, lambda: self.similarity)
                texts = [encode(part, receipt["notes"]) for part in parts.live]
            tap = parts.live[0].tap
            x, (channels, area) = init_latents(
                init, self.components, planned, noise, tap, receipt["notes"], self.engine
            )
            x = latents[0].to(x, copy=True) if 0 in latents else x
            denoise = segment.denoiser(self.components, self.adapters, self.engine, parts, texts, channels, now)
        denoise = denoise if area is None else area.denoiser(denoise)
        steps = self.adapters.rest_after(now.counted(sampler_steps(planned, denoise, x, noise)))
        steps = segment.with_latents(steps if area is None else area.steps(steps), latents)
        finish = partial(self._finish, planned, tap)
        branch = partial(branching.changed, planned.call)
        return Run(steps, planned.levels, receipt, finish, now, lambda *change: self._begin(branch(*change)))

    def _hash(self) -> None:
        """Begin to hash the weights beside the run; nothing that moves may be held by it."""
        if self.device.type in ("cuda", "cpu") and self._hashing is None:
            hashing = Hashing(self.adapters, self.components.hashes)
            if self.engine.offload.device is None:
                for network in (self.unet, self.vae):  # first, so that no tensor is held that is replaced
                    self.engine.lay(network)
            self._hashing = hashing.begin()
        if self.engine.offload.device is not None and self._hashing is not None:
            self._hashing.leave()

    def _receipt(self, planned: Plan, init: InitImages, loras: list[Loras]) -> Receipt:
        texts = dict.fromkeys(text for each in planned.lineage for text in (*each.prompts, *each.negative_prompts))
        before = notes_before(planned, self.components, loras[0])
        notes = (*self.components.notes, *self.adapters.notes(loras[0]), *before)
        return receipts.begun(
            planned,
            self.components,
            self.device,
            twin=self.engine.twin(self.unet),
            loras=self.adapters.receipt_entries(loras[0]),
            branch_loras=[self.adapters.receipt_entries(each) for each in loras[1:]],
            embeddings=self.embeddings.receipt_entries(texts),
            notes=list(notes),
            **init.hashes,
        )

    def _finish(
        self,
        planned: Plan,
        tap: Tap | None,
        latents: Tensor,
        receipt: Receipt,
        check: codec.Check,
        valid: codec.Check,
    ) -> Result:
        notes, output_type = list[str](), planned.call.output_type
        output: Tensor | list[Image.Image] | None = None
        if output_type != "latent":
            upscaler = self.upscaler if planned.preset.upscale > 1 else None

            def pixels(images: slice) -> Tensor:
                return codec.decode(self.vae, latents[images], tap, notes, self.engine, check, valid)

            if output_type == "pil":
                found = (codec.images(pixels(images), upscaler, notes, check) for images in planned.batches)
                output = [image for each in found for image in each]
            else:
                output = torch.cat([codec.shares(pixels(images), upscaler, notes, check) for images in planned.batches])
        valid()
        kept = latents.cpu()
        output = kept if output is None else output
        notes += self.engine.notes
        if self.device.type == "cpu" and (slow := threads.note()) is not None:
            notes.append(slow)
        is_clip_guided = any(each.request.guidance_options.similarity is not None for each in planned.lineage)
        notes = [*receipt["notes"], *notes_after(latents, planned), *notes]
        receipt["notes"] = [shortened(note) for note in dict.fromkeys(notes)]
        receipt["weights"] = self.weights | ({receipts.CLIP: self.clip_hash} if is_clip_guided else {})
        if isinstance(output, list):
            return Result(output, kept, list(planned.seeds), receipt)
        array = output if output_type != "np" else output.permute(0, 2, 3, 1).numpy()
        return ArrayResult(array, kept, list(planned.seeds), receipt)
