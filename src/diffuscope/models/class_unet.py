"""The U-Net of a model without text: its condition is a class."""

from collections.abc import Mapping

from torch import Tensor

from diffuscope.models.unet import UNet
from diffuscope.types import Tap


class ClassUNet(UNet):
    """A U-Net that reads a one-hot class where others read a text.

    The class is a text of one token for cross-attention and, as SDXL's pooled text, a vector that is added to the time
    embedding, there with unit variance as all inputs. So its config has ``context_dim`` and ``extra_dim`` of the number
    of classes; no class is zeros.
    """

    def forward(
        self,
        x: Tensor,
        time: Tensor | float,
        context: Tensor,
        *,
        extra: Mapping[str, Tensor] | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """[B,out_channels,H,W] prediction; ``context`` is [B,1,K], the rest as in ``UNet``."""
        pooled = {"pooled": context[:, 0] * context.shape[-1] ** 0.5, "sizes": context.new_empty(len(context), 0)}
        return super().forward(x, time, context, extra={**(extra or {}), **pooled}, tap=tap)
