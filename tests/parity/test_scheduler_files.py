"""Every scheduler file of diffusers: each of its fields is used, named as not used, or refused; and its run is ours."""

import inspect
from math import isfinite
from typing import Any, Literal, get_args, get_origin, get_type_hints

import diffusers
import pytest
import torch
from diffusers import schedulers as released

from diffuscope.config import Preset
from diffuscope.diffusion.schedules import Schedule
from diffuscope.errors import WeightsError
from diffuscope.weights.layout import scheduler_config
from diffuscope.weights.layout.scheduler_config import SCHEDULERS, from_json, to_json
from parity.schedulers import TOLERANCE, draws, feed_noise, our_run, relative_errors, tell_alike, their_run

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:__array_:DeprecationWarning")  # their own

CLASSES = {
    name: kind
    for name, kind in ((name, getattr(released, name)) for name in dir(released))
    if inspect.isclass(kind) and name.endswith("Scheduler") and hasattr(kind, "load_config")
}
LATENT = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def fields(name: str) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(CLASSES[name].__init__).parameters)
    return {key: value for key, value in parameters.items() if key != "self"}


def others(name: str, key: str) -> list[Any]:
    """Values of a field that are not its default: every choice that its annotation lists, or an odd one."""
    default = fields(name)[key].default
    annotation = get_type_hints(CLASSES[name].__init__).get(key)
    kinds = (annotation, *get_args(annotation))
    listed = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    half = default / 2 if isinstance(default, float) and isfinite(default) else -1.0
    odd = {bool: not default, int: 7, float: half, str: "odd", type(None): 0.25, list: [0]}[type(default)]
    return [value for value in (*listed, odd) if value != default]


def document_of(name: str, **values: Any) -> dict[str, Any]:
    unclipped = {"clip_sample": False} if name in ("DDIMScheduler", "DDPMScheduler") else {}
    return {"_class_name": name, **unclipped, **values}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_each_field_is_used_or_named_or_refused(name: str) -> None:
    plain = from_json(document_of(name))
    for key in fields(name):
        for value in others(name, key):
            if document_of(name).get(key) == value:
                continue
            try:
                reading = from_json(document_of(name, **{key: value}))
            except WeightsError as error:
                assert key in str(error)  # noqa: PT017 (either of the three)
            else:
                named = any(entry.split()[0] == key for entry in reading.unused)
                assert named or reading[:3] != plain[:3], (key, value)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_fields_of_other_classes_are_named(name: str) -> None:
    """Published files keep the fields of the classes that their scheduler was made from."""
    foreign = {key: value.default for other in SCHEDULERS for key, value in fields(other).items()}
    reading = from_json(document_of(name, **{key: value for key, value in foreign.items() if key not in fields(name)}))
    kept = {key for key in foreign if key not in fields(name)} - set(scheduler_config.DEFAULTS)
    assert kept <= set(reading.unused)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(SCHEDULERS)))
def test_other_classes_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="_class_name"):
        from_json({"_class_name": name})


