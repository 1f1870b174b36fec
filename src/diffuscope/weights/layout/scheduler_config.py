"""``scheduler_config.json`` of a diffusers folder, and our schedule and sampler, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple, get_args

from diffuscope.config import BetaKind, Prediction, Preset, ScheduleConfig, TimeSpacing
from diffuscope.weights.layout.network_config import Json, Supported, check, errors_of, number, refuse, whole

FILE = "scheduler/scheduler_config.json"

BETAS: dict[str, BetaKind] = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
SPACINGS = {
    "use_karras_sigmas": "karras",
    "use_lu_lambdas": "exponential",  # even in log sigma: another name
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
}
"""diffusers' switch -> our spacing of the noise levels. The first that is on counts."""

DEFAULTS: Json = {
    "_class_name": None,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "linspace",
    "trained_betas": None,
}
"""Of most classes, where a key is absent."""


class Variant(NamedTuple):
    """Our sampler for some values of a configuration, and the options with which it equals the class."""

    sampler: str
    options: Mapping[str, Any] = {}


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A scheduler class of diffusers: its samplers, its defaults and the values that we support."""

    variants: Mapping[tuple[object, ...], Variant]  # values of the keys ``chosen_by`` -> our sampler; the default first
    chosen_by: tuple[str, ...] = ()
    options: Mapping[str, tuple[str, object]] = field(default_factory=dict)
    """Key -> the option of our sampler that it sets, and the sampler's default, which need not be stated."""
    read_as: Mapping[str, Mapping[object, object]] = field(default_factory=dict)
    """Key -> values of other classes, and what this class takes in their place."""
    spacings: tuple[str, ...] = ()  # its switches of ``SPACINGS``
    zero_snr: bool = False  # can rescale its betas to zero terminal SNR
    final_sigma: bool = False  # has a choice of the last noise level
    defaults: Json = field(default_factory=dict)  # where they differ from ``DEFAULTS``
    supported: Supported = field(default_factory=dict)

    def variant(self, document: Json) -> Variant:
        """Our sampler for a configuration of this class."""
        default = next(iter(self.variants))
        wanted = tuple(document.get(key, value) for key, value in zip(self.chosen_by, default, strict=True))
        if wanted not in [*self.variants]:
            refuse(FILE, " and ".join(self.chosen_by), wanted, f"one of {', '.join(map(str, self.variants))}")
        return self.variants[wanted]

    def preset(self, document: Json, sigmas: str) -> Json:
        """The preset's ``sampler``, ``sigmas``, ``sampler_options`` and ``final_sigma`` for a configuration."""
        sampler, stated = self.variant(document)
        options = dict(stated)
        for key, (name, default) in self.options.items():
            if document.get(key, default) != default:
                options[name] = document[key]
        ends = self.final_sigma and document.get("final_sigmas_type") == "sigma_min"
        return {
            "sampler": sampler,
            "sigmas": sigmas,
            **({"sampler_options": options} if options else {}),
            **({"final_sigma": "sigma_min"} if ends else {}),
        }

    @property
    def used(self) -> frozenset[str]:
        """The keys that have an effect here, or of which only one value is possible."""
        optional = {"rescale_betas_zero_snr": self.zero_snr, "final_sigmas_type": self.final_sigma}
        general = {key for key in DEFAULTS if optional.get(key, True)}
        own = {*self.chosen_by, *self.options, *self.spacings, *self.supported}
        return frozenset(general | own | {key for key, has in optional.items() if has})


def one(sampler: str) -> Mapping[tuple[object, ...], Variant]:
    """The variants of a class with one sampler."""
    return {(): Variant(sampler)}


