"""Training in plain torch: one loop, and one task for each network.

A task holds a network, its data and its loss. ``loop.train`` does the rest (optimiser, learning rate schedule, EMA,
checkpoints, log), on one device or, started by ``torchrun``, on several.
"""
