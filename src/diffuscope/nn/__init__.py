"""Parts that the networks share: attention, residual and transformer blocks, embeddings of time, and the tap's names.

Each part takes plain numbers, knows nothing of files or noise levels, and offers its inner values to a tap.
"""
