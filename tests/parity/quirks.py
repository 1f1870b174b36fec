"""Where a reference scheduler is no path of noise levels, or is wrong: what it does, and what we do instead.

Each entry has its evidence, a test of the same name in ``test_samplers.py``. Everywhere else we equal the reference.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Quirk:
    scheduler: str
    when: str
    reference: str
    ours: str
    test: str


QUIRKS = (
    Quirk(
        "DDIMScheduler",
        "linspace spacing with more than one step; trailing spacing where steps do not divide 1000",
        "steps from each listed time by 1000 // steps, not to the next listed time: the noise level that one step "
        "reaches is not the one that the next step assumes",
        "goes through the listed times",
        "test_ddim_leaves_its_own_path",
    ),
    Quirk(
        "DDIMScheduler",
        "set_alpha_to_one=False where the last listed time is 0 (linspace, or 1000 trailing steps)",
        "the last step goes from the lowest level to the lowest level and changes nothing",
        "ends at noise level 0",
        "test_ddim_makes_an_empty_last_step",
    ),
    Quirk(
        "DDIMScheduler, DDPMScheduler",
        "zero terminal SNR",
        "the first level has no signal at all, sigma is infinite (epsilon divides by zero)",
        "sigma is 4096, as the other schedulers of the same library have it",
        "test_ddim_starts_at_infinite_sigma",
    ),
    Quirk(
        "DPMSolverMultistepScheduler",
        "Karras or exponential spacing",
        "rounds (Karras) or cuts (exponential) the times that the network is told to whole numbers, so the network is "
        "told another noise level than its input has",
        "tells the exact fractional time",
        "test_dpm_solver_tells_whole_times",
    ),
    Quirk(
        "LMSDiscreteScheduler",
        "a run that starts in the middle (image-to-image)",
        "takes the weights of a higher order than it has slopes for: they do not add up to the interval",
        "starts with Euler's step wherever a run starts",
        "test_lms_starts_wrongly_in_the_middle",
    ),
    Quirk(
        "all",
        "trailing spacing with 61, 103, 121 ... steps (62 of the counts to 1000)",
        "rounding of a float range yields one time too many, -1: the level of the most noise",
        "yields as many times as were asked for",
        "test_trailing_yields_a_time_too_many",
    ),
    Quirk(
        "all",
        "leading spacing with 1000 steps and an offset of 1",
        "asks for time 1000, which was never trained: DDIM fails with an index error, others clamp and repeat a level",
        "an error that says to ask for fewer steps",
        "test_leading_leaves_the_trained_range",
    ),
)
