"""Random numbers that belong to their row: what a row draws depends on its key alone, wherever in a batch it stands.

A counter is mixed with each row's key by the finaliser of SplitMix64 [Steele2014]_, all rows at once. No generator is touched.
"""

from __future__ import annotations

import math

import torch

_GOLDEN = -0x61C8864680B583EB  # 2^64 over the golden ratio, as a signed number
_FIRST = -0x40A7B892E31B1A47
_SECOND = -0x6B2FB644ECCEEE15


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical shift to the right: that of int64 keeps the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """A permutation of all int64 numbers without visible pattern."""
    x = _shifted(x, 30).bitwise_xor_(x).mul_(_FIRST)
    x = _shifted(x, 27).bitwise_xor_(x).mul_(_SECOND)
    return _shifted(x, 31).bitwise_xor_(x)


def row_keys(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Key of each row, int64 (rows,), from its numbers, float64 (rows, size), and a seed."""
    place = torch.arange(1, values.shape[1] + 1, device=values.device) * _GOLDEN
    bits = (values + 0.0).contiguous().view(torch.int64)  # + 0.0: minus zero is zero
    start = (seed * _GOLDEN + 2**63) % 2**64 - 2**63
    return mixed(mixed(bits + place).sum(dim=1) + start)


class HashedRandom:
    """A stream of numbers for each row.

    Args:
        keys: int64, (rows,).
    """

    def __init__(self, keys: torch.Tensor) -> None:
        self.keys = keys[:, None]
        self.drawn = 0

    def uniform(self, size: int) -> torch.Tensor:
        """Draw from U[0, 1), float64, (rows, size)."""
        counter = torch.arange(self.drawn + 1, self.drawn + size + 1, device=self.keys.device)
        self.drawn += size
        return _shifted(mixed(self.keys + counter * _GOLDEN), 11).double().mul_(2.0**-53)

    def complex_normal(self, size: int) -> torch.Tensor:
        """Draw from CN(0, 1), complex128, (rows, size)."""
        first, second = self.uniform(2 * size).chunk(2, dim=1)
        return torch.polar(torch.sqrt(-torch.log1p(-first)), 2 * math.pi * second)
