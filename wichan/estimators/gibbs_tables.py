"""What the chains of `CMEGibbs` need of each covariance at one noise variance, factorised once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from wichan.estimators.bounces import column_table
from wichan.estimators.bussgang_filters import floored_noise
from wichan.linalg import hermitian_cholesky, hermitian_part
from wichan.observations.quantized import QuantizedPilots
from wichan.observations.quantizer import Quantizer


class Tables(NamedTuple):
    """G Gaussian channels behind the same pilots; y stands for A h + n before the converters, all complex128 or float64.

    Args:
        noise: variance of n, (G,).
        matrix: A, (M, N).
        power: E|y_m|^2, (G, M).
        whitener: L^-1 of E[y y^H] = L L^H, (G, M, M).
        log_det: log |E[y y^H]|, (G,).
        weight: E[h | y] = weight y, (G, N, M).
        spread: S S^H = Cov[h | y], (G, N, N).
        error: its diagonal, (G, N).
        coarse: rows with converters, int64 (Q,).
        fine: rows without, int64 (M - Q,).
        mean: E[y_coarse | y_fine] = mean y_fine, (G, Q, M - Q).
        root: a factor of Cov[y_coarse | y_fine], (G, Q, Q).
        columns: that covariance for `wichan.estimators.bounces.travel`, (G, 2 Q, 2 Q).
    """

    noise: torch.Tensor
    matrix: torch.Tensor
    power: torch.Tensor
    whitener: torch.Tensor
    log_det: torch.Tensor
    weight: torch.Tensor
    spread: torch.Tensor
    error: torch.Tensor
    coarse: torch.Tensor
    fine: torch.Tensor
    mean: torch.Tensor
    root: torch.Tensor
    columns: torch.Tensor


def make_tables(obs: QuantizedPilots, covariance: torch.Tensor, no: torch.Tensor, floor: float) -> Tables:
    """Factorise covariances, complex128 (G, N, N), at noise variances, float64 (G,), which ``floor`` raises where needed."""
    matrix = obs.matrix().detach().to(covariance)
    cross = covariance @ matrix.mH
    seen = hermitian_part(matrix @ cross)
    noise = obs.noise_power(floored_noise(no, seen.diagonal(dim1=-2, dim2=-1).real, floor))
    unit = torch.eye(len(matrix), dtype=seen.dtype, device=seen.device)
    cov_y = seen + noise[:, None, None] * unit
    root = hermitian_cholesky(cov_y, name="covariance of the observation")
    inner = torch.linalg.solve_triangular(root, cross.mH, upper=False)
    rest = hermitian_part(covariance - inner.mH @ inner)
    fine = torch.tensor([bits == math.inf for bits in row_bits(obs)], device=seen.device)
    coarse, fine = (~fine).nonzero()[:, 0], fine.nonzero()[:, 0]
    mean, coarse_root, columns = _conditioned(cov_y, root, coarse, fine)
    return Tables(
        noise=noise,
        matrix=matrix,
        power=cov_y.diagonal(dim1=-2, dim2=-1).real,
        whitener=torch.linalg.solve_triangular(root, unit, upper=False),
        log_det=2 * root.diagonal(dim1=-2, dim2=-1).real.log().sum(dim=-1),
        weight=torch.linalg.solve_triangular(root.mH, inner, upper=True).mH,
        spread=_root_of_rest(rest),
        error=rest.diagonal(dim1=-2, dim2=-1).real.clamp_min(0),
        coarse=coarse,
        fine=fine,
        mean=mean,
        root=coarse_root,
        columns=columns,
    )


def row_bits(obs: QuantizedPilots) -> tuple[int | float, ...]:
    """Resolution of every measurement's converters."""
    return obs.num_bits if isinstance(obs.num_bits, tuple) else (obs.num_bits,) * obs.num_measurements


def cells(obs: QuantizedPilots, r: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of the cells that outputs stand for, rows without converters left out.

    Args:
        obs: the observation.
        r: complex, (T, M); what is no label counts for the cell that it lies in.
        no: float64, (T,).

    Returns:
        low and high, float64 (T, 2 Q), real and imaginary parts side by side; infinite in the outer cells.
    """
    bits = row_bits(obs)
    coarse = [m for m, value in enumerate(bits) if value != math.inf]
    parts = torch.view_as_real(r.resolve_conj()).double()
    scale = obs.scale(no)[:, None, None]
    low = torch.empty(len(r), len(coarse), 2, dtype=torch.float64, device=r.device)
    high = torch.empty_like(low)
    for value in sorted({bits[m] for m in coarse}):
        some = [i for i, m in enumerate(coarse) if bits[m] == value]
        thresholds = Quantizer(value, obs.kind).thresholds.to(r.device)
        edges = torch.nn.functional.pad(thresholds, (1, 1), value=math.inf)
        edges[0] = -math.inf
        index = torch.bucketize((parts[:, [coarse[i] for i in some]] / scale).contiguous(), thresholds, right=True)
        low[:, some], high[:, some] = edges[index] * scale, edges[index + 1] * scale
    return low.flatten(1), high.flatten(1)


def _conditioned(
    cov_y: torch.Tensor, root: torch.Tensor, coarse: torch.Tensor, fine: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y_coarse given y_fine: its mean as a matrix, a factor of its covariance, and that covariance as a table of columns."""
    if not len(fine):
        return cov_y.new_zeros(len(cov_y), len(coarse), 0), root, column_table(cov_y)
    if not len(coarse):
        empty = cov_y.new_zeros(len(cov_y), 0, 0)
        return cov_y.new_zeros(len(cov_y), 0, len(fine)), empty, empty.real
    known = hermitian_cholesky(cov_y[:, fine[:, None], fine], name="covariance of the observation")
    inner = torch.linalg.solve_triangular(known, cov_y[:, fine[:, None], coarse], upper=False)
    left = hermitian_part(cov_y[:, coarse[:, None], coarse] - inner.mH @ inner)
    mean = torch.linalg.solve_triangular(known.mH, inner, upper=True).mH
    return mean, hermitian_cholesky(left, name="covariance of the observation"), column_table(left)


def _root_of_rest(rest: torch.Tensor) -> torch.Tensor:
    """Root of Cov[h | y], a difference of like matrices: what rounding puts below zero counts as zero."""
    values, vectors = torch.linalg.eigh(rest)
    return vectors * values.clamp_min(0).sqrt()[:, None, :]
