"""The state of a run in one safetensors file: network, average, optimiser, counters. Temporary file, then rename."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from diffuscope.training.muon import MuonAdamW
from diffuscope.weights.store import files


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    seconds: float = 0.0


def save(path: Path, network: nn.Module, average: nn.Module, optimiser: MuonAdamW, progress: Progress) -> None:
    """Write everything that ``restore`` needs; an interrupted write leaves the old file whole."""
    state: dict[str, Tensor] = {f"network.{name}": value for name, value in network.state_dict().items()}
    state |= {f"average.{name}": value for name, value in average.state_dict().items()}
    state |= {f"optimiser.{name}": value for name, value in optimiser.state().items()}
    files.write(path, state, {"progress": json.dumps(vars(progress))})


def restore(path: Path, network: nn.Module, average: nn.Module, optimiser: MuonAdamW) -> Progress:
    """Take up a run where ``save`` left it. Raises ``WeightsError`` where file and networks do not match."""
    state = files.read(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}

    network.load_state_dict(part("network."))
    average.load_state_dict(part("average."))
    optimiser.load(part("optimiser."))
    return Progress(**json.loads(files.read_header(path).metadata["progress"]))
