"""Self- and cross-attention. The attention weights are computed only for a tap that wants them.

Shape suffixes: B batch, T query tokens, S context tokens, D width, E context width, N heads, H head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.types import Tap, tapped


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2): each query token takes a weighted mean of the values.

    If a tap wants ``weights``, softmax(q k^T / sqrt(H)) is computed explicitly; otherwise by the fused kernel.
    """

    taps = ("query", "key", "value", "weights", "head_out", "")

    def __init__(
        self, width: int, heads: int, context_width: int | None = None, *, bias: bool = False, causal: bool = False
    ) -> None:
        super().__init__()
        source = width if context_width is None else context_width
        self.heads = heads
        self.causal = causal
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(source, width, bias=bias)
        self.value = nn.Linear(source, width, bias=bias)
        self.out = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, context_BSE: Tensor | None = None, tap: Tap | None = None) -> Tensor:
        """[B,T,D] attention from the tokens of ``x`` to the context, or to ``x`` itself if there is none."""
        source = x_BTD if context_BSE is None else context_BSE
        q_BNTH = tapped(tap, "query", self._split(self.query(x_BTD)))
        k_BNSH = tapped(tap, "key", self._split(self.key(source)))
        v_BNSH = tapped(tap, "value", self._split(self.value(source)))
        if tap is not None and tap.wants("weights"):
            y_BNTH = tap("weights", attention_weights(q_BNTH, k_BNSH, causal=self.causal)) @ v_BNSH
        else:
            y_BNTH = F.scaled_dot_product_attention(q_BNTH, k_BNSH, v_BNSH, is_causal=self.causal)
        y_BNTH = tapped(tap, "head_out", y_BNTH)
        return tapped(tap, "", self.out(y_BNTH.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def attention_weights(q_BNTH: Tensor, k_BNSH: Tensor, *, causal: bool = False) -> Tensor:
    """[B,N,T,S] weight of each context token for each query token; rows sum to 1.

    The slow twin of the fused kernel. Scores and softmax are float32, as there: SD 2.1's scores overflow float16.
    """
    scores = (q_BNTH.float() @ k_BNSH.float().transpose(-2, -1)) * q_BNTH.shape[-1] ** -0.5
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores.softmax(-1).to(q_BNTH.dtype)