MULTISTEP, UNIPC, DEIS, SINGLE, EULER = (
    f"{name}Scheduler"
    for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep", "DPMSolverSinglestep", "EulerDiscrete")
)
SDE = {"algorithm_type": "sde-dpmsolver++"}
LOWEST = {"final_sigmas_type": "sigma_min"}
FILES: list[tuple[str, dict[str, Any]]] = [
    *(
        (MULTISTEP, {"solver_order": order, "solver_type": kind})
        for order in (1, 2, 3)
        for kind in ("midpoint", "heun")
    ),
    *((MULTISTEP, {"solver_order": order, "euler_at_final": True, **LOWEST}) for order in (1, 2, 3)),
    *((MULTISTEP, {"solver_order": order, "lower_order_final": False}) for order in (2, 3)),
    *((MULTISTEP, {"solver_order": order, "lower_order_final": False, **LOWEST}) for order in (2, 3)),
    (MULTISTEP, {"use_lu_lambdas": True}),
    (MULTISTEP, {"use_lu_lambdas": True, "euler_at_final": True, "solver_order": 3}),
    (MULTISTEP, {"use_lu_lambdas": True, "use_karras_sigmas": True}),
    (MULTISTEP, {"algorithm_type": "deis", "solver_type": "logrho", **LOWEST}),
    (MULTISTEP, {"solver_type": "bh2", "timestep_spacing": "leading", "steps_offset": 1}),
    *((MULTISTEP, {**SDE, "solver_type": kind, **LOWEST}) for kind in ("midpoint", "heun")),
    (MULTISTEP, {**SDE, "euler_at_final": True, **LOWEST}),
    (MULTISTEP, {**SDE, "euler_at_final": True, "lower_order_final": False, **LOWEST}),
    (MULTISTEP, {**SDE, "lower_order_final": False, **LOWEST}),
    (MULTISTEP, {**SDE, "use_lu_lambdas": True, "euler_at_final": True}),
    *((UNIPC, {"solver_type": kind}) for kind in ("midpoint", "heun", "logrho", "bh2")),
    *((UNIPC, {"solver_order": order, **end}) for order in (1, 2, 3) for end in ({}, LOWEST)),
    *((UNIPC, {"solver_order": order, "lower_order_final": False, **LOWEST}) for order in (2, 3)),
    (UNIPC, {"solver_type": "bh1", **LOWEST}),
    *((DEIS, {"solver_type": kind}) for kind in ("midpoint", "heun", "bh1", "bh2")),
    *((DEIS, {"algorithm_type": kind}) for kind in ("dpmsolver", "dpmsolver++")),
    *((DEIS, {"solver_order": order, "lower_order_final": lower}) for order in (1, 2, 3) for lower in (True, False)),
    *(
        (SINGLE, {"solver_order": order, "lower_order_final": lower, **end})
        for order in (1, 2, 3)
        for lower in (True, False)
        for end in ({}, LOWEST)
    ),
    (SINGLE, {"algorithm_type": "deis", "solver_type": "bh2", **LOWEST}),
    *((EULER, {**LOWEST, "timestep_spacing": spacing, "steps_offset": 1}) for spacing in ("leading", "trailing")),
]


@pytest.mark.parametrize(("name", "values"), FILES, ids=str)
def test_a_run_as_the_file_says_is_that_of_the_class(name: str, values: dict[str, Any]) -> None:
    reading = from_json({"_class_name": name, **LATENT, **values})
    sampler, options = reading.preset["sampler"], reading.preset.get("sampler_options", {})
    for steps in (1, 2, 3, 6, 12, 15, 18):
        scheduler = getattr(diffusers, name)(**LATENT, **values)
        scheduler.set_timesteps(steps)
        if name == DEIS:
            scheduler.sigmas = scheduler.sigmas.double()  # its weights lose five digits in float32
        start, *noises = draws(steps + 1)
        levels = Schedule(reading.schedule, scheduler.alphas_cumprod).levels(
            steps, sampler=sampler, sigmas=reading.preset["sigmas"], final_sigma=reading.preset.get("final_sigma")
        )
        levels = tell_alike(sampler, scheduler, levels, reading.preset["sigmas"])
        with pytest.MonkeyPatch.context() as patch:
            feed_noise(patch, noises, scheduler)
            theirs = their_run(sampler, scheduler, start * scheduler.init_noise_sigma)
        ours = our_run(sampler, levels, reading.schedule, start * levels.start_scale, noises, **options)
        errors = relative_errors(ours, theirs)
        assert max(errors) <= TOLERANCE, (steps, errors)


@pytest.mark.parametrize(("name", "values"), FILES, ids=str)
def test_what_we_write_is_read_again(name: str, values: dict[str, Any]) -> None:
    reading = from_json({"_class_name": name, **LATENT, **values})
    again = from_json(to_json(reading.schedule, Preset(**reading.preset)))
    assert again[:3] == reading[:3]


def test_two_spacings_are_refused_as_there() -> None:
    both = {"use_karras_sigmas": True, "use_beta_sigmas": True}
    with pytest.raises(WeightsError, match="use_karras_sigmas and use_beta_sigmas"):
        from_json({"_class_name": EULER, **both})
    with pytest.raises(ValueError, match="Only one"):
        diffusers.EulerDiscreteScheduler(**both)


def test_lu_lambdas_are_even_in_log_sigma() -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**LATENT, use_lu_lambdas=True)
    scheduler.set_timesteps(20)
    widths = scheduler.sigmas[:-1].log().diff()
    torch.testing.assert_close(widths, widths.mean().expand(19), rtol=1e-4, atol=0)
