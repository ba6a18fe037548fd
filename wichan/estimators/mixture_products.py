"""Products of a separable mixture with frames as the last axis, where real parts of a vector stand above imaginary ones."""

from __future__ import annotations

import math

import torch

_BYTES = {"cpu": 2**22, "cuda": 2**28}  # what one step's largest array may take: on a CPU it should stay in the cache


def step_bytes(device: torch.device) -> int:
    """Bytes that the largest array of one step may take."""
    return _BYTES.get(device.type, _BYTES["cuda"])


def positive(weight: torch.Tensor) -> torch.Tensor:
    """Indices (dims, n) of positive entries; of all where the number of them must not depend on values."""
    if torch.compiler.is_compiling():
        return torch.stack(torch.meshgrid(*map(torch.arange, weight.shape), indexing="ij")).flatten(1).to(weight.device)
    return weight.detach().nonzero().T


def total_of(parts: list[torch.Tensor]) -> torch.Tensor:
    """Sum of tensors of one shape."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def apply_rows(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    r"""Multiply the third axis from the right: (m, n) on (\*lead, n, A, B)."""
    lead, tail = x.shape[:-3], x.shape[-2:]
    flat = x.reshape(math.prod(lead), x.shape[-3], math.prod(tail))
    return torch.bmm(matrix.expand(len(flat), -1, -1), flat).reshape(*lead, len(matrix), *tail)


def combine_symbols(matrix: torch.Tensor, x: torch.Tensor, halves: int | None = None) -> torch.Tensor:
    r"""Multiply over symbols: (\*lead, m, S) on (\*lead, S, \*tail); with (\*lead, m, 2 S) a complex matrix.

    ``halves`` is the axis on which real parts stand above imaginary ones; the one behind the symbols if not given.
    """
    symbol = matrix.dim() - 2
    if matrix.shape[-1] != x.shape[symbol]:
        x = torch.cat([x, times_j(x, symbol + 1 if halves is None else halves)], dim=symbol)
    return (matrix @ x.flatten(symbol + 1)).unflatten(-1, x.shape[symbol + 1 :])


def combine_times(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Multiply over time factors and symbols, (C_t, T, S or 2 S) on (C_t, S, 2 r, A, B), to (T, 2 r, A, B)."""
    if matrix.shape[-1] != x.shape[1]:
        x = torch.cat([x, times_j(x, 2)], dim=1)
    flat = matrix.transpose(0, 1).flatten(1)
    return (flat @ x.flatten(2).flatten(0, 1)).unflatten(-1, x.shape[2:])


def times_j(x: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiply by the imaginary unit where real parts stand above imaginary ones along ``axis``."""
    real, imag = x.chunk(2, axis)
    return torch.cat([-imag, real], axis)


def frame_chunks(count: int, each: int, device: torch.device) -> list[slice]:
    """Ranges of frames whose largest array, ``each`` bytes a frame, stays small."""
    step = max(1, min(count, step_bytes(device) // each))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)] or [slice(0, 0)]
