"""Layers that the networks share: attention, residual and transformer blocks, embeddings, and tap names.

Each takes plain numbers, knows neither files nor noise levels, and passes its activations to a tap.
"""
