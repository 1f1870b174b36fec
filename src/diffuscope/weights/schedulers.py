"""``scheduler_config.json`` of a diffusers folder, and our schedule and sampler, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from diffuscope.config import BetaKind, Prediction, Preset, ScheduleConfig, TimeSpacing
from diffuscope.weights.configs import Json, checked, only, refuse

WHAT = "scheduler/scheduler_config.json"

BETAS: dict[str, BetaKind] = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}

NO_CLIPPING = {"clip_sample": (False,), "thresholding": (False,)}


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A class of diffusers: which sampler it is, and what its absent keys mean."""

    sampler: str
    spacing: TimeSpacing = "linspace"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    sigmas: bool = False
    """Whether it can take Karras's or exponential levels."""
    zero_snr: bool = False
    """Whether it can rescale its betas to zero terminal signal."""
    ends_at_zero: bool = True
    absent: Mapping[str, object] = field(default_factory=dict)
    """Other keys' values where the file does not say."""
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys that change the pictures, and the values that our samplers do."""


SCHEDULERS = {
    "DDIMScheduler": Scheduler(
        sampler="ddim",
        spacing="leading",
        zero_snr=True,
        absent={"clip_sample": True},
        fixed=NO_CLIPPING,
    ),
    # PNDM's multistep is not among our samplers; DDIM takes the same steps of the same schedule.
    "PNDMScheduler": Scheduler(sampler="ddim", spacing="leading", ends_at_zero=False),
    "LMSDiscreteScheduler": Scheduler(sampler="lms", sigmas=True, fixed={"use_beta_sigmas": (False,)}),
    "EulerDiscreteScheduler": Scheduler(
        sampler="euler",
        sigmas=True,
        zero_snr=True,
        fixed={
            "use_beta_sigmas": (False,),
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete",),
            "final_sigmas_type": ("zero",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(sampler="euler_ancestral", zero_snr=True),
    "DPMSolverMultistepScheduler": Scheduler(
        sampler="dpmpp_2m",
        sigmas=True,
        zero_snr=True,
        fixed={
            "algorithm_type": ("dpmsolver++",),
            "solver_order": (2,),
            "solver_type": ("midpoint",),
            "final_sigmas_type": ("zero",),
            "euler_at_final": (False,),
            "thresholding": (False,),
            "lambda_min_clipped": (-inf,),
            "use_beta_sigmas": (False,),
            "use_lu_lambdas": (False,),
            "use_flow_sigmas": (False,),
        },
    ),
    "HeunDiscreteScheduler": Scheduler(
        sampler="heun",
        sigmas=True,
        beta_start=0.00085,
        beta_end=0.012,
        fixed={"clip_sample": (False,), "use_beta_sigmas": (False,)},
    ),
    "DDPMScheduler": Scheduler(
        sampler="ddpm",
        spacing="leading",
        zero_snr=True,
        absent={"clip_sample": True},
        fixed={**NO_CLIPPING, "variance_type": ("fixed_small",)},
    ),
}


def from_json(document: Json) -> tuple[ScheduleConfig, dict[str, str]]:
    """The schedule, and the preset's ``sampler`` and ``sigmas``, that a scheduler's configuration means.

    Raises:
        WeightsError: a class, or a value of one, that our samplers do not do.
    """
    name = document.get("_class_name")
    scheduler = SCHEDULERS.get(name) if isinstance(name, str) else None
    if scheduler is None:
        refuse(WHAT, "_class_name", name, f"one of {', '.join(SCHEDULERS)}")
    document = {**scheduler.absent, **document}
    only(WHAT, document, {**scheduler.fixed, "trained_betas": (None,)})
    betas = document.get("beta_schedule", "linear")
    prediction = document.get("prediction_type", "epsilon")
    spacing = document.get("timestep_spacing", scheduler.spacing)
    if betas not in BETAS:
        refuse(WHAT, "beta_schedule", betas, f"one of {', '.join(BETAS)}")
    if prediction not in PREDICTIONS:
        refuse(WHAT, "prediction_type", prediction, f"one of {', '.join(PREDICTIONS)}")
    if spacing not in ("linspace", "leading", "trailing"):
        refuse(WHAT, "timestep_spacing", spacing, "'linspace', 'leading' or 'trailing'")
    with checked(WHAT):
        schedule = ScheduleConfig(
            betas=BETAS[betas],
            beta_start=float(document.get("beta_start", scheduler.beta_start)),
            beta_end=float(document.get("beta_end", scheduler.beta_end)),
            train_steps=int(document.get("num_train_timesteps", 1000)),
            prediction=PREDICTIONS[prediction],
            spacing=spacing,
            steps_offset=int(document.get("steps_offset", 0)),
            zero_snr=scheduler.zero_snr and bool(document.get("rescale_betas_zero_snr", False)),
            ddim_ends_at_zero=bool(document.get("set_alpha_to_one", scheduler.ends_at_zero)),
        )
    karras, exponential = document.get("use_karras_sigmas"), document.get("use_exponential_sigmas")
    sigmas = "karras" if karras else "exponential" if exponential else "model"
    return schedule, {"sampler": scheduler.sampler, "sigmas": sigmas if scheduler.sigmas else "model"}


def to_json(schedule: ScheduleConfig, preset: Preset) -> Json:
    """The configuration of the diffusers class that samples as the preset says.

    A preset that no class can follow with this schedule is written as DDIM, which can follow every schedule.
    """
    names = {scheduler.sampler: name for name, scheduler in SCHEDULERS.items() if name != "PNDMScheduler"}
    name = names.get(preset.sampler, "DDIMScheduler")
    if schedule.zero_snr and not SCHEDULERS[name].zero_snr:
        name = "DDIMScheduler"
    document: Json = {
        "_class_name": name,
        "beta_end": schedule.beta_end,
        "beta_schedule": {ours: theirs for theirs, ours in BETAS.items()}[schedule.betas],
        "beta_start": schedule.beta_start,
        "num_train_timesteps": schedule.train_steps,
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[schedule.prediction],
        "set_alpha_to_one": schedule.ddim_ends_at_zero,  # read by DDIM alone, kept by all, as in SDXL's own file
        "steps_offset": schedule.steps_offset,
        "timestep_spacing": schedule.spacing,
        "trained_betas": None,
    }
    if SCHEDULERS[name].zero_snr:
        document["rescale_betas_zero_snr"] = schedule.zero_snr
    if SCHEDULERS[name].sigmas:
        document["use_karras_sigmas"] = preset.sigmas == "karras"
        document["use_exponential_sigmas"] = preset.sigmas == "exponential"
    if "clip_sample" in SCHEDULERS[name].fixed:
        document["clip_sample"] = False
    return document
