r"""Bussgang's linear filter of a Gaussian channel behind coarse converters.

For y Gaussian the converters' output is r = B y + q with a diagonal B and E[q y^H] = 0 [Bussgang1952]_, so that

.. math:: W = C A^H B\, C_r^{-1}, \qquad E|h - W r|^2 = \mathrm{diag}(C - W B A C)

is the linear filter of least error [Li2017]_. Everything here is complex128, over any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_tensor
from wichan.linalg import hermitian_cholesky, hermitian_part
from wichan.observations.quantized import QuantizedPilots

METHODS = ("exact", "white", "scaled")
NO_FLOOR = 1e-12  # smallest noise variance, relative to the largest power at a converter
_CHUNK_BYTES = 2**26  # what the matrices of one chunk of filters may take


class Moments(NamedTuple):
    """Second moments of channels and converters.

    Args:
        power: E|h_n|^2, real (..., N).
        cross: E[h r^H] = C A^H B, (..., N, M).
        output: E[r r^H], (..., M, M), by the method that was asked for.
        cov_y: covariance at the converters, (..., M, M).
        no: noise variance after the floor, real (...,).
    """

    power: torch.Tensor
    cross: torch.Tensor
    output: torch.Tensor
    cov_y: torch.Tensor
    no: torch.Tensor


class Filter(NamedTuple):
    """A factorised filter.

    Args:
        root: L with C_r = L L^H, (..., M, M).
        inner: L^-1 (C A^H B)^H, (..., M, N); the filter is its adjoint times L^-1.
        error: E|h - W r|^2, real (..., N), under the exact moments.
    """

    root: torch.Tensor
    inner: torch.Tensor
    error: torch.Tensor

    def weight(self) -> torch.Tensor:
        """W, (..., N, M)."""
        return torch.linalg.solve_triangular(self.root.mH, self.inner, upper=True).mH

    def log_det(self) -> torch.Tensor:
        """log |C_r|, real (...,)."""
        return 2 * self.root.diagonal(dim1=-2, dim2=-1).real.log().sum(-1)

    def whitener(self) -> torch.Tensor:
        """L^-1, (..., M, M)."""
        unit = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        return torch.linalg.solve_triangular(self.root, unit, upper=False)


def check_pilots(obs: Any) -> QuantizedPilots:
    """Return ``obs`` if it is an observation that these filters are for."""
    if not isinstance(obs, QuantizedPilots):
        raise InvalidTypeError(f"obs must be QuantizedPilots, got {type(obs).__name__}")
    return obs


def check_covariance(field: str, covariance: Any, size: int) -> torch.Tensor:
    """Return Hermitian covariances of positive power, complex128 (..., N, N)."""
    check_finite(field, check_tensor(field, covariance))
    if not (covariance.is_complex() or covariance.is_floating_point()):
        raise InvalidTypeError(f"{field} has dtype {covariance.dtype}; allowed are real and complex tensors")
    if covariance.dim() < 2 or tuple(covariance.shape[-2:]) != (size, size):
        raise ShapeError(f"{field} has shape {tuple(covariance.shape)}; the last axes must be ({size}, {size})")
    matrix = covariance.detach().to(torch.complex128)
    if torch.compiler.is_compiling() or not matrix.numel():
        return matrix
    power = matrix.diagonal(dim1=-2, dim2=-1).real
    largest = power.amax(-1)
    slack = 1e-4 if covariance.dtype in (torch.float32, torch.complex64) else 1e-8
    if float(power.min()) < 0 or float(largest.min()) <= 0:
        raise InvalidValueError(f"{field} has a variance of {float(power.min()):g}; variances must not be negative, nor all 0")
    skew = (matrix - matrix.mH).abs().amax((-2, -1))
    if bool((skew > slack * largest).any()):
        raise InvalidValueError(f"{field} is not Hermitian: it differs from its adjoint by up to {float(skew.max()):.2g}")
    return hermitian_part(matrix)


def floored_noise(no: Any, seen: torch.Tensor, floor: float) -> torch.Tensor:
    """Noise variance, at least ``floor`` times the largest power that converters see of channels, real (...,).

    Args:
        no: a number or real (...,).
        seen: noiseless power at the converters, real (..., M).
        floor: relative.
    """
    smallest = (floor * seen.amax(-1)).clamp_min(1e-300)
    return torch.maximum(torch.as_tensor(no, dtype=smallest.dtype, device=smallest.device), smallest)


def moments(obs: QuantizedPilots, covariance: torch.Tensor, no: Any, method: str, floor: float) -> Moments:
    """Second moments for covariances, complex128 (..., N, N), at noise variances, a number or (...,)."""
    matrix = obs.matrix().detach().to(covariance.device, torch.complex128)
    cross = covariance if obs.is_identity else covariance @ matrix.mH
    seen = hermitian_part(cross if obs.is_identity else matrix @ cross)
    level = floored_noise(no, seen.diagonal(dim1=-2, dim2=-1).real, floor)
    noise = obs.noise_power(level)[..., None].expand(*level.shape, seen.shape[-1])
    cov_y = seen + torch.diag_embed(noise).to(seen.dtype)
    gain = obs.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, level)
    power = covariance.diagonal(dim1=-2, dim2=-1).real
    return Moments(power, cross * gain.unsqueeze(-2), obs.output_covariance(cov_y, level, method), cov_y, level)


def bussgang_filter(obs: QuantizedPilots, covariance: torch.Tensor, no: Any, method: str, floor: float) -> Filter:
    """Factorise the filters for covariances, complex128 (..., N, N), at noise variances, a number or (...,)."""
    found = moments(obs, covariance, no, method, floor)
    root = hermitian_cholesky(found.output, name="covariance of the observation")
    inner = torch.linalg.solve_triangular(root, found.cross.mH, upper=False)
    result = Filter(root, inner, (found.power - squared(inner).sum(-2)).clamp_min(0))
    if method == "exact" or obs.is_linear:
        return result
    exact = obs.output_covariance(found.cov_y, found.no, "exact")
    return result._replace(error=true_error(result.weight(), found, exact))


def true_error(weight: torch.Tensor, found: Moments, exact: torch.Tensor) -> torch.Tensor:
    """E|h - W r|^2 of any W (..., N, M) under the exact C_r: approximate ones make filters, but predict no errors."""
    loss = squared_product(weight, exact) - 2 * (weight * found.cross.conj()).real.sum(-1)
    return (found.power + loss).clamp_min(0)


def squared_product(weight: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """diag(W C W^H) for Hermitian C."""
    return ((weight @ matrix) * weight.conj()).real.sum(-1)


def squared(x: torch.Tensor) -> torch.Tensor:
    """|x|^2 of complex numbers without the root."""
    return torch.view_as_real(x.resolve_conj()).square().sum(-1)


def chunks(count: int, obs: QuantizedPilots) -> Iterator[slice]:
    """Slices of so many filters whose matrices fit into 64 MiB, about eight of them a filter."""
    m, n = obs.num_measurements, math.prod(obs.channel_shape)
    step = max(1, _CHUNK_BYTES // (16 * (4 * m * m + 2 * m * n + 2 * n * n)))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
