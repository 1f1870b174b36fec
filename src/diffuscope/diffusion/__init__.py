"""The mathematics of diffusion, without any network: noise schedules, predictions, guidance, noise and samplers.

Everything is written against one function type, ``types.Denoiser``, in variance-exploding variables
``x = x0 + sigma * noise``.
"""
