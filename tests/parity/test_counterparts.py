"""Every argument and public attribute of diffusers' pipelines is here too, or has a counterpart."""

import inspect
import re

import diffusers
import pytest
import torch

import diffuscope as ds
from diffuscope import counterparts
from diffuscope.pipeline import Pipeline
from diffuscope.weights.layout.diffusers_folder import PIPELINES

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # their own
PIPES = [getattr(diffusers, name) for name in PIPELINES]


def test_every_argument_of_a_call() -> None:
    known = set(inspect.signature(Pipeline.__call__).parameters) | set(counterparts.CALL)
    theirs = {name for pipe in PIPES for name in inspect.signature(pipe.__call__).parameters}
    assert theirs - known == {"kwargs"}


def test_every_argument_of_opening_a_model() -> None:
    known = set(inspect.signature(ds.load).parameters) | set(counterparts.LOAD)
    listed = re.findall(r"^ {12}(\w+) \(", diffusers.DiffusionPipeline.from_pretrained.__doc__ or "", re.MULTILINE)
    assert "torch_dtype" in known
    assert not set(listed) - known - {"kwargs"}


def test_every_public_attribute(tiny: Pipeline) -> None:
    """Those that a pipeline gets when it is made too: its modules, and what its constructor assigns."""
    theirs = {name for pipe in PIPES for name in dir(pipe) if not name.startswith("_")}
    for pipe in PIPES:
        theirs |= set(inspect.signature(pipe).parameters)
        theirs |= set(re.findall(r"self\.([a-z]\w*) =", inspect.getsource(pipe.__init__)))
    assert {"disable_freeu", "scheduler", "mask_processor"} <= theirs
    assert not theirs - set(dir(tiny)) - set(counterparts.METHODS)


@pytest.mark.parametrize(("scheduler", "calls"), [("DDIMScheduler", 2), ("EulerAncestralDiscreteScheduler", 1)])
@pytest.mark.parametrize("images", [1, 2])
def test_a_generator_draws_what_it_draws_there(
    tiny: Pipeline, diffusers_folder, images: int, scheduler: str, calls: int
) -> None:
    """The same call word for word, with one generator; where no noise is drawn in vain, a second call goes on alike."""
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        diffusers_folder, local_files_only=True, safety_checker=None
    )
    theirs.scheduler = getattr(diffusers, scheduler).from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 5, "guidance_scale": 7.5, "num_images_per_prompt": images, "output_type": "latent"}
    ours_draws, theirs_draws = (torch.Generator().manual_seed(4) for _ in range(2))
    for _ in range(calls):
        other = theirs("a red fox", generator=theirs_draws, **call).images
        ours = tiny("a red fox", generator=ours_draws, sampler=scheduler, **call).images
        assert (ours - other).abs().max() < 1e-4 * other.abs().max()


def test_a_scale_of_zero_is_that_of_diffusers(tiny: Pipeline, diffusers_folder) -> None:
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(
        diffusers_folder, local_files_only=True, safety_checker=None
    )
    theirs.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    call = {"num_inference_steps": 5, "guidance_scale": 0.0, "latents": noise, "output_type": "latent"}
    assert (tiny("a red fox", **call).images - theirs("a red fox", **call).images).abs().max() < 1e-4
