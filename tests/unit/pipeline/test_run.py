"""The loop in the caller's hands: equal to a call, editable, cancellable, and watched by taps."""

import threading

import torch

from diffuscope.nn.taps import tap_points
from diffuscope.pipeline import Pipeline
from diffuscope.types import Step
from refusals import refused


def test_the_loop_equals_the_call_bit_for_bit(tiny: Pipeline) -> None:
    run = tiny.steps(["a red fox", "a cat"], seed=32, sampler="euler_ancestral")
    steps = list(run)
    result = run.result()
    whole = tiny(["a red fox", "a cat"], seed=32, sampler="euler_ancestral")
    assert torch.equal(result.latents, whole.latents)
    assert [image.tobytes() for image in result.images] == [image.tobytes() for image in whole.images]
    assert result.receipt == whole.receipt
    assert [step.index for step in steps] == [0, 1, 2, 3]
    assert [step.sigma for step in steps] == result.receipt["noise_levels"][1:]
    assert all(step.x.shape == step.x0.shape == (2, 4, 16, 16) for step in steps)
    assert all(step.x.dtype == torch.float32 for step in steps)
    assert run.result() is result


def test_result_finishes_what_the_loop_left(tiny: Pipeline) -> None:
    run = tiny.steps("a red fox", seed=32)
    next(run)
    assert torch.equal(run.result().latents, tiny("a red fox", seed=32).latents)


def test_previews_do_not_disturb(tiny: Pipeline) -> None:
    run = tiny.steps("a red fox", seed=32)
    for step in run:
        assert tiny.decode(step.x0)[0].size == (32, 32)
    assert torch.equal(run.result().latents, tiny("a red fox", seed=32).latents)


def test_the_sampler_continues_from_what_the_caller_assigns(tiny: Pipeline) -> None:
    def edited(change) -> tuple[torch.Tensor, int]:
        run = tiny.steps("a red fox", seed=32)
        for step in run:
            if step.index == 1:
                change(step)
        result = run.result()
        return result.latents, result.receipt["branch"]["step"]

    def assign(step) -> None:
        step.x = step.x * 1.5

    def in_place(step) -> None:
        step.x.mul_(1.5)

    plain = tiny("a red fox", seed=32)
    assigned, step = edited(assign)
    assert not torch.equal(assigned, plain.latents)
    assert step == 2
    mutated, step = edited(in_place)
    assert torch.equal(mutated, assigned)
    assert step == 2
    assert plain.receipt["branch"] is None


def test_an_edit_of_the_last_step_is_noticed(tiny: Pipeline) -> None:
    run = tiny.steps("a red fox", seed=32)
    for step in run:
        last = step
    last.x = last.x * 2
    assert run.result().receipt["branch"]["step"] == 4


def test_an_edit_of_another_shape_is_an_error(tiny: Pipeline) -> None:
    run = tiny.steps("a red fox", seed=32)
    step = next(run)
    step.x = step.x[:, :2]
    with refused("step.x"):
        next(run)
    step.x = 3
    with refused("step.x", 3):
        next(run)


def test_latents_that_are_none(tiny: Pipeline) -> None:
    with refused("latents"):
        tiny.decode([1])


def test_a_sampler_that_ends_too_early(tiny: Pipeline) -> None:
    def short(denoise, x, sigmas, *, noise=None):
        yield Step(0, sigmas[1], x, denoise(x, sigmas[0]))

    with refused("run", "1 of 4 steps, then the sampler ended"):
        tiny("a red fox", seed=32, sampler=short)


def test_a_sampler_that_yields_no_steps(tiny: Pipeline) -> None:
    def tensors(denoise, x, sigmas, *, noise=None):
        yield x

    with refused("sampler"):
        tiny("a red fox", seed=32, sampler=tensors)


def test_cancel_ends_the_loop_and_leaves_no_result(tiny: Pipeline) -> None:
    run = tiny.steps("a red fox", seed=32)
    for step in run:
        if step.index == 1:
            thread = threading.Thread(target=run.cancel)
            thread.start()
            thread.join()
    assert step.index == 1
    with refused("run", "2 of 4 steps, then it was cancelled"):
        run.result()


