r"""Softmax attention for many short sequences with narrow heads on a CPU, twice as fast as the general kernel.

With heads of 8 to 32 features the matrix products are so thin that their layout decides. Here scores are laid out keys x
queries in pieces that stay in the cache, the exponential is taken without a maximum (and checked afterwards), the sums over
keys come out of the second product through a row of ones, and the backward pass subtracts its sums inside a product:

.. math:: E = 2^{K Q^T \log_2(e) / \sqrt d}, \qquad [O; l] = [V^T; 1] E, \qquad \mathrm{attention} = O / l .
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

_LOG2E = 1 / math.log(2)
_PIECE_BYTES = 5 << 18  # scores of one piece: about what a core's second cache holds
_LARGEST_SUM = 1e15  # far enough from overflow, and its inverse from underflow, for any values and gradients that matter
_WIDEST_HEAD = 32


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Return softmax(Q K^T / sqrt(d)) V.

    Args:
        query, key, value: (batch, heads, tokens, features).
        dropout: share of attention weights to drop.

    Returns:
        (batch, heads, tokens, features).

    Cost: 4 tokens^2 features FLOP and tokens^2 exponentials a head; no memory of tokens^2 but one piece.
    """
    if is_narrow(query) and not dropout:
        return packed_attention(torch.stack([part.mT for part in (query, key, value)], dim=2)).mT
    return functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout)


def is_narrow(query: torch.Tensor) -> bool:
    """Whether `packed_attention` is the quick way for heads (..., features)."""
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and query.shape[-1] <= _WIDEST_HEAD
        and not torch.compiler.is_compiling()
    )


def packed_attention(parts: torch.Tensor) -> torch.Tensor:
    """The same from queries, keys and values in one tensor, (batch, heads, 3, features, tokens).

    Returns:
        (batch, heads, features, tokens).
    """
    return _NarrowAttention.apply(parts)


class _NarrowAttention(torch.autograd.Function):
    """Everything transposed: (sequences, features, tokens), so that the long axis is the contiguous one."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor) -> torch.Tensor:
        flat = parts.flatten(0, 1)
        out, top = _mix(flat, None), None
        if not _in_range(out[:, -1]):
            top = torch.empty_like(out[:, -1:])
            out = _mix(flat, top)
        total = out[:, -1:]
        mixed = out[:, :-1] / total
        ctx.save_for_backward(parts, mixed, total, top)
        return mixed.view(*parts.shape[:2], *mixed.shape[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        parts, mixed, total, top = ctx.saved_tensors
        grad = grads[0].reshape(mixed.shape)
        # The last row times the ones of the values subtracts each query's sum over P dP inside the product.
        grad = torch.cat([grad, -(mixed * grad).sum(1, keepdim=True)], dim=1).div_(total)
        slopes = torch.empty_like(parts, memory_format=torch.contiguous_format)
        _slopes(parts.flatten(0, 1), grad, top, slopes.flatten(0, 1))
        return slopes


def _mix(parts: torch.Tensor, top: torch.Tensor | None) -> torch.Tensor:
    """[V; 1] E, (sequences, features + 1, tokens); what is subtracted from the scores goes into ``top``, if given."""
    queries, keys, values = parts.unbind(1)
    count, width, tokens = values.shape
    out = values.new_empty(count, width + 1, tokens)
    scores, extended = _rooms(parts, 1)
    for part, size in _pieces(parts):
        weights = _scores(scores[:size], keys[part], queries[part])
        if top is not None:
            weights.sub_(torch.amax(weights, 1, keepdim=True, out=top[part]))
        extended[:size, :width] = values[part]
        torch.bmm(extended[:size], weights.exp2_(), out=out[part])
    return out


def _slopes(parts: torch.Tensor, grad: torch.Tensor, top: torch.Tensor | None, out: torch.Tensor) -> None:
    """Gradients with respect to ``parts`` into ``out``."""
    queries, keys, values = parts.unbind(1)
    d_query, d_key, d_value = out.unbind(1)
    width = values.shape[1]
    scores, slopes, extended = _rooms(parts, 2)
    for part, size in _pieces(parts):
        weights, slope = _scores(scores[:size], keys[part], queries[part]), slopes[:size]
        if top is not None:
            weights.sub_(top[part])
        weights.exp2_()
        extended[:size, :width] = values[part]
        torch.bmm(extended[:size].mT, grad[part], out=slope).mul_(weights)
        d_value[part].baddbmm_(grad[part, :width], weights.mT, beta=0)
        d_query[part].baddbmm_(keys[part], slope, beta=0, alpha=1 / math.sqrt(width))
        d_key[part].baddbmm_(queries[part], slope.mT, beta=0, alpha=1 / math.sqrt(width))


def _scores(out: torch.Tensor, keys: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    return out.baddbmm_(keys.mT, queries, beta=0, alpha=_LOG2E / math.sqrt(keys.shape[1]))


def _in_range(total: torch.Tensor) -> bool:
    """Whether no exponential came near the ends of its range; false for NaN."""
    if not total.numel():
        return True
    low, high = torch.aminmax(total)
    return bool((low > 1 / _LARGEST_SUM) & (high < _LARGEST_SUM))


def _step(parts: torch.Tensor) -> int:
    """How many sequences have their scores in the cache at a time."""
    tokens = parts.shape[-1]
    return min(max(1, _PIECE_BYTES // max(1, tokens * tokens * parts.element_size())), max(1, len(parts)))


def _pieces(parts: torch.Tensor) -> list[tuple[slice, int]]:
    count, step = len(parts), _step(parts)
    return [(slice(start, start + step), min(step, count - start)) for start in range(0, count, step)]


def _rooms(parts: torch.Tensor, number: int) -> list[torch.Tensor]:
    """``number`` squares for scores (step, tokens, tokens), and values with a row of ones (step, features + 1, tokens)."""
    step, width, tokens = _step(parts), *parts.shape[-2:]
    return [*(parts.new_empty(step, tokens, tokens) for _ in range(number)), parts.new_ones(step, width + 1, tokens)]
