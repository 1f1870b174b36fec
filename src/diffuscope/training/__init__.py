"""How the networks are made: one loop, one task per network, plain torch.

A task owns what is learned and says what its loss is; ``loop.train`` does the rest (optimiser, schedule, average,
checkpoints, log) and runs on one device or, started by ``torchrun``, on several.
"""
