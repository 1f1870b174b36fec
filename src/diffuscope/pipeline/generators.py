"""torch's generators in the place of seeds, as other programs take them: one for a call, or one per image."""

from collections.abc import Sequence

import torch
from torch import Generator

from diffuscope.errors import InputError

MOST = 2**63 - 1  # the largest seed of a receipt


def per_image(generator: Generator | Sequence[Generator] | None, images: int) -> tuple[Generator, ...]:
    """One generator per image, which may all be the same; none for None."""
    if generator is None:
        return ()
    given = (generator,) * images if isinstance(generator, Generator) else tuple(generator)
    if len(given) != images or not all(isinstance(each, Generator) for each in given):
        raise InputError("generator", generator, f"one torch.Generator, or one per image ({images})")
    return given


def are_seeds(generators: Sequence[Generator]) -> bool:
    """Whether the seeds say everything: each image has a generator of its own, on the CPU, that drew nothing yet."""
    return len({id(each) for each in generators}) == len(generators) and all(
        each.device.type == "cpu"
        and 0 <= (seed := each.initial_seed()) <= MOST
        and torch.equal(each.get_state(), Generator("cpu").manual_seed(seed).get_state())
        for each in generators
    )


def seeds(generators: Sequence[Generator]) -> tuple[int, ...]:
    """One seed per image: that of its generator, or else a number that a copy of the generator draws."""
    if are_seeds(generators):
        return tuple(each.initial_seed() for each in generators)
    copies = {id(each): Generator(each.device).set_state(each.get_state()) for each in generators}
    drawing = [copies[id(each)] for each in generators]
    return tuple(int(torch.randint(MOST, (), generator=each, device=each.device)) for each in drawing)
