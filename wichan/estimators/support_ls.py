"""Least squares on given supports of a Kronecker dictionary: one support a mode, or one of all coefficients together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch

from wichan.estimators.sbl_posterior import chunks, gather_columns, support_indices
from wichan.estimators.sparse import Solution
from wichan.linalg.kronecker import mode_product
from wichan.observations.dictionary import KroneckerDictionary

_RANK = 1e-10  # singular values below this, relative to the largest, count as zero


def double_factors(
    dictionary: KroneckerDictionary, y: torch.Tensor
) -> tuple[torch.dtype, list[torch.Tensor], list[torch.Tensor] | None]:
    """Double precision for ``y``: its dtype, and in it the factors (Mk, Nk) and those of the channel (None: it is x)."""
    double = torch.complex128 if y.is_complex() else torch.float64
    synthesis = dictionary.synthesis
    made = None if synthesis is None else [factor.to(double) for factor in synthesis]
    return double, [factor.to(double) for factor in dictionary.factors], made


class Fit(NamedTuple):
    """A least-squares fit.

    Args:
        coefficients: (B, N1..NI), 0 outside the support.
        variance: real, same shape, no diag((A_S^H A_S)^+).
        channel_variance: real (B, C1..CI), no diag(C_S (A_S^H A_S)^+ C_S^H); ``variance`` where there is no synthesis.
    """

    coefficients: torch.Tensor
    variance: torch.Tensor
    channel_variance: torch.Tensor

    def solution(self, dtype: torch.dtype, steps: torch.Tensor, converged: torch.Tensor) -> Solution:
        """What a solver returns, in the precision of ``dtype``."""
        x = self.coefficients.to(dtype)
        real = x.real.dtype
        return Solution(x, self.variance.to(real), self.channel_variance.to(real), None, steps, converged)


def thin_inverse(columns: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Factor the pseudo-inverse of each matrix as :math:`A^+ = W Q^H` with orthonormal columns Q.

    Then :math:`(A^H A)^+ = W W^H`. QR where the columns are independent; singular values, hence the solution of least norm,
    for the other instances.

    Args:
        columns: (B, m, k), zero where ``real`` is false; such columns stand last.
        real: bool (B, k).

    Returns:
        Q (B, m, r) and W (B, k, r), r = min(m, k); rows of W are 0 where ``real`` is false.
    """
    size = columns.shape[2]
    if size <= columns.shape[1]:
        basis, upper = torch.linalg.qr(columns)
        diagonal = upper.diagonal(dim1=1, dim2=2)
        lengths = torch.linalg.vector_norm(columns, dim=1)
        deficient = ((diagonal.abs() <= _RANK * lengths) & real).any(dim=1)
        # Columns of padding are zero in R: with 1 on the diagonal they solve for themselves and touch no other.
        upper = upper + torch.diag_embed(torch.where(real & ~deficient.unsqueeze(1), 0.0, 1.0 - diagonal))
        eye = torch.eye(size, dtype=upper.dtype, device=upper.device).expand_as(upper)
        root = torch.linalg.solve_triangular(upper, eye, upper=True) * (real.unsqueeze(2) & real.unsqueeze(1))
        if not bool(deficient.any()):
            return basis, root
    else:
        deficient = torch.ones(len(columns), dtype=torch.bool, device=columns.device)
        basis = columns.new_zeros(*columns.shape[:2], columns.shape[1])
        root = columns.new_zeros(len(columns), size, columns.shape[1])
    left, values, right = torch.linalg.svd(columns[deficient], full_matrices=False)
    kept = values > _RANK * values[:, :1]
    inverse = torch.where(kept, 1 / values.clamp_min(1e-300), torch.zeros_like(values))
    basis[deficient] = left
    root[deficient] = right.mH * inverse.unsqueeze(1)
    return basis, root