def test_leaving_the_loop_stops_the_network(tiny: Pipeline) -> None:
    calls = []
    for _ in tiny.steps("a", seed=1, tap={"unet.x": lambda value: calls.append(len(value))}):
        break
    assert calls == [2]


def test_runs_do_not_disturb_each_other(tiny: Pipeline) -> None:
    first, second = tiny.steps("fox", seed=1, sampler="lms"), tiny.steps("cat", seed=2, sampler="dpmpp_2m")
    for _ in zip(first, second, strict=True):
        pass
    assert torch.equal(first.result().latents, tiny("fox", seed=1, sampler="lms").latents)
    assert torch.equal(second.result().latents, tiny("cat", seed=2, sampler="dpmpp_2m").latents)


def test_a_tap_reads_and_replaces_by_name_and_by_glob(tiny: Pipeline) -> None:
    seen: dict[str, tuple[int, ...]] = {}

    def read(name: str, value: torch.Tensor) -> None:
        seen[name] = tuple(value.shape)

    plain = tiny("a red fox", seed=32)
    watched = tiny("a red fox", seed=32, tap=read)
    assert (watched.latents - plain.latents).abs().max() < 1e-4
    encoder = {name for name in tap_points(tiny.vae) if name.startswith(("vae.encoder", "vae.mean", "vae.logvar"))}
    every = {*tap_points(tiny.text_encoder), *tap_points(tiny.unet), *tap_points(tiny.vae)}
    assert set(seen) == every - encoder
    assert watched.receipt["edits"] == ["tap"]
    zeroed = tiny("a red fox", seed=32, tap={"unet.*.cross_attn.weights": torch.zeros_like})
    assert not torch.equal(zeroed.latents, plain.latents)


def test_a_name_that_no_value_has_is_an_error_before_any_network_runs(tiny: Pipeline) -> None:
    calls = []
    with refused("tap", "unet.mid.resnet.7") as caught:
        tiny("a", tap={"unet.mid.resnet.7": lambda value: value, "*": lambda value: calls.append(value)})
    assert "unet.mid." in caught.value.hint
    assert not calls


def test_a_call_within_inference_mode(tiny: Pipeline) -> None:
    plain = tiny("a fox", seed=1)
    with torch.inference_mode():
        assert torch.equal(tiny("a fox", seed=1).latents, plain.latents)
        run = tiny.steps("a fox", seed=1)
        next(run).x.mul_(1.5)
        assert run.result().receipt["branch"]["step"] == 1


def test_an_estimate_changed_in_place_is_noted(tiny: Pipeline) -> None:
    """DPM-Solver++ extrapolates from the estimate before, so the picture changes."""
    run = tiny.steps("a fox", seed=1, sampler="dpmpp_2m")
    next(run).x0.mul_(2)
    result = run.result()
    assert result.receipt["edits"] == ["step.x0"]
    assert not torch.equal(result.latents, tiny("a fox", seed=1, sampler="dpmpp_2m").latents)


def test_latents_that_are_no_image_are_noted(tiny: Pipeline) -> None:
    """Which of the images, how far they are off, and what to change; a note, as the image is made all the same."""
    run = tiny.steps(["a fox", "a cat"], seed=1, sampler="lms", guidance_scale=7.5)
    for step in run:
        scale = step.x.std(dim=(1, 2, 3), keepdim=True)
        step.x = step.x / scale * torch.tensor([0.9, 2.5])[:, None, None, None]
    result = run.result()
    (note,) = result.notes
    assert note == (
        "the latents of image 1 left the range of the training images, so colours and shapes are wrong: their standard "
        "deviation is 2.5, where images have about 1; use a lower guidance_scale than 7.5 or more steps than 4 or "
        "sampler='dpmpp_2m' in place of 'lms'"
    )
    assert result.receipt["notes"] == [note]


def test_noisy_latents_for_a_refiner_are_no_image_yet(tiny: Pipeline) -> None:
    run = tiny.steps("a fox", seed=1, denoising_end=0.5)
    for step in run:
        step.x = step.x * 100
    assert run.result().notes == []
