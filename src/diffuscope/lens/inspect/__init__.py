"""Inspections: experiments on one call, each a few runs, whose outcome is a file of named tensors.

``inspect(pipe, "attention", "a red fox", seed=1)`` in Python, ``diffuscope inspect`` on the command line and
``/api/v1/inspections`` over HTTP are the same experiments with the same options and the same tensors.
"""

from diffuscope.lens.inspect.base import Inspected, Inspection, Seen
from diffuscope.lens.inspect.table import KINDS, about_of, begin, inspect

__all__ = ["KINDS", "Inspected", "Inspection", "Seen", "about_of", "begin", "inspect"]