def fit_support(
    y: torch.Tensor,
    no: torch.Tensor,
    factors: Sequence[torch.Tensor],
    synthesis: Sequence[torch.Tensor] | None,
    index: torch.Tensor,
    real: torch.Tensor,
) -> Fit:
    r"""Least squares on a joint support of each instance.

    Args:
        y: (B, M1..MI), in the dtype of the factors.
        no: real (B,).
        factors, synthesis: (M_k, N_k) and (C_k, N_k).
        index: int64 (B, k), coefficients in row-major order, padded.
        real: bool (B, k), which are no padding; padding stands last.

    Cost: M k^2 and prod C_k k^2 multiply-adds an instance. Memory: M k, and the channel in chunks.
    """
    sizes = [factor.shape[1] for factor in factors]
    shape = (len(y), reduce(lambda a, b: a * b, sizes))
    columns = gather_columns(factors, index) * real.unsqueeze(1)
    if not index.shape[1]:
        nothing = y.new_zeros(shape).unflatten(1, sizes)
        heights = sizes if synthesis is None else [factor.shape[0] for factor in synthesis]
        return Fit(nothing, nothing.real.clone(), no.new_zeros(len(y), *heights))
    basis, root = thin_inverse(columns, real)
    small = (root @ (basis.mH @ y.flatten(1).unsqueeze(2))).squeeze(2)
    spread = no.unsqueeze(1) * root.abs().square().sum(dim=2)
    x = y.new_zeros(shape).scatter_add(1, index, small * real).unflatten(1, sizes)
    variance = no.new_zeros(shape).scatter_add(1, index, spread * real).unflatten(1, sizes)
    if synthesis is None:
        return Fit(x, variance, variance.clone())
    heights = [factor.shape[0] for factor in synthesis]
    made = no.new_zeros(len(y), *heights)
    bytes_each = 48.0 * len(y) * index.shape[1] * reduce(lambda a, b: a * b, heights[1:], 1)
    for rows in chunks(heights[0], bytes_each, y.device):
        power = (gather_columns(synthesis, index, rows) @ root).abs().square().sum(dim=2)
        made[:, rows] = (power * no.unsqueeze(1)).unflatten(1, (-1, *heights[1:]))
    return Fit(x, variance, made)


class ModeFit(NamedTuple):
    """One pseudo-inverse a mode.

    Args:
        inverses: (B, N_k, M_k), rows of 0 outside the support.
        projections: (B, M_k, M_k), onto the span of the chosen columns.
    """

    inverses: list[torch.Tensor]
    projections: list[torch.Tensor]


def invert_modes(factors: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> ModeFit:
    r"""Pseudo-inverses of the chosen columns of each factor; their Kronecker product is that of the joint support.

    Args:
        factors: (M_k, N_k).
        masks: bool (B, N_k).
    """
    inverses, projections = [], []
    for factor, mask in zip(factors, masks, strict=True):
        index, real = support_indices(mask)
        columns = gather_columns([factor], index) * real.unsqueeze(1)
        basis, root = thin_inverse(columns, real)
        inverse = root @ basis.mH
        wide = inverse.new_zeros(len(mask), factor.shape[1], factor.shape[0])
        inverses.append(wide.scatter_add_(1, index.unsqueeze(2).expand_as(inverse), inverse * real.unsqueeze(2)))
        projections.append(columns @ inverse)
    return ModeFit(inverses, projections)


def apply_modes(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply every axis but the first by a matrix (B, m_k, n_k), those that shrink it most first."""
    for k in sorted(range(len(matrices)), key=lambda k: matrices[k].shape[1] / matrices[k].shape[2]):
        x = mode_product(x, matrices[k], k + 1)
    return x


def fit_modes(
    y: torch.Tensor,
    no: torch.Tensor,
    factors: Sequence[torch.Tensor],
    synthesis: Sequence[torch.Tensor] | None,
    masks: Sequence[torch.Tensor],
) -> Fit:
    r"""Least squares on the product of one support a mode: one small pseudo-inverse each.

    Args:
        y, no, factors, synthesis: as in `fit_support`.
        masks: bool (B, N_k).

    Cost: sum M_k s_k^2 for s_k chosen columns, and the mode products.
    """
    found = invert_modes(factors, masks)
    x = apply_modes(y, found.inverses)
    powers = [inverse.abs().square().sum(dim=2) for inverse in found.inverses]
    variance = _outer(powers, no)
    if synthesis is None:
        return Fit(x, variance, variance.clone())
    made = [(matrix @ inverse).abs().square().sum(dim=2) for matrix, inverse in zip(synthesis, found.inverses, strict=True)]
    return Fit(x, variance, _outer(made, no))


def _outer(vectors: Sequence[torch.Tensor], no: torch.Tensor) -> torch.Tensor:
    """no times the outer product of (B, n_k) over k: (B, n1..nI)."""
    total = no
    for vector in vectors:
        total = total.unsqueeze(-1) * vector.reshape(len(vector), *[1] * (total.dim() - 1), -1)
    return total
