"""The parts of classifier-free guidance in every network call of a run."""

from typing import final

import torch
from torch import Tensor

from diffuscope.config import Prediction
from diffuscope.diffusion.prediction import x0_from
from diffuscope.errors import InputError, Unquoted
from diffuscope.lens.recording import Record
from diffuscope.lens.run_tap import RunTap


@final
class GuidanceRecord(RunTap):
    """A Tap that keeps the two estimates which guidance combines; its ``record`` keeps what it makes of them.

    ``pipe(prompt, tap=parts, guidance=parts.record)``, then ``parts.tensors(pipe.config.schedule.prediction)``.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__("unet.conv_out")
        self.record = Record()
        self._outputs: list[Tensor] = []

    def change(self, name: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """Keep the network's output [B,C,h,w]; it stays as it is."""
        if self.call == 0:
            self._outputs = []
        self._outputs.append(value.detach().float().cpu().clone())
        return value

    def tensors(self, prediction: Prediction) -> dict[str, Tensor]:
        """``x``, ``x0`` as guided, and the clean estimates ``cond`` and ``uncond``: [calls,images,C,h,w] each.

        Without guidance there is no ``uncond``. ``sigmas`` [calls] are their noise levels.

        Args:
            prediction: of the network.

        Raises:
            InputError: the run made more than one network call for an estimate.
        """
        record, count = self.record, len(self.record.x0)
        outputs = self._outputs[:count]
        if len(outputs) < count:
            got = Unquoted(f"{len(outputs)} network calls for {count} estimates")
            raise InputError("guidance_options", got, "a run with one network call for each estimate")
        if not count:
            return {}
        parts: dict[str, list[Tensor]] = {"cond": [], "uncond": []}
        for x, sigma, output in zip(record.x, record.sigmas, outputs, strict=False):
            rows = list(output.split(len(x)))
            parts["cond"].append(x0_from(prediction, rows[-1], x, sigma))
            if len(rows) > 1:
                parts["uncond"].append(x0_from(prediction, rows[-2], x, sigma))
        found = {"x": record.x[:count], "x0": record.x0[:count], **parts}
        stacked = {name: torch.stack(values) for name, values in found.items() if values}
        return stacked | {"sigmas": torch.tensor(record.sigmas[:count])}
