"""Scores of a model: retrieval, CLIP and classifier accuracy, colours, reconstruction, each with its interval.

The chain is ``eval_data`` (real images) -> ``prompts`` -> ``generation`` (images of the model) -> ``scorer`` and
``data.foreground`` (right or wrong) -> ``scores`` -> ``report``. docs/explanation/scores.md defines each score.
"""
