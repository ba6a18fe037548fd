"""The network of CSI-BERT2: a re-weighting of subcarriers, embeddings of CSI and time, a BERT encoder, and its two heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from wichan.errors import InvalidValueError, check_int
from wichan.nn.attention import attention
from wichan.priors.vae_networks import perceptron

_WORDS = 30522  # rows of BERT's word table, which CSI never touches
_SEGMENTS = 2  # rows of BERT's token-type table; only the first is used


class CSIBERT2Backbone(nn.Module):
    r"""Windows of CSI to one vector a step.

    Each subcarrier's series is weighted by a number that a perceptron over time makes of it; weighted steps and their times
    are embedded, added, and read by a BERT encoder (normalisation after each sub-layer, exact GELU, learned positions).

    Args:
        input_dim: real numbers of a step: amplitudes of 52 subcarriers as published, or 2 K interleaved parts.
        length: steps of a window; the re-weighting and the positions are made for it.
        width: features of a step inside. layers, heads, feed_forward: of the encoder.
        dropout: on embeddings, attention weights and both sub-layers, in training.
        reweighting: with the adaptive re-weighting layer. temporal_mlp: with a perceptron behind the sinusoids of time;
            without, a linear layer. Both are switches for ablations.
        unused_tables: also hold the tables that the authors' code declares and never uses, so that parameters agree.

    Raises:
        InvalidTypeError, InvalidValueError: sizes below 1, a width that the heads do not divide.

    Source: [CSIBERT2]_.
    """

    def __init__(
        self,
        input_dim: int = 52,
        length: int = 100,
        *,
        width: int = 128,
        layers: int = 6,
        heads: int = 8,
        feed_forward: int = 512,
        dropout: float = 0.1,
        reweighting: bool = True,
        temporal_mlp: bool = True,
        unused_tables: bool = False,
    ) -> None:
        super().__init__()
        self.input_dim = check_int("input_dim", input_dim, minimum=1)
        self.length, self.width = check_int("length", length, minimum=1), check_int("width", width, minimum=1)
        self.reweighting = AdaptiveReweighting(length) if reweighting else nn.Identity()
        self.embedding = perceptron((input_dim, input_dim, width, width))
        self.time_embedding = TemporalEmbedding(input_dim, width, temporal_mlp)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        self.segments = nn.Parameter(0.02 * torch.randn(_SEGMENTS, width))
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.ModuleList(BERTLayer(width, heads, feed_forward, dropout) for _ in range(layers))
        if unused_tables:
            self.unused = _unused_tables(input_dim, width)

    def forward(self, x: torch.Tensor, times: torch.Tensor | None = None, received: torch.Tensor | None = None) -> torch.Tensor:
        """Return one vector a step.

        Args:
            x: real (batch, length, input_dim), standardised, masked steps filled.
            times: real (batch or 1, length), when the steps were, any unit and origin; None: evenly spaced.
            received: bool (batch, length), steps that may be attended to; None: all.

        Returns:
            real (batch, length, width).

        Raises:
            InvalidValueError: windows of another length or width.
        """
        if x.dim() != 3 or x.shape[1:] != (self.length, self.input_dim):
            raise InvalidValueError(f"x has shape {tuple(x.shape)}; it must be (batch, {self.length}, {self.input_dim})")
        if times is None:
            times = torch.arange(self.length, dtype=x.dtype, device=x.device)[None]
        tokens = self.embedding(self.reweighting(x)) + self.time_embedding(times)
        tokens = self.dropout(self.norm(tokens + self.segments[0] + self.positions))
        for layer in self.encoder:
            tokens = layer(tokens, received)
        return tokens


class AdaptiveReweighting(nn.Module):
    """Multiply each feature's series by one number that a perceptron makes of the whole series.

    Args:
        length: steps of a window; hidden layers have a half and a quarter as many units.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.layers = perceptron((length, max(1, length // 2), max(1, length // 4), 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, features) to the same."""
        weighted: torch.Tensor = x * self.layers(x.mT).mT
        return weighted


class TemporalEmbedding(nn.Module):
    """Times of the steps, stretched to 0 ... 100 over a window, as sinusoids and a perceptron on them.

    Args:
        sinusoids: how many. width: features that come out. mlp: a perceptron; else one linear layer.
    """

    def __init__(self, sinusoids: int, width: int, mlp: bool = True) -> None:
        super().__init__()
        self.sinusoids = sinusoids
        self.layers = perceptron((sinusoids, sinusoids, width, width) if mlp else (sinusoids, width))

    def forward(self, times: torch.Tensor) -> torch.Tensor:
        """(batch, length) to (batch, length, width)."""
        dtype = next(self.layers.parameters()).dtype
        return self.layers(time_sinusoids(times, self.sinusoids).to(dtype))


def time_sinusoids(times: torch.Tensor, count: int) -> torch.Tensor:
    r"""Sinusoids of times, (..., length) to (..., length, count).

    With :math:`s = 100 (t - t_0) / (t_{last} - t_0)`: features 2 k and 2 k + 1 are sine and cosine of
    :math:`s / 10000^{2k/count}`. The origin is taken off before anything is rounded; a window without duration has s = 0.

    Args:
        times: any unit and origin; pass large stamps as integers or in double precision.
        count: features.
    """
    since = (times - times[..., :1]).double()
    span = since[..., -1:]
    s = 100 * since / torch.where(span == 0, torch.ones_like(span), span)
    rates = 10000.0 ** (-torch.arange(0, count, 2, dtype=torch.float64, device=times.device) / count)
    angle = s[..., None] * rates
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)[..., :count]


class BERTLayer(nn.Module):
    """One layer of the encoder: attention and a feed-forward network, each added to its input and normalised.

    Args:
        width, heads, feed_forward, dropout: see `CSIBERT2Backbone`.
    """

    def __init__(self, width: int, heads: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise InvalidValueError(f"width={width} is not divisible by heads={heads}")
        self.heads = heads
        self.mixing, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed_forward = nn.Sequential(nn.Linear(width, feed_forward), nn.GELU(), nn.Linear(feed_forward, width))
        self.first_norm, self.second_norm = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.mixing, self.out, self.feed_forward[0], self.feed_forward[2]):
            nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, tokens: torch.Tensor, received: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, length, width) to the same; steps that are not ``received`` are not attended to."""
        parts = self.mixing(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        drop = self.dropout.p if self.training else 0.0
        if received is None:
            mixed = attention(query, key, value, drop)
        else:
            heard = received[:, None, None, :]
            mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=heard, dropout_p=drop)
        tokens = self.first_norm(tokens + self.dropout(self.out(mixed.transpose(1, 2).flatten(-2))))
        return self.second_norm(tokens + self.dropout(self.feed_forward(tokens)))


class TokenHead(nn.Sequential):
    """A vector a step back to CSI: (batch, length, width) to (batch, length, output_dim)."""

    def __init__(self, width: int = 128, output_dim: int = 52, hidden: int = 64) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, output_dim))


class SequenceHead(nn.Module):
    """A window to classes: attention over time with several rows of weights, a perceptron on the weighted sums.

    Args:
        num_classes: what comes out. width: of the backbone. rows: of the attention. hidden: of the perceptron.
    """

    def __init__(self, num_classes: int, width: int = 128, rows: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width, bias=False), nn.Linear(width, rows, bias=False)
        self.layers = perceptron((rows * width, hidden, num_classes))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to (batch, num_classes)."""
        weights = self.second(self.first(tokens).tanh()).softmax(dim=1)
        return self.layers((weights.mT @ tokens).flatten(1))


class CSIBERT2Network(nn.Module):
    """Backbone and head: windows to windows (recovery, prediction) or to classes.

    Args:
        num_classes: None: a `TokenHead`; else a `SequenceHead` with as many classes (2 for the discriminator).
        head_hidden: width inside the token head.
        input_dim, length, **options: see `CSIBERT2Backbone`.

    Example:
        >>> network = CSIBERT2Network(52, 100).eval()
        >>> network(torch.zeros(2, 100, 52)).shape, sum(weight.numel() for weight in network.parameters())
        (torch.Size([2, 100, 52]), 1273035)
    """

    def __init__(
        self, input_dim: int = 52, length: int = 100, num_classes: int | None = None, head_hidden: int = 64, **options: Any
    ) -> None:
        super().__init__()
        self.backbone = CSIBERT2Backbone(input_dim, length, **options)
        width = self.backbone.width
        self.head = TokenHead(width, input_dim, head_hidden) if num_classes is None else SequenceHead(num_classes, width)

    def forward(self, x: torch.Tensor, times: torch.Tensor | None = None, received: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, length, input_dim) to the same or to (batch, num_classes); see `CSIBERT2Backbone.forward`."""
        return self.head(self.backbone(x, times, received))


def _unused_tables(input_dim: int, width: int) -> nn.ModuleDict:
    """What the authors' code declares beside the network: it takes no part in anything."""
    return nn.ModuleDict(
        {
            "words": nn.Embedding(_WORDS, width),
            "pooler": nn.Linear(width, width),
            "norms": nn.ModuleList(nn.LayerNorm(size) for size in (input_dim, width, width)),
            "fusion": perceptron((2 * width, 2 * width, width, width)),
        }
    )