LEADING = {"timestep_spacing": "leading"}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}  # betas of Stable Diffusion
THREE = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
NO_CLIPPING = {"clip_sample": False, "thresholding": False}
NO_LIMITS = {"sigma_min": None, "sigma_max": None}
NO_FLOW = {"thresholding": False, "use_flow_sigmas": False}
LOWER = {"lower_order_final": ("lower_order_final", True)}
ORDER = {"solver_order": ("order", 2)}
DPM_READS: Mapping[str, Mapping[object, object]] = {
    "algorithm_type": {"deis": "dpmsolver++"},
    "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
}
DISTILLED = Scheduler(
    variants=one("lcm"),
    zero_snr=True,
    defaults={**LEADING, **LATENT, "beta_schedule": "scaled_linear"},
    supported={**NO_CLIPPING, "original_inference_steps": 50, "timestep_scaling": 10},
)

SCHEDULERS = {
    "DDIMScheduler": Scheduler(
        variants=one("ddim"), zero_snr=True, defaults={**LEADING, "clip_sample": True}, supported=NO_CLIPPING
    ),
    "PNDMScheduler": Scheduler(
        variants={(False,): Variant("f_pndm"), (True,): Variant("pndm")},
        chosen_by=("skip_prk_steps",),
        defaults={**LEADING, "set_alpha_to_one": False},
    ),
    "LMSDiscreteScheduler": Scheduler(variants=one("lms"), spacings=THREE),
    "EulerDiscreteScheduler": Scheduler(
        variants=one("euler"),
        spacings=THREE,
        zero_snr=True,
        final_sigma=True,
        supported={"interpolation_type": "linear", "timestep_type": "discrete", **NO_LIMITS},
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(variants=one("euler_ancestral"), zero_snr=True),
    "DPMSolverMultistepScheduler": Scheduler(
        variants={
            ("dpmsolver++", 2, "midpoint"): Variant("dpmpp_2m"),
            ("dpmsolver++", 2, "heun"): Variant("dpmpp_2m", {"solver": "heun"}),
            ("dpmsolver++", 3, "midpoint"): Variant("dpmpp_3m"),
            ("dpmsolver++", 3, "heun"): Variant("dpmpp_3m", {"solver": "heun"}),
            ("dpmsolver++", 1, "midpoint"): Variant("dpmpp_2m", {"order": 1}),
            ("dpmsolver++", 1, "heun"): Variant("dpmpp_2m", {"order": 1}),
            ("sde-dpmsolver++", 2, "midpoint"): Variant("dpmpp_2m_sde"),
            ("sde-dpmsolver++", 2, "heun"): Variant("dpmpp_2m_sde_heun"),
        },
        chosen_by=("algorithm_type", "solver_order", "solver_type"),
        options={**LOWER, "euler_at_final": ("euler_at_final", False)},
        read_as=DPM_READS,
        spacings=tuple(SPACINGS),
        zero_snr=True,
        final_sigma=True,
        supported={**NO_FLOW, "lambda_min_clipped": -inf, "variance_type": None},
    ),
    "DPMSolverSinglestepScheduler": Scheduler(
        variants=one("dpmpp_2s"),
        options={**ORDER, "lower_order_final": ("lower_order_final", False)},
        read_as=DPM_READS,
        spacings=THREE,
        final_sigma=True,
        supported={
            **NO_FLOW,
            "algorithm_type": "dpmsolver++",
            "solver_order": (1, 2, 3),
            "solver_type": "midpoint",
            "lambda_min_clipped": -inf,
            "variance_type": None,
        },
    ),
    "DPMSolverSDEScheduler": Scheduler(variants=one("dpmpp_sde"), spacings=THREE, defaults=LATENT),
    "UniPCMultistepScheduler": Scheduler(
        variants=one("unipc"),
        options={**ORDER, **LOWER, "solver_type": ("variant", "bh2")},
        read_as={"solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")},
        spacings=THREE,
        zero_snr=True,
        final_sigma=True,
        supported={
            **NO_FLOW,
            **NO_LIMITS,
            "solver_order": (1, 2, 3),
            "solver_type": ("bh1", "bh2"),
            "predict_x0": True,
            "disable_corrector": [],
            "solver_p": None,
        },
    ),
    "DEISMultistepScheduler": Scheduler(
        variants=one("deis"),
        options={**ORDER, **LOWER},
        read_as={
            "algorithm_type": dict.fromkeys(("dpmsolver", "dpmsolver++"), "deis"),
            "solver_type": dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
        },
        spacings=THREE,
        supported={**NO_FLOW, "algorithm_type": "deis", "solver_order": (1, 2, 3), "solver_type": "logrho"},
    ),
    "HeunDiscreteScheduler": Scheduler(
        variants=one("heun"), spacings=THREE, defaults=LATENT, supported={"clip_sample": False}
    ),
    "KDPM2DiscreteScheduler": Scheduler(variants=one("kdpm2"), spacings=THREE, defaults=LATENT),
    "KDPM2AncestralDiscreteScheduler": Scheduler(variants=one("kdpm2_ancestral"), spacings=THREE, defaults=LATENT),
    "DDPMScheduler": Scheduler(
        variants=one("ddpm"),
        zero_snr=True,
        defaults={**LEADING, "clip_sample": True},
        supported={**NO_CLIPPING, "variance_type": "fixed_small"},
    ),
    "LCMScheduler": DISTILLED,
    "TCDScheduler": replace(DISTILLED, variants=one("tcd")),
}

