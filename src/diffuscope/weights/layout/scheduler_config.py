"""``scheduler_config.json`` of a diffusers folder, and our schedule and sampler, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import get_args

from diffuscope.config import BetaKind, Prediction, Preset, ScheduleConfig, TimeSpacing
from diffuscope.weights.layout.network_config import Json, Supported, check, errors_of, refuse

FILE = "scheduler/scheduler_config.json"

BETAS: dict[str, BetaKind] = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
SPACINGS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}
"""diffusers' switch -> our spacing of the noise levels."""

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
}
"""Of most classes, where a key is absent."""


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A scheduler class of diffusers: its samplers, its defaults and the values that we support."""

    samplers: Mapping[tuple[object, ...], str]
    """Values of the keys ``chosen_by`` -> our sampler; the class's default is first."""
    chosen_by: tuple[str, ...] = ()
    sigmas: bool = False  # has Karras, exponential and beta spacing
    zero_snr: bool = False  # can rescale its betas to zero terminal SNR
    defaults: Json = field(default_factory=dict)  # where they differ from ``DEFAULTS``
    supported: Supported = field(default_factory=dict)

    def sampler(self, document: Json) -> str:
        """Our sampler for a configuration of this class."""
        default = next(iter(self.samplers))
        wanted = tuple(document.get(key, value) for key, value in zip(self.chosen_by, default, strict=True))
        matching = [sampler for values, sampler in self.samplers.items() if values == wanted]
        if not matching:
            refuse(FILE, " and ".join(self.chosen_by), wanted, f"one of {', '.join(map(str, self.samplers))}")
        return matching[0]


LEADING = {"timestep_spacing": "leading"}
LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
"""Betas of Stable Diffusion."""

NO_CLIPPING = {"clip_sample": False, "thresholding": False}
NO_LIMITS = {"sigma_min": None, "sigma_max": None}
DPM_SOLVER = {"thresholding": False, "use_flow_sigmas": False, "final_sigmas_type": "zero", "lower_order_final": True}
DISTILLED = Scheduler(
    samplers={(): "lcm"},
    zero_snr=True,
    defaults={**LEADING, **LATENT, "beta_schedule": "scaled_linear"},
    supported={**NO_CLIPPING, "original_inference_steps": 50, "timestep_scaling": 10},
)

