"""The texts of a prompt: those that ``AND`` joins, and those that a step changes to."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffuscope.errors import InputError
from diffuscope.prompt.a1111 import Entry, joined_by_and, refuse_networks, schedule
from diffuscope.request import Syntax


@dataclass(frozen=True, slots=True)
class Part:
    """One of the prompts that ``AND`` joins; most prompts have only one."""

    entries: tuple[Entry, ...]
    """Its text, and those that it changes to during the run."""
    weight: float = 1.0

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each entry."""
        return tuple(entry.text for entry in self.entries)

    def at(self, step: int) -> int:
        """Which entry is read at a step, counted from 0."""
        return next((k for k, entry in enumerate(self.entries) if step <= entry.end), 0)


def parts_of(prompt: str, syntax: Syntax, steps: int, *, negative: bool = False) -> tuple[Part, ...]:
    """The parts of a prompt in a run of ``steps`` steps. ``AND`` is a word in a negative prompt."""
    if syntax != "a1111":
        return (Part((Entry(steps, prompt),)),)
    refuse_networks(prompt)
    if negative:
        return (Part(tuple(schedule(prompt, steps))),)
    return tuple(Part(tuple(schedule(piece.text, steps)), piece.weight) for piece in joined_by_and(prompt))


def check_one_text(prompts: Sequence[str], syntax: Syntax) -> None:
    """Refuse prompts that are not one text for a whole run, which one Conditioning cannot hold."""
    for prompt in prompts:
        parts = parts_of(prompt, syntax, 1000)
        if len(parts) > 1 or parts[0].weight != 1 or len({*parts[0].texts}) > 1:
            raise InputError("prompt", prompt, "one text, without AND and without changes", "Pass it to the pipeline.")
