"""CLIP's text encoder: token ids to the states that the U-Net reads."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffuscope.config import TextEncoderConfig
from diffuscope.errors import InputError, Unquoted
from diffuscope.nn.attention import Attention
from diffuscope.nn.taps import within
from diffuscope.types import Brief, Tap, tapped

END_OF_TEXT = 49407


@dataclass(frozen=True, slots=True, repr=False)
class TextStates(Brief):
    """The text encoder's output for a batch of texts."""

    last_hidden_state: Tensor
    """[B,T,D] states after the last layer and the final norm."""
    hidden_states: tuple[Tensor, ...]
    """The embeddings and each layer's output, [B,T,D] each, before the final norm."""
    pooled: Tensor | None
    """[B,D], or [B,projection] where the config has one: the state at the first end-of-text token. None without ids."""


class MLP(nn.Module):
    """Two linear layers; quick GELU is x * sigmoid(1.702 x), as CLIP was trained (Hendrycks & Gimpel 2016)."""

    taps = ("hidden", "")

    def __init__(self, width: int, hidden: int, *, quick: bool) -> None:
        super().__init__()
        self.quick = quick
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,width] from [B,T,width], token by token."""
        x = self.fc1(x)
        x = x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x)
        return tapped(tap, "", self.fc2(tapped(tap, "hidden", x)))


class TextLayer(nn.Module):
    """One transformer layer with causal self-attention."""

    taps = ("",)

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.self_attn = Attention(config.width, config.heads, bias=True, causal=True)
        self.norm2 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.hidden, quick=config.activation == "quick_gelu")

    def forward(self, x: Tensor, tap: Tap | None = None) -> Tensor:
        """[B,T,D] from [B,T,D]."""
        x = x + self.self_attn(self.norm1(x), tap=within(tap, "self_attn"))
        return tapped(tap, "", x + self.mlp(self.norm2(x), tap=within(tap, "mlp")))


class TextEncoder(nn.Module):
    """CLIP's text encoder (Radford et al. 2021, section 2.4).

    Args:
        config: its shape.
        component: the first part of its tap names; "text_encoder_2" in a model with two of them.
    """

    def __init__(self, config: TextEncoderConfig, *, component: str = "text_encoder") -> None:
        super().__init__()
        self.component = component
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.positions, config.width)
        self.layer = nn.ModuleList(TextLayer(config) for _ in range(config.layers))
        self.final_norm = nn.LayerNorm(config.width)
        self.added_embeddings: Tensor | None
        self.register_buffer("added_embeddings", None, persistent=False)  # [K,D] of the ids beyond the vocabulary
        projection = config.projection
        self.text_projection = None if projection is None else nn.Linear(config.width, projection, bias=False)
        # CLIP's own initialisation; torch's unit variance would drown the layers.
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding.weight, std=0.01)
        self.taps = ("embeddings", "last_hidden_state", "pooled")

    def forward(self, ids: Tensor, tap: Tap | None = None) -> TextStates:
        """The states of token ids [B,T], int64; T is at most ``config.positions``."""
        return self.encode(self.embed(ids), ids, tap)

    def embed(self, ids: Tensor) -> Tensor:
        """[B,T,D] token plus position embeddings of ``ids`` [B,T].

        Raises:
            InputError: more tokens than positions.
        """
        if ids.shape[1] > self.config.positions:
            raise InputError("ids", Unquoted(f"{ids.shape[1]} tokens"), f"at most {self.config.positions}")
        return self.vectors(ids) + self.position_embedding.weight[: ids.shape[1]]

    def vectors(self, ids: Tensor) -> Tensor:
        """[...,D] token embeddings of ``ids`` [...], without positions; ``added_embeddings`` beyond the vocabulary."""
        if self.added_embeddings is None:
            return self.token_embedding(ids)
        beyond = ids - self.config.vocabulary
        known = self.token_embedding(ids.clamp(max=self.config.vocabulary - 1))
        return torch.where(beyond[..., None] < 0, known, self.added_embeddings[beyond.clamp(min=0)])

    def encode(self, embeddings: Tensor, ids: Tensor | None = None, tap: Tap | None = None) -> TextStates:
        """The rest of the network, from embeddings [B,T,D]; ``ids`` [B,T] locate the text ends for ``pooled``."""
        tap = within(tap, self.component)
        x = tapped(tap, "embeddings", embeddings)
        hidden = [x]
        for i, layer in enumerate(self.layer):
            x = layer(x, within(tap, "layer", i))
            hidden.append(x)
        last = tapped(tap, "last_hidden_state", self.final_norm(x))
        return TextStates(last, tuple(hidden), None if ids is None else tapped(tap, "pooled", self._pool(last, ids)))

    def read(self, states: TextStates, clip_skip: int = 0) -> Tensor:
        """[B,T,D] states that the U-Net reads: of the config's layer, or ``clip_skip`` layers earlier.

        Raises:
            InputError: the encoder has too few layers.
        """
        early = 1 if self.config.states == "penultimate" else 0
        if not 0 <= clip_skip < len(self.layer) - early:
            raise InputError("clip_skip", clip_skip, f"a whole number from 0 to {len(self.layer) - early - 1}")
        if clip_skip + early == 0:
            return states.last_hidden_state
        state = states.hidden_states[-1 - clip_skip - early]
        return state if early else self.final_norm(state)

    def _pool(self, states: Tensor, ids: Tensor) -> Tensor:
        end = (ids == END_OF_TEXT).int().argmax(dim=1)  # the first one
        rows = torch.arange(len(ids), device=ids.device)
        pooled = states[rows, end]
        return pooled if self.text_projection is None else self.text_projection(pooled)
