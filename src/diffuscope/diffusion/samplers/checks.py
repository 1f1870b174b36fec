"""What samplers refuse at the call, before any step."""

import math

from diffuscope.errors import InputError
from diffuscope.types import Noise


def check_eta(eta: float) -> None:
    """Raise InputError unless ``eta``, the share of fresh noise, is finite and at least 0."""
    if not (math.isfinite(eta) and eta >= 0):
        raise InputError(f"eta {eta} is not a finite number of at least 0: 0 adds no noise, 1 is the reference's")


def check_noise(noise: Noise | None, amount: float, option: str) -> None:
    """Raise InputError where the ``amount`` of the ``option`` asks for noise and there is none."""
    if amount > 0 and noise is None:
        raise InputError(f"this sampler draws noise but was given none: pass noise, or {option}=0")


def check_order(order: int, highest: int) -> None:
    """Raise InputError unless ``order`` is 1 to ``highest``."""
    if not 1 <= order <= highest:
        raise InputError(f"order {order} is outside 1 to {highest}")


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError unless ``value`` is one of the ``choices``."""
    if value not in choices:
        raise InputError(f"{option} {value!r} is not one of {', '.join(choices)}")