FIELDS = frozenset(SPACINGS).union(*(scheduler.used for scheduler in SCHEDULERS.values()))  # read or refused

OUTDATED: dict[str, Json] = {
    "StableDiffusionPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionImg2ImgPipeline": {"steps_offset": 1, "clip_sample": False},
    "StableDiffusionInpaintPipeline": {"steps_offset": 1, "skip_prk_steps": True},
}
"""Pipeline class of diffusers -> the values that it puts in the place of those in files from before these keys."""


class Reading(NamedTuple):
    """What a scheduler's configuration says."""

    schedule: ScheduleConfig
    preset: Json  # as ``Scheduler.preset`` has it
    notes: tuple[str, ...] = ()  # what was read otherwise than it is written
    unused: tuple[str, ...] = ()  # what has no effect: keys of other classes, or switched off, values read as others


def from_json(document: Json, pipeline_class: str | None = None) -> Reading:
    """Read a scheduler's configuration as diffusers does in a pipeline of the given class.

    Each key has an effect, or stands in ``unused``, or is refused.
    """
    check(FILE, DEFAULTS | document, {"_class_name": tuple(SCHEDULERS)})
    scheduler = SCHEDULERS[document["_class_name"]]
    unused = _unused(document, scheduler)
    document, notes = _updated(DEFAULTS | scheduler.defaults | document, scheduler, pipeline_class)
    general = {
        "beta_schedule": tuple(BETAS),
        "final_sigmas_type": ("zero", "sigma_min"),
        "prediction_type": tuple(PREDICTIONS),
        "rescale_betas_zero_snr": (False, True, None),
        "set_alpha_to_one": (False, True, None),
        "timestep_spacing": get_args(TimeSpacing),
        "trained_betas": None,
        **dict.fromkeys(scheduler.spacings, (False, True, None)),
        **{key: (False, True) for key, (_, default) in scheduler.options.items() if isinstance(default, bool)},
    }
    check(FILE, document, {key: value for key, value in general.items() if key in scheduler.used})
    check(FILE, document, scheduler.supported)
    with errors_of(FILE):
        schedule = ScheduleConfig(
            betas=BETAS[document["beta_schedule"]],
            beta_start=number(FILE, "beta_start", document["beta_start"]),
            beta_end=number(FILE, "beta_end", document["beta_end"]),
            train_steps=whole(FILE, "num_train_timesteps", document["num_train_timesteps"]),
            prediction=PREDICTIONS[document["prediction_type"]],
            spacing=document["timestep_spacing"],
            steps_offset=whole(FILE, "steps_offset", document["steps_offset"]),
            zero_snr=scheduler.zero_snr and bool(document["rescale_betas_zero_snr"]),
            ddim_ends_at_zero=bool(document["set_alpha_to_one"]),
        )
    return Reading(schedule, scheduler.preset(document, _spacing(scheduler, document)), notes, unused)


