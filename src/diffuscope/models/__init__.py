"""The networks: pure functions of their inputs that know no noise level and no file.

Each takes one config of ``diffuscope.config`` and offers its inner values to a tap.
"""
