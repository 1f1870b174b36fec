"""Weights as data: files and what may stand in them, names in other layouts, small packing. No network is known here.

safetensors only. Each tensor is matched by exactly one rule and each parameter is given exactly once, or loading
fails.
"""
