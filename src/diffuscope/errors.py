"""The errors that a person can cause. Each says what was got, what was wanted, and what to do.

The command line turns them into one screen and exit code 2; anything else is our own fault and exits with 1.
"""


class DiffuscopeError(Exception):
    """Base of every error that names a mistake a person can mend."""


class InputError(DiffuscopeError, ValueError):
    """An argument is outside what is possible: a size, a strength, a number of steps, a name."""


class ModelNotFoundError(DiffuscopeError, FileNotFoundError):
    """No model at the path or under the name given."""


class WeightsError(DiffuscopeError):
    """A weight file is damaged, foreign, unsafe, or does not fit the network."""


class WeightMismatchError(WeightsError):
    """Tensors and network do not match one to one: a key too many, too few, twice, or of another shape."""


class ImageError(DiffuscopeError):
    """A picture cannot be read, or is larger than the limit."""


class OutputError(DiffuscopeError, OSError):
    """A result cannot be written: no folder, no permission, no space."""


class NonFiniteError(DiffuscopeError, ArithmeticError):
    """A network's answer overflowed or is not a number, so that there is no picture."""
