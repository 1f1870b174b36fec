"""The state of a run in one safetensors file: network, EMA, optimiser, progress."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from diffuscope.training.muon import MuonAdamW
from diffuscope.weights.store import files


@dataclass
class Progress:
    """Steps and seconds of training so far."""

    step: int = 0
    seconds: float = 0.0


def save(path: Path, network: nn.Module, ema: nn.Module, optimiser: MuonAdamW, progress: Progress) -> None:
    """Write the state for ``restore``; an interrupted write keeps the old file."""
    state: dict[str, Tensor] = {f"network.{name}": value for name, value in network.state_dict().items()}
    state |= {f"ema.{name}": value for name, value in ema.state_dict().items()}
    state |= {f"optimiser.{name}": value for name, value in optimiser.state().items()}
    files.write(path, state, {"progress": json.dumps(vars(progress))})


def restore(path: Path, network: nn.Module, ema: nn.Module, optimiser: MuonAdamW) -> Progress:
    """Load the state of ``save`` and return the progress."""
    state = files.read(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

    network.load_state_dict(part("network."))
    ema.load_state_dict(part("ema."))
    optimiser.load(part("optimiser."))
    return Progress(**json.loads(files.read_header(path).metadata["progress"]))
