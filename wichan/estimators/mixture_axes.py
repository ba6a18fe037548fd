r"""Eigenmodes of many covariances along one axis, in coordinates that the covariances share.

A component has the covariance :math:`A A^H` along an axis and is seen at some of its positions, :math:`A_p`. With
:math:`A_p = U \Sigma E^H` and :math:`V = A E`, the pilots see the modes :math:`U` with energies
:math:`\lambda = \Sigma^2`; the best estimate from a mode is :math:`V \Sigma` times its weight, and :math:`|V|^2` is the
prior energy behind it. U is a full unitary basis, so that noise outside a component is summed, never subtracted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import qr

from wichan.channels.covariance_factor import squared
from wichan.errors import InvalidValueError, ShapeError
from wichan.linalg import compress_factor

_SPAN = 1e-11  # singular values of stacked factors below this share of the largest are left out
_PRODUCTS = 1e-13  # likewise of products of two functions, each weighted by its own singular value


class AxisModes(NamedTuple):
    """Modes of C covariances, by descending energy.

    Args:
        lam: float64 (C, m), what the pilots see of a mode; zero where the rank is smaller.
        see: complex128 (C, m, m), unitary: pilots to modes is its conjugate transpose.
        modes: complex128 (C, n, r), V; the first min(m, r) belong to ``lam``, the others are not seen.
    """

    lam: torch.Tensor
    see: torch.Tensor
    modes: torch.Tensor

    def cross(self) -> torch.Tensor:
        r"""Return :math:`V \Sigma`, (C, n, m): from weighted modes at the pilots to the axis."""
        return pad_last(self.modes[..., : self.lam.shape[-1]], self.lam.shape[-1]) * self.lam.sqrt().unsqueeze(-2)


def stack_factors(name: str, factors: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Return thin factors of one height as complex128 (C, n, r), padded with zero columns and no wider than high."""
    parts = [factor.detach().to(torch.complex128).resolve_conj() for factor in factors]
    if not parts or any(part.dim() != 2 or 0 in part.shape for part in parts):
        raise ShapeError(f"{name} must hold at least one matrix (n, r), no axis empty")
    if len({part.shape[0] for part in parts}) > 1:
        raise ShapeError(f"{name} has heights {sorted({part.shape[0] for part in parts})}; all must be equal")
    width = max(part.shape[1] for part in parts)
    stacked = torch.stack([pad_last(part, width) for part in parts])
    if not bool(torch.isfinite(torch.view_as_real(stacked)).all()):
        raise InvalidValueError(f"{name} holds NaN or infinity")
    return stacked if width <= stacked.shape[-2] else compress_factor(stacked, 0.0)


def pad_last(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return ``x`` with zeros behind its last axis up to ``size``."""
    return x if x.shape[-1] >= size else torch.cat([x, x.new_zeros(*x.shape[:-1], size - x.shape[-1])], dim=-1)


def axis_modes(factor: torch.Tensor, seen: torch.Tensor) -> AxisModes:
    """Return the modes of factors (C, n, r) that are seen as (C, m, r)."""
    see, sigma, right = torch.linalg.svd(seen, full_matrices=True)
    lam = pad_last(sigma.square(), seen.shape[-2])
    return AxisModes(lam, see.contiguous(), (factor @ right.mH).contiguous())


def split_energy(modes: torch.Tensor, seen: int) -> torch.Tensor:
    """Return |V|^2 of the first ``seen`` modes, and behind them the sum over all others, (C, n, seen + 1)."""
    energy = squared(modes)
    return torch.cat([pad_last(energy[..., :seen], seen), energy[..., seen:].sum(-1, keepdim=True)], dim=-1)


def common_span(factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an orthonormal basis (n, R) of all columns of factors (C, n, r), each factor scaled to energy 1, and its weights.

    The weights (R,) are singular values relative to the largest: how much of a direction any factor holds.
    """
    energy = torch.linalg.vector_norm(factor, dim=(-2, -1), keepdim=True)
    columns = (factor / torch.where(energy > 0, energy, torch.ones_like(energy))).movedim(0, -2).flatten(1)
    return _column_space(columns, _SPAN)


def _column_space(columns: torch.Tensor, rtol: float) -> tuple[torch.Tensor, torch.Tensor]:
    if columns.shape[1] > columns.shape[0]:
        columns = torch.linalg.qr(columns.mH, mode="r").R.mH  # the same column space and singular values, but square
    left, sigma, _ = torch.linalg.svd(columns, full_matrices=False)
    rank = max(1, int((sigma > rtol * sigma[0]).sum()))
    return left[:, :rank].contiguous(), sigma[:rank] / sigma[0]


def sampling(basis: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return points at which squared magnitudes are known everywhere, and the matrix that spreads them.

    A function :math:`\sum_k c_k q_k(f)` in the span of ``basis`` (F, R) has a squared magnitude in the span of the products
    :math:`q_k q_l^*`, of dimension near 2 R. Pivoted QR picks as many points J that determine it, well conditioned.

    Args:
        basis: complex128 (F, R), orthonormal.
        weights: float64 (R,), how large a coefficient can be relative to the first.

    Returns:
        int64 (J,) ascending, float64 (F, J). Where little is gained, all points and the identity.
    """
    scaled = basis * weights
    products = (scaled[:, :, None] * scaled[:, None, :].conj()).flatten(1)
    span, _ = _column_space(torch.cat([products.real, products.imag], dim=1), _PRODUCTS)
    size, rank = span.shape
    if rank > 0.75 * size:
        return torch.arange(size, device=basis.device), torch.eye(size, dtype=torch.float64, device=basis.device)
    _, pivots = qr(span.T.cpu().numpy(), mode="r", pivoting=True)
    points = torch.from_numpy(np.sort(pivots[:rank]).astype(np.int64)).to(basis.device)
    return points, torch.linalg.solve(span[points], span, left=False)


def real_form(matrix: torch.Tensor) -> torch.Tensor:
    r"""Return :math:`\begin{pmatrix} \Re M & -\Im M \\ \Im M & \Re M \end{pmatrix}`: M for real parts above imaginary ones."""
    return torch.cat([torch.cat([matrix.real, -matrix.imag], -1), torch.cat([matrix.imag, matrix.real], -1)], -2)
