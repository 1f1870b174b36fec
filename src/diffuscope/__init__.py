"""Stable Diffusion you can see through."""
