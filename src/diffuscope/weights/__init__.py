"""Weights as data, without networks: files in ``store``, names and configs of other programs in ``layout``, recognising
files in ``identify``, LoRA and textual inversion in ``adapter``.

Each tensor matches exactly one rule and each parameter is set exactly once, or loading fails.
"""
