"""``scheduler_config.json`` of a diffusers folder, and our schedule and sampler, both ways."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

from diffuscope.config import BetaKind, Prediction, Preset, ScheduleConfig, TimeSpacing
from diffuscope.weights.layout.network_config import Json, checked, only, refuse

WHAT = "scheduler/scheduler_config.json"

BETAS: dict[str, BetaKind] = {"scaled_linear": "scaled_linear", "linear": "linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}

NO_CLIPPING = {"clip_sample": (False,), "thresholding": (False,)}


@dataclass(frozen=True, kw_only=True)
class Scheduler:
    """A class of diffusers: which sampler it is, and what its absent keys mean."""

    samplers: Mapping[tuple[object, ...], str]
    """Our sampler for each value of the keys ``chosen_by`` that one of ours does; the class's own default is first."""
    chosen_by: tuple[str, ...] = ()
    spacing: TimeSpacing = "linspace"
    betas: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    sigmas: bool = False
    """Whether it can take Karras's, exponential or beta levels."""
    zero_snr: bool = False
    """Whether it can rescale its betas to zero terminal signal."""
    ends_at_zero: bool = True
    absent: Mapping[str, object] = field(default_factory=dict)
    """Other keys' values where the file does not say."""
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Further keys that change the pictures, and the values that our samplers do."""

    def sampler(self, document: Json) -> str:
        """The sampler that a configuration of this class means.

        Raises:
            WeightsError: none of ours does what it says.
        """
        default = next(iter(self.samplers))
        wanted = tuple(document.get(key, value) for key, value in zip(self.chosen_by, default, strict=True))
        matching = [sampler for values, sampler in self.samplers.items() if values == wanted]
        if not matching:
            refuse(WHAT, " and ".join(self.chosen_by), wanted, f"one of {', '.join(map(str, self.samplers))}")
        return matching[0]


LIKE_DPM_SOLVER = {
    "thresholding": (False,),
    "use_flow_sigmas": (False,),
    "final_sigmas_type": ("zero",),
    "lower_order_final": (True,),
}
DISTILLED = {**NO_CLIPPING, "original_inference_steps": (50,), "timestep_scaling": (10, 10.0)}


def _one(sampler: str) -> dict[tuple[object, ...], str]:
    return {(): sampler}


SCHEDULERS = {
    "DDIMScheduler": Scheduler(
        samplers=_one("ddim"),
        spacing="leading",
        zero_snr=True,
        absent={"clip_sample": True},
        fixed=NO_CLIPPING,
    ),
    "PNDMScheduler": Scheduler(
        samplers={(False,): "f_pndm", (True,): "pndm"},
        chosen_by=("skip_prk_steps",),
        spacing="leading",
        ends_at_zero=False,
    ),
    "LMSDiscreteScheduler": Scheduler(samplers=_one("lms"), sigmas=True),
    "EulerDiscreteScheduler": Scheduler(
        samplers=_one("euler"),
        sigmas=True,
        zero_snr=True,
        fixed={
            "interpolation_type": ("linear",),
            "timestep_type": ("discrete",),
            "final_sigmas_type": ("zero",),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(samplers=_one("euler_ancestral"), zero_snr=True),
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
        fixed={
            **LIKE_DPM_SOLVER,
            "euler_at_final": (False,),
            "lambda_min_clipped": (-inf,),
            "use_lu_lambdas": (False,),
        },
    ),
    "DPMSolverSinglestepScheduler": Scheduler(
        samplers=_one("dpmpp_2s"),
        sigmas=True,
        fixed={
            **LIKE_DPM_SOLVER,
            "algorithm_type": ("dpmsolver++",),
            "solver_order": (2,),
            "solver_type": ("midpoint",),
            "lower_order_final": (False, True),  # alike where a run ends at zero
            "lambda_min_clipped": (-inf,),
        },
    ),
    "DPMSolverSDEScheduler": Scheduler(samplers=_one("dpmpp_sde"), sigmas=True, beta_start=0.00085, beta_end=0.012),
    "UniPCMultistepScheduler": Scheduler(
        samplers=_one("unipc"),
        sigmas=True,
        zero_snr=True,
        fixed={
            **LIKE_DPM_SOLVER,
            "solver_order": (2,),
            "solver_type": ("bh2",),
            "predict_x0": (True,),
            "disable_corrector": ([],),
            "solver_p": (None,),
            "sigma_min": (None,),
            "sigma_max": (None,),
        },
    ),
    "DEISMultistepScheduler": Scheduler(
        samplers=_one("deis"),
        sigmas=True,
        fixed={**LIKE_DPM_SOLVER, "algorithm_type": ("deis",), "solver_order": (2,), "solver_type": ("logrho",)},
    ),
    "HeunDiscreteScheduler": Scheduler(
        samplers=_one("heun"), sigmas=True, fixed={"clip_sample": (False,)}, beta_start=0.00085, beta_end=0.012
    ),
    "KDPM2DiscreteScheduler": Scheduler(samplers=_one("kdpm2"), sigmas=True, beta_start=0.00085, beta_end=0.012),
    "KDPM2AncestralDiscreteScheduler": Scheduler(
        samplers=_one("kdpm2_ancestral"), sigmas=True, beta_start=0.00085, beta_end=0.012
    ),
    "DDPMScheduler": Scheduler(
        samplers=_one("ddpm"),
        spacing="leading",
        zero_snr=True,
        absent={"clip_sample": True},
        fixed={**NO_CLIPPING, "variance_type": ("fixed_small",)},
    ),
    "LCMScheduler": Scheduler(
        samplers=_one("lcm"),
        spacing="leading",
        betas="scaled_linear",
        zero_snr=True,
        fixed=DISTILLED,
        beta_start=0.00085,
        beta_end=0.012,
    ),
    "TCDScheduler": Scheduler(
        samplers=_one("tcd"),
        spacing="leading",
        betas="scaled_linear",
        zero_snr=True,
        fixed=DISTILLED,
        beta_start=0.00085,
        beta_end=0.012,
    ),
}

RAMPS = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}
"""Their switch -> our spacing."""


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
    betas = document.get("beta_schedule", scheduler.betas)
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
    ramps = [ours for theirs, ours in RAMPS.items() if scheduler.sigmas and document.get(theirs)]
    return schedule, {"sampler": scheduler.sampler(document), "sigmas": ramps[0] if ramps else "model"}


def to_json(schedule: ScheduleConfig, preset: Preset) -> Json:
    """The configuration of the diffusers class that samples as the preset says.

    A preset that no class can follow with this schedule is written as DDIM, which can follow every schedule.
    """
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
        document |= {theirs: preset.sigmas == ours for theirs, ours in RAMPS.items()}
    if "clip_sample" in SCHEDULERS[name].fixed:
        document["clip_sample"] = False
    return document
