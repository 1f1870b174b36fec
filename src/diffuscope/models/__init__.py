"""The networks: pure functions of their inputs, without noise levels and files.

Each takes one config of ``diffuscope.config`` and passes its activations to a tap.
"""
