r"""From moments of quantised Gaussian samples back to the correlation before the converters.

For real Gaussians u, v of correlation :math:`\rho`, the mean product of their quantised values is the odd series
:math:`g(\rho) = \sum_{n\ \mathrm{odd}} a_n^{(i)} a_n^{(j)} \rho^n` of `wichan.observations.quantizer_moments`. It rises with
:math:`\rho` (its derivative is a sum of Gaussian densities), so Newton's method inverts it. Two signs need no series,
:math:`\rho = \sin(\pi g)`. Close to :math:`|\rho| = 1` the series of a coarse quantiser converges slowly: pairs there are
finished with the integral over :math:`\arccos\rho`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch

from wichan.observations.quantizer import Quantizer
from wichan.observations.quantizer_moments import Jumps, price_density, series_coefficients

_COARSE = 4  # bits; the series of finer quantisers is all that is needed
_FINE = 8  # bits; beyond them the distortion is below 3e-5 of the power, and the gain alone is enough
_TERMS = {False: 8, True: 28}
_LIMIT = 0.9  # of the correlation: the series cut off there errs by less than 1e-4 of the power
_NODES = 24
_PIECE = 1 << 14  # entries finished at once
_MAX_BYTES = 1 << 22  # of coefficients at once: they stay in the cache


class Bank(NamedTuple):
    """Converters of M measurements.

    Args:
        quantizers: distinct converters.
        which: index of each measurement's converter, int64 (M,).
    """

    quantizers: list[Quantizer]
    which: torch.Tensor

    def flags(self, values: list[bool]) -> torch.Tensor:
        """A property of the converters for each measurement, bool (M,)."""
        return torch.tensor(values, device=self.which.device)[self.which]

    @property
    def signs(self) -> torch.Tensor:
        """Which measurements are one-bit, bool (M,)."""
        return self.flags([q.num_bits == 1 for q in self.quantizers])

    @property
    def coarse(self) -> torch.Tensor:
        """Which measurements have few bits, bool (M,)."""
        return self.flags([q.num_bits <= _COARSE for q in self.quantizers])


def _coefficients(bank: Bank, variance: torch.Tensor, terms: int) -> torch.Tensor:
    """Hermite coefficients of all measurements, float64 (K, M, terms), for ``variance`` (K, M)."""
    a = variance.new_zeros(*variance.shape, terms)
    for index, quantizer in enumerate(bank.quantizers):
        of_it = bank.which == index
        if quantizer.is_identity:
            a[:, of_it, 0] = (variance[:, of_it] / 2).sqrt()
        else:
            alpha = (2 / variance[:, of_it]).sqrt()
            orders = terms if quantizer.num_bits <= _FINE else 1
            a[:, of_it, :orders] = series_coefficients(Jumps.of(quantizer, variance.device), alpha, orders)
    return a


def correlations(moment: torch.Tensor, variance: torch.Tensor, bank: Bank) -> torch.Tensor:
    """Correlations of pairs of measurements.

    Args:
        moment: g, float64 (K, 2, pairs): half of the real and of the imaginary part of E[r_i r_j^*], for i < j in the order of
            `torch.triu_indices`, in units of the converters' scales (one bit: labels of +-1/sqrt(2)).
        variance: E|y|^2 over the squared scale, float64 (K, M).
        bank: the converters.

    Returns:
        float64 (K, 2, pairs), in [-1, 1], within 1e-4.

    Cost: about 300 operations a pair and component; 100 4^B exponentials for pairs of few bits beyond 0.9.
    """
    signs = bank.signs
    i, j = torch.triu_indices(len(signs), len(signs), 1, device=variance.device)
    of_signs = torch.sin(math.pi * moment.clamp(-0.5, 0.5))
    if bool(signs.all()) or not len(i):
        return of_signs
    terms = _TERMS[bool(bank.coarse.any())]
    widest = max(len(i) * terms, len(signs) * max(q.thresholds.numel() for q in bank.quantizers))
    step = max(1, _MAX_BYTES // (8 * widest))
    both_signs = signs[i] & signs[j]
    finish = bank.coarse[i] & bank.coarse[j] & ~both_signs
    found = []
    for target, power in zip(moment.split(step), variance.split(step), strict=True):
        a = _coefficients(bank, power, terms)
        left, right = a[:, i], a[:, j]
        rho = _invert_series(target, (left * right).movedim(-1, 0).unsqueeze(2))
        for kind, at in _by_pair(bank, (rho.abs() > _LIMIT) & finish, i, j):
            product = left[at[0], at[2]] * right[at[0], at[2]]
            spread = (2 / power[at[0], i[at[2]]]).sqrt(), (2 / power[at[0], j[at[2]]]).sqrt()
            rho[at] = _finish(kind, rho[at], target[at], product, spread)
        found.append(rho)
    return torch.where(both_signs, of_signs, torch.cat(found))


def _invert_series(target: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """Root of the odd series with coefficients (terms, K, 1, pairs) for targets (K, 2, pairs)."""
    first = coefficients[0]
    rho = (target / first).clamp(-1, 1)
    orders = 2 * torch.arange(len(coefficients), dtype=target.dtype, device=target.device) + 1
    slopes = coefficients * orders[:, None, None, None]
    value, slope = torch.empty_like(rho), torch.empty_like(rho)
    for _ in range(6):
        x = rho.square()
        value.copy_(coefficients[-1].expand_as(rho))
        slope.copy_(slopes[-1].expand_as(rho))
        for n in range(len(coefficients) - 2, -1, -1):
            torch.addcmul(coefficients[n], value, x, out=value)
            torch.addcmul(slopes[n], slope, x, out=slope)
        # The true slope is positive; cut short, the series may lose that close to 1 for unequal variances.
        step = ((value * rho - target) / torch.maximum(slope, 0.25 * first)).clamp_(-0.2, 0.2)
        rho = (rho - step).clamp_(-1, 1)
        if float(step.abs().max()) < 1e-3:  # the next step would be its square
            break
    return rho


# -- Close to 1. --

_At = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # component, real or imaginary part, pair


def _by_pair(bank: Bank, near: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> list[tuple[tuple[Quantizer, Quantizer], _At]]:
    """Entries of a mask (K, 2, pairs) in pieces, by the two converters of the pair."""
    entries = near.nonzero()
    count = len(bank.quantizers)
    kinds = bank.which[i[entries[:, 2]]] * count + bank.which[j[entries[:, 2]]]
    found = []
    for kind in kinds.unique().tolist():
        converters = (bank.quantizers[kind // count], bank.quantizers[kind % count])
        for part in entries[kinds == kind].split(_PIECE):
            component, half, pair = part.unbind(1)
            found.append((converters, (component, half, pair)))
    return found


def _finish(
    converters: tuple[Quantizer, Quantizer],
    rho: torch.Tensor,
    target: torch.Tensor,
    product: torch.Tensor,
    spread: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Newton steps in t = arccos|rho| from the series' root: g = series(0.9) + the integral of the density from t.

    Args:
        converters: of the two measurements.
        rho, target: root so far, and g, (E,).
        product: coefficients of the series, (E, terms).
        spread: converters' scale over the standard deviation of a real part, for the two measurements, (E,) each.
    """
    rows, columns = (Jumps.of(q, rho.device) for q in converters)
    alpha, beta = spread
    odd = 2 * torch.arange(product.shape[-1], dtype=torch.float64, device=rho.device) + 1
    goal = target.abs() - product @ _LIMIT**odd
    end = math.acos(_LIMIT)
    x, w = _legendre(rho.device)
    t = torch.acos(rho.abs()).clamp_min(1e-4)
    for _ in range(3):
        # In log t, where the density is smooth however narrow it is.
        half = torch.log(end / t).unsqueeze(-1) / 2
        nodes = end * torch.exp(half * (x - 1))
        density = price_density(rows, columns, nodes, alpha.unsqueeze(-1), beta.unsqueeze(-1))
        value = (density * nodes) @ w * half.squeeze(-1)
        slope = price_density(rows, columns, t, alpha, beta).clamp_min(1e-3)
        t = (t + ((value - goal) / slope).clamp(-0.15, 0.15)).clamp(1e-4, end)
    return rho.sign() * torch.cos(t)


@lru_cache(maxsize=4)
def _legendre(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    return torch.from_numpy(nodes).to(device), torch.from_numpy(weights).to(device)