def _unused(document: Json, scheduler: Scheduler) -> tuple[str, ...]:
    """What has no effect in a document, as ``Reading.unused`` has it."""
    keys = [key for key in document if not key.startswith("_") and key not in scheduler.used]
    switches = [key for key in scheduler.spacings if document.get(key)][1:]
    read_as = [
        f"{key} {document[key]!r}, which this class reads as {values[document[key]]!r}"
        for key, values in scheduler.read_as.items()
        if isinstance(document.get(key), str) and document[key] in values
    ]
    return tuple(sorted([*keys, *switches, *read_as]))


def _updated(document: Json, scheduler: Scheduler, pipeline_class: str | None) -> tuple[Json, tuple[str, ...]]:
    """The document with the values that diffusers puts in the place of others, and a sentence for each."""
    notes, updated = [], dict(document)
    for key, values in scheduler.read_as.items():
        if isinstance(value := document.get(key), str) and value in values:
            updated[key] = values[value]
    for key, value in OUTDATED.get(pipeline_class or "", {}).items():
        old = document.get(key, False if key in scheduler.chosen_by else value)
        if key not in scheduler.used or old == value:
            continue
        updated[key] = value
        if key != "steps_offset" or document["timestep_spacing"] == "leading":
            notes.append(
                f"{FILE} is outdated: {key} {old!r} is read as {value!r}, as {pipeline_class} of diffusers does"
            )
    return updated, tuple(notes)


def _spacing(scheduler: Scheduler, document: Json) -> str:
    """The spacing whose switch is on; of two the first, but diffusers takes no two of ``THREE``."""
    on = [key for key in scheduler.spacings if document.get(key)]
    if sum(key in THREE for key in on) > 1:
        refuse(FILE, " and ".join(on), True, "at most one of them True")
    return SPACINGS[on[0]] if on else "model"


def to_json(schedule: ScheduleConfig, preset: Preset) -> Json:
    """The configuration of the diffusers class with the preset's sampler; of DDIM where none has it."""
    class_name, chosen = _class_of(schedule, preset)
    scheduler = SCHEDULERS[class_name]
    document: Json = {
        "_class_name": class_name,
        "beta_end": schedule.beta_end,
        "beta_schedule": {ours: theirs for theirs, ours in BETAS.items()}[schedule.betas],
        "beta_start": schedule.beta_start,
        "num_train_timesteps": schedule.train_steps,
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[schedule.prediction],
        "set_alpha_to_one": schedule.ddim_ends_at_zero,  # read by DDIM and PNDM, kept by all, as in SDXL's own file
        "steps_offset": schedule.steps_offset,
        "timestep_spacing": schedule.spacing,
        "trained_betas": None,
        **chosen,
    }
    for key, (name, _) in scheduler.options.items():
        if name in preset.sampler_options:
            document[key] = preset.sampler_options[name]
    if scheduler.final_sigma and preset.final_sigma is not None:
        document["final_sigmas_type"] = preset.final_sigma
    if scheduler.zero_snr:
        document["rescale_betas_zero_snr"] = schedule.zero_snr
    if scheduler.spacings:
        document |= {key: SPACINGS[key] == preset.sigmas for key in THREE}
    if "clip_sample" in scheduler.supported:
        document["clip_sample"] = False
    return document


def _class_of(schedule: ScheduleConfig, preset: Preset) -> tuple[str, Json]:
    """The class with the preset's sampler, and the keys that choose it there."""
    fitting = [
        (len(options), name, dict(zip(scheduler.chosen_by, values, strict=True)))
        for name, scheduler in SCHEDULERS.items()
        for values, (sampler, options) in scheduler.variants.items()
        if sampler == preset.sampler != "ddim"
        and (scheduler.zero_snr or not schedule.zero_snr)
        and options.items() <= preset.sampler_options.items()
    ]
    _, name, chosen = max(fitting, key=lambda each: each[0], default=(0, "DDIMScheduler", {}))  # which says most
    return name, chosen
