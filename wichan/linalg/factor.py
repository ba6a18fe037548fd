"""Thin factors G of positive semi-definite matrices: G G^H = A with as few columns as the rank needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_finite, check_real
from wichan.linalg._checks import broadcast_batch, check_matrix, check_square
from wichan.linalg.roots import check_psd, negative_tolerance
from wichan.linalg.solve import hermitian_part


def _double(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)


def _descending_spectrum(
    gram: torch.Tensor, rtol: float, tolerance: float, name: str
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Eigenvectors, square roots of the eigenvalues (0 where dropped), both by descending energy, and the largest rank."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    check_psd(eigenvalues, tolerance, name)
    eigenvalues, vectors = eigenvalues.flip(-1), vectors.flip(-1)
    # Below the rounding of the Gram matrix an eigenvalue is noise, and dividing by its root would make noise large.
    rtol = max(rtol, gram.shape[-1] * torch.finfo(eigenvalues.dtype).eps)
    kept = (eigenvalues > rtol * eigenvalues[..., :1]) & (eigenvalues > 0)
    root = torch.where(kept, eigenvalues, torch.zeros_like(eigenvalues)).sqrt()
    rank = int(kept.sum(-1).max()) if kept.numel() else 0
    return vectors, root, max(rank, 1)


class _ThinFactor(torch.autograd.Function):
    """G = V1 S. The derivative is taken in the gauge dG = V (K o V^H dA V1), K_ij = s_j / (s_i^2 + s_j^2).

    It obeys dG G^H + G dG^H = dA and needs no difference of eigenvalues, so it is finite where they coincide.
    """

    @staticmethod
    def forward(ctx: Any, matrix: torch.Tensor, vectors: torch.Tensor, root: torch.Tensor, rank: int) -> torch.Tensor:
        ctx.save_for_backward(vectors, root)
        ctx.rank = rank
        return vectors[..., :rank] * root[..., None, :rank]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        vectors, root = ctx.saved_tensors
        energy, column = root.square(), root[..., None, : ctx.rank]
        total = energy.unsqueeze(-1) + energy[..., None, : ctx.rank]
        gain = torch.where(column > 0, column / total, torch.zeros_like(total))
        inner = gain * (vectors.mH @ grads[0])
        return vectors @ inner @ vectors[..., : ctx.rank].mH, None, None, None


def thin_factor(matrix: torch.Tensor, rtol: float = 1e-7, *, name: str = "matrix") -> torch.Tensor:
    r"""Factor positive semi-definite matrices as :math:`A \approx G G^H` with orthogonal columns of descending energy.

    Eigenvalues at or below ``rtol`` times the largest are dropped. A batch is padded with zero columns to the largest rank;
    an all-zero matrix gives one zero column.

    Args:
        matrix: real or complex, (\*batch, n, n); only its Hermitian part counts.
        rtol: smallest eigenvalue to keep, relative to the largest of the same item.
        name: what the matrix is called in messages.

    Returns:
        G, complex128 whatever the input's dtype (factors of one covariance must fit together), (\*batch, n, r). Gradients
        are those of :math:`G G^H` and of the column energies; the free phases and rotations of the columns are not
        differentiated. The rank depends on values, so ``torch.compile`` breaks its graph here.

    Raises:
        NotPositiveDefiniteError: an eigenvalue below -1e-8 (double) or -1e-5 (single input) times the largest.
        InvalidValueError: NaN or infinity in ``matrix``.

    Cost: one double-precision eigendecomposition, about 9 n^3 multiply-adds an item.
    """
    rtol = check_real("rtol", rtol, minimum=0.0, maximum=1.0)
    hermitian = hermitian_part(_double(check_finite(name, check_square(name, matrix))))
    with torch.no_grad():
        vectors, root, rank = _descending_spectrum(hermitian.detach(), rtol, negative_tolerance(matrix.dtype), name)
    return _ThinFactor.apply(hermitian, vectors, root, rank).to(torch.complex128)


def compress_factor(factor: torch.Tensor, rtol: float = 1e-7, *, name: str = "factor") -> torch.Tensor:
    r"""Recompress a factor: :math:`G' G'^H \approx G G^H` with orthogonal columns, sorted, as few as ``rtol`` allows.

    :math:`G' = G W` with the leading right singular vectors W, found through the smaller of :math:`G^H G` and
    :math:`G G^H`; squaring is harmless here since ``rtol`` counts eigenvalues of :math:`G G^H` and arithmetic is double.

    Args:
        factor: G, real or complex, (\*batch, n, r), wide or tall.
        rtol: smallest eigenvalue of :math:`G G^H` to keep, relative to the largest of the same item.
        name: what the factor is called in messages.

    Returns:
        G', complex128, (\*batch, n, r') with r' <= min(n, r), zero columns where an item's rank is smaller. W counts as a
        constant in gradients, which leaves those of :math:`G' G'^H` and of the column energies exact.

    Raises:
        InvalidValueError: NaN or infinity in ``factor``.

    Cost: 2 n r min(n, r) multiply-adds and an eigendecomposition of size min(n, r) an item.
    """
    rtol = check_real("rtol", rtol, minimum=0.0, maximum=1.0)
    full = _double(check_finite(name, check_matrix(name, factor)))
    wide = full.shape[-1] > full.shape[-2]
    with torch.no_grad():
        detached = full.detach()
        gram = detached @ detached.mH if wide else detached.mH @ detached
        # A Gram matrix is positive semi-definite by construction, so any tolerance that covers rounding will do.
        vectors, root, rank = _descending_spectrum(hermitian_part(gram), rtol, 1e-8, name)
        leading, root = vectors[..., :rank], root[..., None, :rank]
        if wide:
            leading = detached.mH @ (leading * torch.where(root > 0, 1 / root, torch.zeros_like(root)))
        else:
            leading = leading * (root > 0)
    return (full @ leading).to(torch.complex128)


def concatenate_factors(factors: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Return the factor :math:`[G_1, G_2, \dots]` of the sum :math:`\sum_c G_c G_c^H`.

    Columns are neither sorted nor orthogonal afterwards: `compress_factor` does that.

    Args:
        factors: tensors (\*batch, n, r_c) with equal n, one precision and batches that broadcast.

    Returns:
        (\*batch, n, sum of r_c); complex if any factor is.

    Raises:
        ShapeError: unequal n or batches that do not broadcast.
        InvalidTypeError: mixed precisions.
    """
    if not isinstance(factors, (list, tuple)):
        raise InvalidTypeError(f"factors must be a list or tuple of tensors, got {type(factors).__name__}")
    if not factors:
        raise InvalidValueError("factors=[] must hold at least one factor")
    first = check_matrix("factors[0]", factors[0])
    batch, dtype = first.shape[:-2], first.dtype
    for index, factor in enumerate(factors[1:], start=1):
        name = f"factors[{index}]"
        check_matrix(name, factor)
        if factor.shape[-2] != first.shape[-2]:
            raise ShapeError(f"{name} has {factor.shape[-2]} rows but factors[0] has {first.shape[-2]}")
        if torch.finfo(factor.dtype).eps != torch.finfo(dtype).eps:
            raise InvalidTypeError(f"{name} has dtype {factor.dtype} but factors[0] has {first.dtype}; use one precision")
        batch = broadcast_batch("the factors before it", batch, name, factor.shape[:-2])
        dtype = torch.promote_types(dtype, factor.dtype)
    return torch.cat([factor.to(dtype).expand(*batch, *factor.shape[-2:]) for factor in factors], dim=-1)
