r"""Softmax attention for many short sequences with narrow heads on a CPU, twice as fast as the general kernel.

With heads of 8 features the matrix products are so thin that their layout decides. Here scores are laid out keys x queries
in pieces that stay in the cache, the exponential is taken without a maximum (safe for bounded scores, which is checked), the
row sums come out of the second product through a row of ones, and the backward pass subtracts its row sums inside a product:

.. math:: E = 2^{K Q^T \log_2(e) / \sqrt d}, \qquad [O; l] = [V^T; 1] E, \qquad \mathrm{attention} = O / l .
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

_LOG2E = 1 / math.log(2)
_PIECE_BYTES = 2**20  # scores of one piece: half of what a core's second cache holds
_LARGEST_SCORE = 60.0  # exp(60) times 10^10 keys is still far below the largest float32, exp(-60) far above the smallest
_WIDEST_HEAD = 16


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return softmax(Q K^T / sqrt(d)) V.

    Args:
        query, key, value: (batch, heads, tokens, features).
        dropout: share of attention weights to drop.

    Returns:
        (batch, heads, tokens, features).

    Cost: 4 tokens^2 features FLOP and tokens^2 exponentials a head; no memory of tokens^2 but one piece.
    """
    if _is_narrow(query) and not dropout and _bounded(query, key):
        return _NarrowAttention.apply(query, key, value)
    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def _is_narrow(query: torch.Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and query.shape[-1] <= _WIDEST_HEAD
        and not torch.compiler.is_compiling()
    )


def _bounded(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether no score can leave the range of the exponential (Cauchy and Schwarz); false for NaN."""
    with torch.no_grad():
        longest = query.square().sum(-1).amax() * key.square().sum(-1).amax() if query.numel() else query.new_zeros(())
        return bool(longest <= _LARGEST_SCORE**2 * query.shape[-1])


class _NarrowAttention(torch.autograd.Function):
    """Everything transposed: (sequences, features, tokens), so that the long axis is the contiguous one."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, tokens, width = query.shape
        scaled = (query * (_LOG2E / math.sqrt(width))).reshape(-1, tokens, width).mT.contiguous()
        keys = key.reshape(-1, tokens, width)
        values = torch.cat([value.mT.reshape(-1, width, tokens), value.new_ones(batch * heads, 1, tokens)], dim=1)
        out = values.new_empty(values.shape)
        scores = _piece(keys)
        for part in _parts(scores, keys):
            weights = scores[: part.stop - part.start]
            torch.bmm(keys[part], scaled[part], out=weights).exp2_()
            torch.bmm(values[part], weights, out=out[part])
        total = out[:, width:]
        mixed = out[:, :width] / total
        ctx.save_for_backward(scaled, keys, values, mixed, total)
        return mixed.view(batch, heads, width, tokens).mT

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scaled, keys, values, mixed, total = ctx.saved_tensors
        shape, width = grads[0].shape, keys.shape[-1]
        grad = grads[0].mT.reshape(-1, width, keys.shape[1])
        # The last row times the ones of the values subtracts each query's sum over P dP inside the product.
        grad = torch.cat([grad, -(mixed * grad).sum(1, keepdim=True)], dim=1).div_(total)
        turned, keys_turned = values.mT.contiguous(), keys.mT.contiguous()
        d_query, d_key, d_value = (torch.empty_like(scaled) for _ in range(3))
        scores, slopes = _piece(keys), _piece(keys)
        for part in _parts(scores, keys):
            weights, slope = scores[: part.stop - part.start], slopes[: part.stop - part.start]
            torch.bmm(keys[part], scaled[part], out=weights).exp2_()
            torch.bmm(grad[part, :width], weights.mT, out=d_value[part])
            torch.bmm(turned[part], grad[part], out=slope).mul_(weights)
            torch.bmm(keys_turned[part], slope, out=d_query[part])
            torch.bmm(scaled[part], slope.mT, out=d_key[part])
        d_query.mul_(1 / math.sqrt(width))
        d_key.mul_(1 / _LOG2E)
        turned_shape = (*shape[:2], width, shape[2])
        return d_query.view(turned_shape).mT, d_key.view(turned_shape).mT, d_value.view(turned_shape).mT


def _piece(keys: torch.Tensor) -> torch.Tensor:
    """Room for the scores of some sequences, (pieces, tokens, tokens)."""
    tokens = keys.shape[1]
    count = max(1, _PIECE_BYTES // max(1, tokens * tokens * keys.element_size()))
    return keys.new_empty(min(count, keys.shape[0]), tokens, tokens)


def _parts(scores: torch.Tensor, keys: torch.Tensor) -> list[slice]:
    step, count = scores.shape[0], keys.shape[0]
    return [slice(start, min(start + step, count)) for start in range(0, count, max(step, 1))]
