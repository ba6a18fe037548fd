r"""A codebook of stationary correlations, made as speech coders make one of spectra [Linde1980]_.

Lloyd's algorithm under the Kullback-Leibler divergence of the Gaussian observations that correlations cause,

.. math:: D(r \,\|\, c) = \sum_\sigma \operatorname{tr} (C + \sigma I)^{-1} (R + \sigma I)
        + \ln\det (C + \sigma I) - \ln\det (R + \sigma I) - n ,

with Toeplitz matrices R, C of correlations r, c and several noise levels :math:`\sigma`. The centre of a cell under this
divergence is the mean of its correlations, and the trace needs one product of length 2n - 1, since R is Toeplitz.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from wichan.linalg import toeplitz


class Codebook(NamedTuple):
    """Cells of a codebook.

    Attributes:
        member: int64, (count,), the cell of every draw.
        weight: float64, (size,), share of draws in each cell, above 0.
    """

    member: torch.Tensor
    weight: torch.Tensor


def design_codebook(
    correlations: torch.Tensor, size: int, noise: tuple[float, ...], *, generator: torch.Generator, rounds: int = 12
) -> Codebook:
    """Divide draws into cells.

    Args:
        correlations: complex128, (count, n), lag 0 first (real, above 0).
        size: cells, at most count; empty ones are left out of the result.
        noise: noise levels that count, relative to lag 0.
        generator: chooses the first centres, each with a probability that grows with its distance from those before.
        rounds: of Lloyd's algorithm.

    Cost: about ``rounds * count * size * n * len(noise)`` complex multiply-adds.
    """
    count = correlations.shape[0]
    own = sum(torch.linalg.slogdet(_loaded(correlations, level))[1] for level in noise) + len(noise) * correlations.shape[1]
    assert isinstance(own, torch.Tensor)
    first = torch.randint(count, (1,), generator=generator)
    chosen = [int(first)]
    nearest = _divergence(correlations, correlations[first], noise)[:, 0] - own
    for _ in range(min(size, count) - 1):
        chosen.append(int(torch.multinomial(nearest.clamp_min(0) + 1e-12, 1, generator=generator)))
        distance = _divergence(correlations, correlations[chosen[-1:]], noise)[:, 0] - own
        nearest = torch.minimum(nearest, distance)
    centres = correlations[chosen]
    for _ in range(rounds):
        member = _divergence(correlations, centres, noise).argmin(1)
        _, member, counts = torch.unique(member, return_inverse=True, return_counts=True)
        centres = cell_means(correlations, member)
    return Codebook(member, counts.double() / count)


def cell_means(values: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
    """Mean of ``values`` (count, m) over the draws of every cell."""
    cells = int(member.max()) + 1
    counts = torch.bincount(member, minlength=cells).to(values.real.dtype)
    return values.new_zeros(cells, values.shape[1]).index_add_(0, member, values) / counts[:, None]


def _loaded(correlations: torch.Tensor, level: float) -> torch.Tensor:
    """Toeplitz matrices with noise on the diagonal, (count, n, n)."""
    column = correlations.clone()
    column[:, 0] = column[:, 0].real + level
    return toeplitz(column)


def _divergence(correlations: torch.Tensor, centres: torch.Tensor, noise: tuple[float, ...]) -> torch.Tensor:
    """Divergence of every draw from every centre, less what depends on the draw alone, (count, size)."""
    n = correlations.shape[1]
    lag = torch.arange(n)[:, None] - torch.arange(n)
    total = correlations.new_zeros(correlations.shape[0], centres.shape[0]).real
    for level in noise:
        matrix = _loaded(centres, level)
        inverse = torch.linalg.inv(matrix)
        # tr(A R) = sum over lags d of r(d) times the sum of A's entries (j, i) with i - j = d.
        sums = inverse.new_zeros(centres.shape[0], n)
        below = lag >= 0
        sums.index_add_(1, lag[below], inverse.mT[:, below])
        trace = 2 * (correlations[:, 1:] @ sums[:, 1:].mT).real + (correlations[:, :1] + level).real * sums[:, 0].real
        total += trace + torch.linalg.slogdet(matrix)[1]
    return total
