"""Weights as data: files, their layouts, what they are, and adapters. No network is known here.

safetensors only. Each tensor is matched by exactly one rule and each parameter is given exactly once, or loading
fails.
"""