SCHEDULERS = {
    "DDIMScheduler": Scheduler(
        samplers={(): "ddim"}, zero_snr=True, defaults={**LEADING, "clip_sample": True}, supported=NO_CLIPPING
    ),
    "PNDMScheduler": Scheduler(
        samplers={(False,): "f_pndm", (True,): "pndm"},
        chosen_by=("skip_prk_steps",),
        defaults={**LEADING, "set_alpha_to_one": False},
    ),
    "LMSDiscreteScheduler": Scheduler(samplers={(): "lms"}, sigmas=True),
    "EulerDiscreteScheduler": Scheduler(
        samplers={(): "euler"},
        sigmas=True,
        zero_snr=True,
        supported={
            "interpolation_type": "linear",
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
            **NO_LIMITS,
        },
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(samplers={(): "euler_ancestral"}, zero_snr=True),
    "DPMSolverMultistepScheduler": Scheduler(
        samplers={
            ("dpmsolver++", 2, "midpoint"): "dpmpp_2m",
            ("dpmsolver++", 3, "midpoint"): "dpmpp_3m",
            ("sde-dpmsolver++", 2, "midpoint"): "dpmpp_2m_sde",
            ("sde-dpmsolver++", 2, "heun"): "dpmpp_2m_sde_heun",
        },
        chosen_by=("algorithm_type", "solver_order", "solver_type"),
        sigmas=True,
        zero_snr=True,
        supported={**DPM_SOLVER, "euler_at_final": False, "lambda_min_clipped": -inf, "use_lu_lambdas": False},
    ),
    "DPMSolverSinglestepScheduler": Scheduler(
        samplers={(): "dpmpp_2s"},
        sigmas=True,
        supported={
            **DPM_SOLVER,
            "algorithm_type": "dpmsolver++",
            "solver_order": 2,
            "solver_type": "midpoint",
            "lower_order_final": (False, True),  # alike where a run ends at zero
            "lambda_min_clipped": -inf,
        },
    ),
    "DPMSolverSDEScheduler": Scheduler(samplers={(): "dpmpp_sde"}, sigmas=True, defaults=LATENT),
    "UniPCMultistepScheduler": Scheduler(
        samplers={(): "unipc"},
        sigmas=True,
        zero_snr=True,
        supported={
            **DPM_SOLVER,
            **NO_LIMITS,
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "disable_corrector": [],
            "solver_p": None,
        },
    ),
    "DEISMultistepScheduler": Scheduler(
        samplers={(): "deis"},
        sigmas=True,
        supported={**DPM_SOLVER, "algorithm_type": "deis", "solver_order": 2, "solver_type": "logrho"},
    ),
    "HeunDiscreteScheduler": Scheduler(
        samplers={(): "heun"}, sigmas=True, defaults=LATENT, supported={"clip_sample": False}
    ),
    "KDPM2DiscreteScheduler": Scheduler(samplers={(): "kdpm2"}, sigmas=True, defaults=LATENT),
    "KDPM2AncestralDiscreteScheduler": Scheduler(samplers={(): "kdpm2_ancestral"}, sigmas=True, defaults=LATENT),
    "DDPMScheduler": Scheduler(
        samplers={(): "ddpm"},
        zero_snr=True,
        defaults={**LEADING, "clip_sample": True},
        supported={**NO_CLIPPING, "variance_type": "fixed_small"},
    ),
    "LCMScheduler": DISTILLED,
    "TCDScheduler": replace(DISTILLED, samplers={(): "tcd"}),
}


FIELDS = frozenset(DEFAULTS).union(
    SPACINGS,
    ("trained_betas",),
    *(scheduler.supported for scheduler in SCHEDULERS.values()),
    *(scheduler.chosen_by for scheduler in SCHEDULERS.values()),
)
"""The fields that some class reads, or refuses; a class does not read another's, there neither."""


def from_json(document: Json) -> tuple[ScheduleConfig, dict[str, str]]:
    """The schedule, and the preset's ``sampler`` and ``sigmas``, of a scheduler's configuration."""
    check(FILE, DEFAULTS | document, {"_class_name": tuple(SCHEDULERS)})
    scheduler = SCHEDULERS[document["_class_name"]]
    document = DEFAULTS | scheduler.defaults | document
    general = {
        "beta_schedule": tuple(BETAS),
        "prediction_type": tuple(PREDICTIONS),
        "timestep_spacing": get_args(TimeSpacing),
        "trained_betas": None,
    }
    check(FILE, document, {**general, **scheduler.supported})
    with errors_of(FILE):
        schedule = ScheduleConfig(
            betas=BETAS[document["beta_schedule"]],
            beta_start=float(document["beta_start"]),
            beta_end=float(document["beta_end"]),
            train_steps=int(document["num_train_timesteps"]),
            prediction=PREDICTIONS[document["prediction_type"]],
            spacing=document["timestep_spacing"],
            steps_offset=int(document["steps_offset"]),
            zero_snr=scheduler.zero_snr and bool(document["rescale_betas_zero_snr"]),
            ddim_ends_at_zero=bool(document["set_alpha_to_one"]),
        )
    spacings = [ours for theirs, ours in SPACINGS.items() if scheduler.sigmas and document.get(theirs)]
    return schedule, {"sampler": scheduler.sampler(document), "sigmas": spacings[0] if spacings else "model"}


def to_json(schedule: ScheduleConfig, preset: Preset) -> Json:
    """The configuration of the diffusers class with the preset's sampler; of DDIM where none has it."""
    name, chosen = "DDIMScheduler", dict[str, object]()
    for candidate, scheduler in SCHEDULERS.items():
        for values, sampler in scheduler.samplers.items():
            if sampler == preset.sampler != "ddim" and (scheduler.zero_snr or not schedule.zero_snr):
                name, chosen = candidate, dict(zip(scheduler.chosen_by, values, strict=True))
    document: Json = {
        "_class_name": name,
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
    if SCHEDULERS[name].zero_snr:
        document["rescale_betas_zero_snr"] = schedule.zero_snr
    if SCHEDULERS[name].sigmas:
        document |= {theirs: preset.sigmas == ours for theirs, ours in SPACINGS.items()}
    if "clip_sample" in SCHEDULERS[name].supported:
        document["clip_sample"] = False
    return document
