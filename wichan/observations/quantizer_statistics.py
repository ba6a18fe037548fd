"""Second-order statistics of a quantised circular Gaussian: Bussgang gain, output power, arcsine law, exact covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.errors import check_finite, check_tensor
from wichan.observations.quantizer import Quantizer
from wichan.observations.quantizer_moments import Jumps, PairMoment, table_pays

# Under autograd a correlation is kept this far from 1, where the slope of arcsin is infinite.
CORRELATION_MARGIN = 1e-7
_MAX_GROUPS = 8


def arcsine_law(correlation: torch.Tensor) -> torch.Tensor:
    r"""Covariance of one-bit samples from the correlation of the samples before.

    .. math:: C_r = \tfrac2\pi\left(\arcsin\operatorname{Re} X + j\arcsin\operatorname{Im} X\right)

    elementwise on two real matrices (the arcsine of a complex number is another function).

    Args:
        correlation: complex, any shape, real and imaginary parts in [-1, 1] (what rounding left beyond is clamped).

    Returns:
        complex as ``correlation``. Where a gradient is asked for, parts are kept 1e-7 away from 1, the slope's pole.

    Raises:
        InvalidTypeError, InvalidValueError: a real tensor, NaN.

    Source: [VanVleck1966]_.

    Example:
        >>> arcsine_law(torch.tensor([0.5, 0.5j])).mul(3)
        tensor([1.+0.j, 0.+1.j])
    """
    check_finite("correlation", check_tensor("correlation", correlation, kind="complex"))
    return _arcsine(correlation)


def _arcsine(correlation: torch.Tensor) -> torch.Tensor:
    parts = torch.view_as_real(correlation.resolve_conj())
    return torch.view_as_complex((2 / math.pi) * torch.asin(_inside(parts)))


def _inside(rho: torch.Tensor) -> torch.Tensor:
    """Real correlations clamped to [-1, 1], or a little inside of it where a gradient is asked for."""
    limit = 1.0 - CORRELATION_MARGIN if rho.requires_grad else 1.0
    return rho.clamp(-limit, limit)


def bussgang_gain(quantizer: Quantizer, variance: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    r"""Gain b of the decomposition r = b y + q with E[q y*] = 0, for circular Gaussian y of variance c.

    .. math:: b = \frac1{\sqrt{\pi c}}\sum_a J_a\, e^{-\tau_a^2/c}

    over thresholds and the jumps of the label there. ``variance`` and ``scale`` (of a real part, see `Quantizer`) broadcast.
    Cost: 2^(B-1) exponentials an element. Source: [Bussgang1952]_.
    """
    if quantizer.is_identity:
        return torch.ones_like(variance * scale)
    z = scale * variance.rsqrt()
    half = Jumps.of(quantizer, variance.device)
    total = torch.full_like(z, half.zero)
    for tau, jump in zip(half.thresholds.tolist(), half.jumps.tolist(), strict=True):
        total = total + 2 * jump * torch.exp(-(tau * z).square())
    unit = variance.rsqrt() if quantizer.num_bits == 1 else z  # labels of one bit do not follow the scale
    return total * unit / math.sqrt(math.pi)


def output_power(quantizer: Quantizer, variance: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    r"""E|r|^2 of circular Gaussian y: :math:`2\sum_i \ell_i^2 P_i` over the cells, summed by the jumps of :math:`\ell^2`."""
    if quantizer.is_identity:
        return variance.expand(torch.broadcast_shapes(variance.shape, scale.shape))
    z = scale * variance.rsqrt()
    if quantizer.num_bits == 1:
        return torch.ones_like(z)
    half = Jumps.of(quantizer, variance.device)
    labels = (half.zero / 2 + torch.cat([half.jumps.new_zeros(1), half.jumps.cumsum(0)])).square()
    total = torch.full_like(z, float(labels[0]))
    for tau, jump in zip(half.thresholds.tolist(), labels.diff().tolist(), strict=True):
        total = total + jump * torch.erfc(tau * z)
    return 2 * scale.square() * total


def exact_covariance(
    quantizers: Sequence[Quantizer],
    rows: Sequence[torch.Tensor],
    cov: torch.Tensor,
    variance: torch.Tensor,
    scale: torch.Tensor,
    gain: torch.Tensor,
    tolerance: float = 1e-10,
) -> torch.Tensor:
    r"""Off-diagonal part of the covariance of r (the diagonal is left at 0), within 1e-9 of the power.

    Real and imaginary parts are :math:`2 g(\operatorname{Re} X_{ij})` and :math:`2 g(\operatorname{Im} X_{ij})` with the
    moments g of `wichan.observations.quantizer_moments`; between one-bit converters that is the arcsine law, and with one
    of infinite resolution :math:`b_i C_{ij} b_j`.

    Args:
        quantizers: the kinds of converter in use.
        rows: int64, for each of them the measurements that it serves.
        cov: complex128, (K, M, M), before the converters.
        variance: float64, (K, M), its diagonal, greater than 0.
        scale: float64, (K,), of a real part.
        gain: float64, (K, M), Bussgang gains.
        tolerance: relative difference up to which variances count as equal.

    Returns:
        complex128, (K, M, M).
    """
    root = variance.sqrt()
    x = cov / (root[:, :, None] * root[:, None, :])
    x = x.diagonal_scatter(torch.zeros_like(x[..., 0]), dim1=-2, dim2=-1)
    # Thresholds in standard deviations of a real part, sqrt(c / 2).
    alpha = scale[:, None] * (2 / variance).sqrt()
    groups = _groups(quantizers, rows, x, alpha, tolerance)
    if len(groups) == 1:
        return _block(quantizers, groups[0], groups[0], x, alpha, gain * root, scale)
    out = torch.zeros_like(x)
    for position, left in enumerate(groups):
        for right in groups[position:]:
            entries = x[:, left.rows[:, None], right.rows]
            block = _block(quantizers, left, right, entries, alpha, gain * root, scale)
            out[:, left.rows[:, None], right.rows] = block
            if left is not right:
                out[:, right.rows[:, None], left.rows] = block.mH
    return out


class _Group(NamedTuple):
    """Measurements with the same converter, and whether they have one variance in every item as well."""

    kind: int
    rows: torch.Tensor
    common: bool


def _groups(
    quantizers: Sequence[Quantizer], rows: Sequence[torch.Tensor], x: torch.Tensor, alpha: torch.Tensor, tolerance: float
) -> list[_Group]:
    """Measurements by converter and, where a table for each pair of groups is cheaper than the series, by variance."""
    found: list[_Group] = []
    level = alpha.detach()
    for kind, quantizer in enumerate(quantizers):
        members = left = rows[kind].to(alpha.device)
        parts: list[torch.Tensor] = []
        while left.numel() and not (quantizer.is_identity or quantizer.num_bits == 1) and len(parts) < _MAX_GROUPS:
            first = level[:, left[:1]]
            same = ((level[:, left] - first).abs() <= tolerance * first).all(0)
            parts.append(left[same])
            left = left[~same]
        if not left.numel() and parts:
            half = Jumps.of(quantizer, alpha.device)
            entries = 2 * members.numel() ** 2 * len(x)
            distinct = len(torch.unique(level[:, [int(p[0]) for p in parts]], dim=0))
            tables = distinct * len(parts) * (len(parts) + 1) // 2
            if len(parts) == 1 or table_pays(half, half, x, entries, tables):
                found.extend(_Group(kind, part, True) for part in parts)
                continue
        found.append(_Group(kind, members, False))
    return found


def _block(
    quantizers: Sequence[Quantizer],
    left: _Group,
    right: _Group,
    x: torch.Tensor,
    alpha: torch.Tensor,
    unit: torch.Tensor,
    scale: torch.Tensor,
) -> torch.Tensor:
    """Covariance (K, R, C) between two groups with correlations ``x``; ``unit`` is b times the standard deviation."""
    pair = quantizers[left.kind], quantizers[right.kind]
    if pair[0].is_identity or pair[1].is_identity:
        return unit[:, left.rows, None] * x * unit[:, None, right.rows]
    if pair[0].num_bits == 1 and pair[1].num_bits == 1:
        return _arcsine(x)
    rho = _inside(torch.stack([x.real, x.imag], dim=1))
    halves = Jumps.of(pair[0], x.device), Jumps.of(pair[1], x.device)
    common = left.common and right.common
    moment = PairMoment.apply(rho, alpha[:, left.rows], alpha[:, right.rows], *halves, common)
    factor = 2 * torch.ones_like(scale)
    for quantizer in pair:  # labels of one bit do not follow the scale
        factor = factor if quantizer.num_bits == 1 else factor * scale
    return factor[:, None, None] * torch.complex(moment[:, 0], moment[:, 1])
