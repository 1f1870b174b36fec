"""Scores of a model: what is asked, who judges, what counts as right, and how sure the number is.

The chain is ``material`` (real pictures) -> ``questions`` (prompts) -> ``painting`` (pictures of the model) ->
``retrieval``, ``colour``, the classifier (judges) -> ``scores`` -> ``report``. docs/explanation/scores.md defines all.
"""
