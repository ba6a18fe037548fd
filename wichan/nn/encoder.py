"""Transformer encoder layers [Vaswani2017]_, normalised after or before each sub-layer."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from wichan.errors import InvalidValueError
from wichan.nn.attention import attention, is_narrow, packed_attention


class SelfAttention(nn.Module):
    """Multi-head self-attention without a mask.

    Args:
        width: features of a token.
        heads: attention heads; they share the width, so it must be divisible.
        dropout: share of attention weights that is dropped in training.

    Cost: 4 L width^2 + 2 L^2 width multiply-adds for L tokens.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise InvalidValueError(f"width={width} is not divisible by heads={heads}")
        self.heads, self.dropout = heads, dropout
        self.in_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_bias = nn.Parameter(torch.zeros(3 * width))
        self.out = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        batch, count, width = tokens.shape
        if is_narrow(tokens[..., : width // self.heads]) and not (self.training and self.dropout):
            return self._transposed(tokens)
        parts = functional.linear(tokens, self.in_weight, self.in_bias)
        query, key, value = parts.view(batch, count, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = attention(query, key, value, self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))

    def _transposed(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same with tokens along the last axis inside, so that nothing has to be copied."""
        batch, count, width = tokens.shape
        each = (3, self.heads, width // self.heads)
        weight = self.in_weight.view(*each, width).transpose(0, 1).reshape(3 * width, width)
        bias = self.in_bias.view(each).transpose(0, 1).reshape(3 * width, 1)
        parts = torch.baddbmm(bias, weight.expand(batch, -1, -1), tokens.mT)
        mixed = packed_attention(parts.view(batch, self.heads, 3, width // self.heads, count)).flatten(1, 2)
        return torch.baddbmm(self.out.bias, mixed.mT, self.out.weight.mT.expand(batch, -1, -1))


class EncoderLayer(nn.Module):
    """Self-attention and a feed-forward network, each with a residual connection and layer normalisation.

    Args:
        width: features of a token.
        heads: attention heads.
        hidden: width of the feed-forward network.
        dropout: on attention weights, after the attention, inside and after the feed-forward network.
        norm: ``"post"``, x = norm(x + f(x)), or ``"pre"``, x = x + f(norm(x)).
        activation: of the feed-forward network, ``"gelu"`` (exact) or ``"relu"``.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, dropout: float = 0.0, norm: str = "post", activation: str = "gelu"
    ) -> None:
        super().__init__()
        self.norm_first = norm == "pre"
        self.attention = SelfAttention(width, heads, dropout)
        bend = {"gelu": nn.GELU, "relu": nn.ReLU}[activation]
        self.feed_forward = nn.Sequential(nn.Linear(width, hidden), bend(), nn.Linear(hidden, width))
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) to the same."""
        if self.norm_first:
            tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
            return tokens + self._feed(self.feed_forward_norm(tokens))
        tokens = self.attention_norm(tokens + self.dropout(self.attention(tokens)))
        return self.feed_forward_norm(tokens + self._feed(tokens))

    def _feed(self, tokens: torch.Tensor) -> torch.Tensor:
        first, activation, second = self.feed_forward
        return self.dropout(second(self.dropout(activation(first(tokens)))))


def sinusoidal_positions(count: int, width: int) -> torch.Tensor:
    """Fixed positions, (1, count, width): sines on even features, cosines on odd ones, wavelengths to 10000."""
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(count)[:, None] * rate
    table = torch.zeros(1, count, width)
    table[0, :, 0::2] = angle.sin()
    table[0, :, 1::2] = angle[:, : width // 2].cos()
    return table
