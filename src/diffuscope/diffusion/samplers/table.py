"""The table of samplers: the function of each row of ``sampler_table``, and samplers of one's own."""

import inspect
import statistics
from dataclasses import dataclass
from typing import NamedTuple

from diffuscope.diffusion.samplers import (
    ancestral,
    consistency,
    deis,
    dpmpp_multistep,
    dpmpp_sde,
    dpmpp_singlestep,
    euler,
    heun,
    kdpm2,
    lms,
    pndm,
    restart,
    unipc,
)
from diffuscope.diffusion.samplers.contract import Sampler, network_calls
from diffuscope.errors import InputError, Unquoted
from diffuscope.sampler_table import FACTS, SamplerFacts, match, spellings


@dataclass(frozen=True, repr=False)
class SamplerInfo(SamplerFacts):
    """One row of the table of samplers."""

    function: Sampler

    def __repr__(self) -> str:
        return f"SamplerInfo({self.name!r}, {self.label!r}, order {self.order}, noise {self.noise!r})"

    @property
    def name(self) -> str:
        """Our name: that of the function."""
        return self.function.__name__

    @property
    def calls(self) -> int:
        """Network calls of most steps; ``network_calls`` counts those of a run."""
        return statistics.mode(network_calls(self.function, range(16, 0, -1)))

    @property
    def takes_log_sigmas(self) -> bool:
        """Whether it has the keyword ``log_sigmas``, for ``Levels.log_sigmas``."""
        return "log_sigmas" in inspect.signature(self.function).parameters


_SINGLE = (deis, dpmpp_singlestep, euler, heun, lms, restart, unipc)  # modules of one sampler each
_MODULES = (*_SINGLE, ancestral, consistency, dpmpp_multistep, dpmpp_sde, kdpm2, pndm)

SAMPLERS: dict[str, Sampler] = {
    name: getattr(module, name) for name in FACTS for module in _MODULES if hasattr(module, name)
}
"""Every sampler's function by our name."""

TABLE: dict[str, SamplerInfo] = {name: SamplerInfo(SAMPLERS[name], **vars(facts)) for name, facts in FACTS.items()}
"""Every sampler by our name."""


class SamplerMatch(NamedTuple):
    """A sampler and, from a fused name such as "DPM++ 2M Karras", a spacing."""

    info: SamplerInfo
    spacing: str | None


def register(info: SamplerInfo | Sampler) -> SamplerInfo:
    """Make a sampler of one's own known by its function's name, by its label and by its aliases, in this process.

    A name that was registered before is replaced, as when a notebook's cell runs again.

    Args:
        info: a row of the table; or the function alone, whose levels are then those of ``euler``.

    Raises:
        InputError: it is no sampler, or one of its names is that of another.
    """
    info = info if isinstance(info, SamplerInfo) else _row_of(info)
    _check_function(info.function)
    others = [spellings(name, row) for name, row in TABLE.items() if name in FACTS or name != info.name]
    if not spellings(info.name, info).isdisjoint(set().union(*others)):
        raise InputError("sampler", info.name, "names that no other sampler has", "Give the function another name")
    TABLE[info.name], SAMPLERS[info.name] = info, info.function
    return info


def _row_of(function: Sampler) -> SamplerInfo:
    return SamplerInfo(function, label=getattr(function, "__name__", "").replace("_", " "), noise="fresh")


def _check_function(function: Sampler) -> None:
    """Refuse what cannot be called as a sampler, or has no name for a receipt."""
    name = getattr(function, "__name__", "")
    try:
        inspect.signature(function).bind(None, None, (), noise=None)
    except (TypeError, ValueError):
        want = "a generator function (denoise, x, sigmas, *, noise=None, **options)"
        raise InputError("sampler", Unquoted(name or "no function"), want) from None
    if not name.isidentifier():
        raise InputError("sampler", Unquoted("a function without a name"), "one made by `def`: receipts name it")


def find(name: str | Sampler) -> SamplerMatch:
    """The sampler of that name in any spelling, and the spacing in a fused name; or the row of a function.

    Upper and lower case, spaces and punctuation do not matter; ``+`` is ``p``. A function need not be registered.

    Raises:
        InputError: no sampler has that name; the message lists all and suggests the nearest. A function is no sampler,
            or has the name of another.
    """
    if not isinstance(name, str):
        _check_function(name)
        known = TABLE.get(name.__name__)
        if known is not None and known.function is not name and known.name in FACTS:
            raise InputError("sampler", name.__name__, "a function whose name no other sampler has")
        return SamplerMatch(known if known is not None and known.function is name else _row_of(name), None)
    found, spacing = match(name, TABLE)
    return SamplerMatch(TABLE[found], spacing)
