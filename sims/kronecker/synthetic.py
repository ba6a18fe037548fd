"""The published synthetic problem: random factors, a support that is a Kronecker product, exact SNR in every realisation.

Real data: y = (H1 (x) H2 (x) H3) x + n, entries of the factors N(0, 1) and not normalised, n ~ N(0, no). All randomness comes
from one generator on the CPU, seeded by the number of the dictionary, and what a study varies changes nothing else: every SNR
sees the same x and the same noise up to its level, fewer rows are the first of more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SIZE = 15
ROWS = (8, 12, 15)
MOST_ROWS = 14  # of the first factor in the published studies


@dataclass(frozen=True)
class Problems:
    """Instances that share their factors.

    Attributes:
        factors: float64, (Mk, Nk) each.
        x: float64, (B, N1, N2, N3).
        support: bool, (B, Nk) for each factor: which atoms are in use.
        y: float64, (B, M).
        no: float64, (B,): noise variance.
        points: of the study, one an instance.
    """

    factors: tuple[Tensor, ...]
    x: Tensor
    support: tuple[Tensor, ...]
    y: Tensor
    no: Tensor
    points: tuple[Any, ...]


def measure(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """Mode products of (B, N1, N2, N3) with all factors: (B, M1, M2, M3)."""
    return torch.einsum("ai,bj,ck,nijk->nabc", *factors, x)


def supports(count: int, nonzeros: int, size: int, generator: torch.Generator) -> Tensor:
    """Uniformly drawn sets of ``nonzeros`` atoms as masks (count, size)."""
    order = torch.rand(count, size, generator=generator).argsort(1)
    return torch.zeros(count, size, dtype=torch.bool).scatter_(1, order[:, :nonzeros], True)


def sparse_values(masks: Sequence[Tensor], values: str, generator: torch.Generator) -> Tensor:
    """x on the Kronecker product of ``masks``: a product of Gaussian vectors (``"kronecker"``), or i.i.d. (``"free"``)."""
    first, second, third = (mask.double() for mask in masks)
    if values == "kronecker":
        drawn = [mask * torch.randn(mask.shape, dtype=torch.float64, generator=generator) for mask in (first, second, third)]
        return torch.einsum("ni,nj,nk->nijk", *drawn)
    free = torch.randn(len(first), *(mask.shape[1] for mask in masks), dtype=torch.float64, generator=generator)
    return free * torch.einsum("ni,nj,nk->nijk", first, second, third)


def draw(
    dictionary: int,
    count: int,
    *,
    rows: tuple[int, int, int] = ROWS,
    nonzeros: Sequence[int] = (3,),
    snr_db: Sequence[float] = (25.0,),
    first_rows: Sequence[int] | None = None,
    values: str = "kronecker",
    size: int = SIZE,
) -> list[Problems]:
    """All problems of one dictionary: ``count`` instances of every combination of ``nonzeros`` and ``snr_db``.

    Args:
        dictionary: number of the dictionary: the seed.
        count: instances at each point.
        rows: M1, M2, M3.
        nonzeros: non-zero atoms a factor.
        snr_db: |y0|^2 / (M no) of each realisation.
        first_rows: values of M1; the problems then are one for each, and no is that of the problem with ``rows``, once.
        values: `sparse_values`.
        size: atoms a factor.

    Returns:
        One element, or one for each of ``first_rows``.
    """
    generator = torch.Generator().manual_seed(7_000_003 * (dictionary + 1))
    factors = tuple(torch.randn(r, size, dtype=torch.float64, generator=generator) for r in rows)
    noise = torch.randn(count, *rows, dtype=torch.float64, generator=generator)
    x, masks, y, no, points = [], [], [], [], []
    for number in nonzeros:
        mask = [supports(count, number, size, generator) for _ in rows]
        values_of = sparse_values(mask, values, generator)
        clean = measure(factors, values_of)
        for level in snr_db:
            variance = clean.square().mean((1, 2, 3)) / 10 ** (level / 10)
            x.append(values_of)
            masks.append(mask)
            y.append(clean + variance.sqrt()[:, None, None, None] * noise)
            no.append(variance)
            points += [number if len(nonzeros) > 1 else level] * count
    sparse, received, variances = torch.cat(x), torch.cat(y), torch.cat(no)
    support = tuple(torch.cat([mask[axis] for mask in masks]) for axis in range(3))
    if first_rows is None:
        return [Problems(factors, sparse, support, received.flatten(1), variances, tuple(points))]
    cut = [(factors[0][:number], *factors[1:]) for number in first_rows]
    return [
        Problems(few, sparse, support, received[:, :number].flatten(1), variances, (number,) * len(sparse))
        for number, few in zip(first_rows, cut, strict=True)
    ]
