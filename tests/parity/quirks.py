"""Where a reference scheduler is no path of noise levels, or is wrong: what it does, and what we do instead.

Each entry has its evidence, the test that it names in ``test_quirks.py`` or ``test_quirks_of_defaults.py``.
Everywhere else we equal the reference.
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
        "DDIMScheduler, PNDMScheduler",
        "set_alpha_to_one=False where the last listed time is 0 (linspace, leading with an offset of 0, or 1000 "
        "trailing steps)",
        "the last step goes from the lowest level to the lowest level and changes nothing",
        "ends at noise level 0",
        "test_an_empty_last_step_at_the_lowest_level",
    ),
    Quirk(
        "DDIMScheduler, DDPMScheduler, LCMScheduler, TCDScheduler",
        "zero terminal SNR",
        "the first level has no signal at all, sigma is infinite (epsilon divides by zero)",
        "sigma is 4096, as the other schedulers of the same library have it",
        "test_the_first_level_is_infinite",
    ),
    Quirk(
        "DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler",
        "Karras, exponential or beta spacing",
        "rounds (Karras) or cuts (the others) the times that the network is told to whole numbers, so the network is "
        "told another noise level than its input has",
        "tells the exact fractional time",
        "test_multistep_solvers_tell_whole_times",
    ),
    Quirk(
        "KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler",
        "Karras spacing",
        "rounds the times at the listed levels, but not at the middles between them",
        "tells the exact fractional time at both",
        "test_kdpm2_tells_whole_times_at_listed_levels",
    ),
    Quirk(
        "the multistep solvers and DPMSolverSinglestepScheduler",
        "beta spacing with 50 steps, and others that cut two first times to one",
        "takes the second of two equal times for the start, and runs past its end: an error in the last step",
        "a sampler counts its steps and looks up no time",
        "test_a_time_listed_twice_ends_in_an_error",
    ),
    Quirk(
        "DEISMultistepScheduler; EulerDiscreteScheduler, UniPCMultistepScheduler, DPMSolverMultistepScheduler and "
        "DPMSolverSinglestepScheduler with final_sigmas_type='sigma_min'",
        "Karras, exponential or beta spacing; for Euler linspace too",
        "lists the lowest level twice: the last step costs a call and changes nothing, but for UniPC, which corrects "
        "the step before by it",
        "n steps go down to the lowest level: the levels of the reference's n + 1 steps, without the last. In runs of "
        "fewer than 15 steps (UniPC: in all) the order falls at our last step, and one later there",
        "test_the_last_step_leads_nowhere",
    ),
    Quirk(
        "UniPCMultistepScheduler",
        "solver_type='bh1' to noise level 0",
        "multiplies infinity by zero: the last latents are not numbers",
        "the step to level 0 is the estimate itself",
        "test_bh1_to_zero_is_not_a_number",
    ),
    Quirk(
        "DPMSolverMultistepScheduler",
        "algorithm_type='sde-dpmsolver++' with solver_order=3",
        "has -1/2 for +1/2 in the weight of the second difference, which does not vanish as steps get narrow",
        "dpmpp_3m_sde is k-diffusion's, which has the right sign",
        "test_third_order_sde_of_dpm_solver_has_a_wrong_sign",
    ),
    Quirk(
        "PNDMScheduler",
        "linspace spacing with more than one step; trailing spacing where steps do not divide 1000",
        "as DDIMScheduler: steps from each listed time by 1000 // steps",
        "goes through the listed times",
        "test_pndm_leaves_its_own_path",
    ),
    Quirk(
        "PNDMScheduler with its Runge-Kutta start (skip_prk_steps=False)",
        "fewer than 4 steps",
        "fails: it has no times for the three first steps",
        "makes as many steps of its start as there are",
        "test_the_runge_kutta_start_wants_four_steps",
    ),
    Quirk(
        "PNDMScheduler with its Runge-Kutta start (skip_prk_steps=False)",
        "1000 // steps is odd",
        "goes to one time by half a step, rounded, and tells the network the time before it",
        "tells the exact fractional time of the middle",
        "test_half_of_an_odd_step_is_told_as_another_time",
    ),
    Quirk(
        "PNDMScheduler",
        "v prediction",
        "averages the velocities of several noise levels and reads the sum as one of the last level: even an exact "
        "network does not lead to its data",
        "averages slopes, which mean the same at every level",
        "test_pndm_mixes_velocities_of_several_levels",
    ),
    Quirk(
        "PNDMScheduler",
        "a run that starts in the middle (image-to-image)",
        "the time that is listed twice is cut off, so from the third call on the network is told the level after the "
        "one of its input",
        "corrects the first step wherever a run starts",
        "test_pndm_in_the_middle_skips_a_level",
    ),
    Quirk(
        "PNDMScheduler with its Runge-Kutta start (skip_prk_steps=False)",
        "a run that starts in the middle (image-to-image)",
        "steps as from the first levels of the whole run, whatever level the latents have",
        "makes its start wherever a run starts",
        "test_the_runge_kutta_start_is_that_of_the_whole_run",
    ),
    Quirk(
        "DPMSolverSinglestepScheduler",
        "a run that starts in the middle, at an odd step",
        "counts groups from the start that was left out, so the first group is one step of first order",
        "counts groups from where the run starts",
        "test_groups_are_counted_from_the_whole_runs_start",
    ),
    Quirk(
        "DEISMultistepScheduler, DPMSolverMultistepScheduler of order 3",
        "a run that starts in the middle and has fewer than 15 steps left",
        "counts the steps left out, and does not lower the order of the last steps as in a short run",
        "a run is as long as its steps",
        "test_a_run_cut_short_counts_as_long",
    ),
    Quirk(
        "EulerDiscreteScheduler",
        "s_churn above 0",
        "adds the noise, but scales the network's input, tells its time and reads its velocity at the level before",
        "uses the raised level throughout, as k-diffusion does",
        "test_churn_is_not_told_to_the_network",
    ),
    Quirk(
        "IPNDMScheduler",
        "always",
        "has a schedule of its own, whose first sigma is infinite, and reads every output as v",
        "takes the model's levels and prediction; on equal levels they agree",
        "test_ipndm_starts_at_infinite_sigma",
    ),
    Quirk(
        "sample_dpmpp_2m_sde, sample_dpmpp_3m_sde (k-diffusion)",
        "one step",
        "fails: a variable is used that only a step above level 0 sets",
        "the step to level 0 is the estimate itself",
        "test_k_diffusion_cannot_make_one_step",
    ),
    Quirk(
        "sample_heun, sample_dpm_2, sample_dpm_2_ancestral (k-diffusion)",
        "zero terminal SNR",
        "the step from pure noise, whose sigma is 4096 for an infinite one, follows slopes in sigma: it leads far away "
        "from the data",
        "the step from pure noise is Euler's",
        "test_slopes_from_pure_noise_lead_away",
    ),
    Quirk(
        "DDIMScheduler",
        "clip_sample or thresholding, without use_clipped_model_output",
        "limits the clean estimate but not the noise that it implies: the two no longer add up to the latents",
        "thresholding changes the estimate, and all follows from it",
        "test_thresholds_leave_the_direction",
    ),
    Quirk(
        "HeunDiscreteScheduler, KDPM2DiscreteScheduler, KDPM2AncestralDiscreteScheduler",
        "cosine betas with linspace or trailing spacing, whose first level is far above 1000",
        "follows slopes in sigma from there, as from any other level",
        "the step from a level of 1000 or more is Euler's",
        "test_cosine_betas_begin_at_pure_noise",
    ),
    Quirk(
        "TCDScheduler in a pipeline of diffusers",
        "no eta given",
        "the pipeline's eta of 0 is passed to every scheduler, so the scheduler's own 0.3 never holds",
        "0.3, as in the paper and the scheduler",
        "test_the_pipelines_eta_hides_that_of_tcd",
    ),
    Quirk(
        "DPMSolverMultistepScheduler",
        "algorithm_type='sde-dpmsolver++'",
        "draws its noise afresh in each step",
        "dpmpp_2m_sde follows one Brownian path per seed, as in k-diffusion",
        "test_the_sde_solver_draws_afresh",
    ),
    Quirk(
        "pipelines of diffusers",
        "no strength given",
        "1 for inpainting (0.9999 with SDXL), 0.3 for image-to-image with SDXL, 0.8 with others",
        "0.8 in every call",
        "test_default_strengths",
    ),
    Quirk(
        "KDPM2DiscreteScheduler",
        "inpainting with a 4-channel U-Net",
        "within a step the image is put back at the level of the step's end, while the latents are in its middle",
        "puts it back at the level of the latents",
        "test_kdpm2_puts_an_image_back_at_another_level",
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
