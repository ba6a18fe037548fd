"""Square roots of Hermitian matrices, with gradients that stay finite where eigenvalues coincide."""

from __future__ import annotations

from typing import Any

import torch

from wichan.errors import NotPositiveDefiniteError, check_finite
from wichan.linalg._checks import check_square
from wichan.linalg.solve import hermitian_part


def negative_tolerance(dtype: torch.dtype) -> float:
    """How far below zero, relative to the largest, an eigenvalue may fall through rounding of the matrix entries."""
    return 1e-8 if torch.finfo(dtype).eps < 1e-12 else 1e-5


def check_psd(eigenvalues: torch.Tensor, tolerance: float, name: str) -> None:
    """Raise unless all eigenvalues are above -tolerance x the largest magnitude (skipped under ``torch.compile``)."""
    if torch.compiler.is_compiling() or not eigenvalues.numel():
        return
    scale = eigenvalues.abs().amax(-1)
    lowest = eigenvalues.amin(-1)
    failed = lowest < -tolerance * scale
    if bool(failed.any()):
        worst = float((lowest / scale)[failed].min())
        raise NotPositiveDefiniteError(
            f"{name}: {int(failed.sum())} of {failed.numel()} matrices have a negative eigenvalue, down to {worst:.1e} x the "
            f"largest; allowed is -{tolerance:.0e}"
        )


class _SpectralFunction(torch.autograd.Function):
    """f(A) = V f(w) V^H; dF = V (K o V^H dA V) V^H with the divided differences K (Daleckii and Krein 1965)."""

    @staticmethod
    def forward(
        ctx: Any, matrix: torch.Tensor, vectors: torch.Tensor, values: torch.Tensor, differences: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(vectors, differences)
        return (vectors * values.unsqueeze(-2)) @ vectors.mH

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple:
        vectors, differences = ctx.saved_tensors
        inner = differences * (vectors.mH @ grads[0] @ vectors)
        return vectors @ inner @ vectors.mH, None, None, None


def psd_sqrt(matrix: torch.Tensor, *, name: str = "matrix") -> torch.Tensor:
    r"""Return the Hermitian square root :math:`S = S^H \succeq 0` with :math:`S S = A` of positive semi-definite matrices.

    Args:
        matrix: real or complex, (\*batch, n, n); only its Hermitian part counts.
        name: what the matrix is called in messages.

    Returns:
        Same shape and dtype. Differentiable, also at equal eigenvalues; between two zero eigenvalues, where the
        derivative is infinite, the gradient is set to zero.

    Raises:
        NotPositiveDefiniteError: an eigenvalue below -1e-8 (double) or -1e-5 (single) times the largest.
        InvalidValueError: NaN or infinity in ``matrix``.

    Cost: one eigendecomposition, about 9 n^3 multiply-adds an item.
    """
    hermitian = hermitian_part(check_finite(name, check_square(name, matrix)))
    with torch.no_grad():
        eigenvalues, vectors = torch.linalg.eigh(hermitian.detach())
        check_psd(eigenvalues, negative_tolerance(matrix.dtype), name)
        root = eigenvalues.clamp_min(0).sqrt()
        # (sqrt(a) - sqrt(b)) / (a - b) = 1 / (sqrt(a) + sqrt(b)): no difference of close numbers is ever formed.
        total = root.unsqueeze(-1) + root.unsqueeze(-2)
        differences = torch.where(total > 0, 1 / total, torch.zeros_like(total))
    return _SpectralFunction.apply(hermitian, vectors, root, differences)


def hermitian_inverse_sqrt(matrix: torch.Tensor, *, name: str = "matrix") -> torch.Tensor:
    r"""Return the Hermitian inverse square root :math:`A^{-1/2}` of positive-definite matrices (the whitening matrix).

    Args:
        matrix: real or complex, (\*batch, n, n); only its Hermitian part counts.
        name: what the matrix is called in messages.

    Returns:
        Same shape and dtype. Differentiable, also at equal eigenvalues.

    Raises:
        NotPositiveDefiniteError: an eigenvalue that is not above n x rounding x the largest.
        InvalidValueError: NaN or infinity in ``matrix``.

    Cost: one eigendecomposition, about 9 n^3 multiply-adds an item.
    """
    hermitian = hermitian_part(check_finite(name, check_square(name, matrix)))
    with torch.no_grad():
        eigenvalues, vectors = torch.linalg.eigh(hermitian.detach())
        floor = matrix.shape[-1] * torch.finfo(matrix.dtype).eps * eigenvalues.abs().amax(-1)
        if not torch.compiler.is_compiling():
            failed = eigenvalues.amin(-1) <= floor
            if bool(failed.any()):
                raise NotPositiveDefiniteError(
                    f"{name}: {int(failed.sum())} of {failed.numel()} matrices are not positive definite to rounding; "
                    "an inverse square root needs eigenvalues above 0"
                )
        root = torch.maximum(eigenvalues, floor.unsqueeze(-1)).sqrt()
        row, column = root.unsqueeze(-1), root.unsqueeze(-2)
        differences = -1 / (row * column * (row + column))
    return _SpectralFunction.apply(hermitian, vectors, 1 / root, differences)
