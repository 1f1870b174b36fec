"""``scheduler_config.json`` of networks trained as Karras et al. 2022 do (Playground v2.5, CosXL), both ways.

Their levels are stated for latents of deviation ``sigma_data``. Here latents have deviation 1, so the levels and the
VAE's scale are divided by it; the network reads the level as it was stated.
"""

from dataclasses import replace

from diffuscope.config import Prediction, Preset, ScheduleConfig
from diffuscope.weights.layout.network_config import Json, check, errors_of
from diffuscope.weights.layout.scheduler_config import FILE, SCHEDULERS, Reading, Scheduler, one

RHO = 7.0
PREDICTIONS: dict[str, Prediction] = {"epsilon": "edm", "v_prediction": "v"}
"""Their name, which says how the output is weighted -> ours. Neither network predicts the noise."""

SPACINGS = {"karras": "model", "exponential": "exponential"}
MULTISTEP = SCHEDULERS["DPMSolverMultistepScheduler"]
CLASSES = {
    "EDMDPMSolverMultistepScheduler": replace(MULTISTEP, spacings=(), zero_snr=False, defaults={}, supported={}),
    "EDMEulerScheduler": Scheduler(variants=one("euler"), final_sigma=True),
}
DEFAULTS: Json = {
    "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": RHO,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "sigma_schedule": "karras",
    "thresholding": False,
}
FIELDS = frozenset(DEFAULTS).union(*((*each.chosen_by, *each.options) for each in CLASSES.values()))  # read or refused


def from_json(document: Json) -> Reading:
    """Read the configuration of one of ``CLASSES``."""
    scheduler = CLASSES[document["_class_name"]]
    unused = tuple(sorted(key for key in document if not key.startswith("_") and key not in FIELDS))
    document = DEFAULTS | document
    supported = {
        "final_sigmas_type": ("zero", "sigma_min"),
        "prediction_type": tuple(PREDICTIONS),
        "rho": RHO,
        "sigma_schedule": tuple(SPACINGS),
        "thresholding": False,
        **dict.fromkeys(scheduler.options, (False, True)),
    }
    check(FILE, document, supported)
    with errors_of(FILE):
        data = float(document["sigma_data"])
        schedule = ScheduleConfig(
            betas="edm",
            train_steps=document["num_train_timesteps"],
            prediction=PREDICTIONS[document["prediction_type"]],
            sigma_min=float(document["sigma_min"]) / data,
            sigma_max=float(document["sigma_max"]) / data,
            sigma_data=data,
        )
    return Reading(schedule, scheduler.preset(document, SPACINGS[document["sigma_schedule"]]), (), unused)


def to_json(schedule: ScheduleConfig, preset: Preset) -> Json:
    """The configuration of the class with the preset's sampler; of the multistep solver where neither has it."""
    name = "EDMEulerScheduler" if preset.sampler == "euler" else "EDMDPMSolverMultistepScheduler"
    scheduler = CLASSES[name]
    chosen = next((values for values, each in scheduler.variants.items() if each.sampler == preset.sampler), None)
    values = next(iter(scheduler.variants)) if chosen is None else chosen
    return {
        **DEFAULTS,
        "_class_name": name,
        "final_sigmas_type": preset.final_sigma or "zero",
        "num_train_timesteps": schedule.train_steps,
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[schedule.prediction],
        "sigma_data": schedule.sigma_data,
        "sigma_max": schedule.sigma_max * schedule.sigma_data,
        "sigma_min": schedule.sigma_min * schedule.sigma_data,
        "sigma_schedule": "exponential" if preset.sigmas == "exponential" else "karras",
        **dict(zip(scheduler.chosen_by, values, strict=True)),
    }
