"""Kronecker products: dense, column-wise (Khatri-Rao), and as an operator that is never formed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_int
from wichan.linalg._checks import as_columns, broadcast_batch, check_matrix, check_numeric, check_same_precision
from wichan.linalg.operators import LinearOperator
from wichan.linalg.solve import hermitian_part, hermitian_solve


def _check_factors(factors: Sequence[torch.Tensor], field: str) -> tuple[torch.Size, torch.dtype]:
    """Return the broadcast batch shape and the common dtype of a list of matrices."""
    if isinstance(factors, torch.Tensor) or not isinstance(factors, Sequence):
        raise InvalidTypeError(f"{field} must be a list or tuple of tensors, got {type(factors).__name__}")
    if not factors:
        raise InvalidValueError(f"{field}=[] must hold at least one matrix")
    batch, dtype = check_matrix(f"{field}[0]", factors[0]).shape[:-2], factors[0].dtype
    for index, factor in enumerate(factors[1:], start=1):
        name = f"{field}[{index}]"
        batch = broadcast_batch("the matrices before it", batch, name, check_matrix(name, factor).shape[:-2])
        dtype = check_same_precision(f"{field}[0]", dtype, name, factor.dtype)
    return batch, dtype


def _kron_pair(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    product = a[..., :, None, :, None] * b[..., None, :, None, :]
    return product.flatten(-4, -3).flatten(-2, -1)


def _kron_vectors(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.unsqueeze(-1) * b.unsqueeze(-2)).flatten(-2)


def kron(*matrices: torch.Tensor) -> torch.Tensor:
    r"""Return the dense Kronecker product :math:`A_1 \otimes A_2 \otimes \dots` over the last two axes.

    Args:
        matrices: tensors (\*batch, m_i, n_i), one precision, batches that broadcast.

    Returns:
        (\*batch, prod m_i, prod n_i).

    Raises:
        ShapeError: not matrices, or batches that do not broadcast.
        InvalidTypeError: mixed precisions.
    """
    _check_factors(matrices, "matrices")
    return reduce(_kron_pair, matrices)


def khatri_rao(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    r"""Return the column-wise Kronecker product, column k being :math:`a_k \otimes b_k`.

    Args:
        a: (\*batch, m, k).
        b: (\*batch, n, k), same precision, batch that broadcasts.

    Returns:
        (\*batch, m n, k).

    Raises:
        ShapeError: unequal numbers of columns, or batches that do not broadcast.
        InvalidTypeError: mixed precisions.
    """
    _check_factors([a, b], "matrices")
    if a.shape[-1] != b.shape[-1]:
        raise ShapeError(f"b has {b.shape[-1]} columns but a has {a.shape[-1]}; a Khatri-Rao product needs as many")
    return (a.unsqueeze(-2) * b.unsqueeze(-3)).flatten(-3, -2)


def mode_product(x: torch.Tensor, matrix: torch.Tensor, dim: int) -> torch.Tensor:
    r"""Multiply one axis of a tensor by a matrix: :math:`y_{\dots i \dots} = \sum_j M_{ij}\, x_{\dots j \dots}`.

    Args:
        x: tensor with size n along ``dim``.
        matrix: (m, n), or (\*batch, m, n) whose batch axes are the first axes of ``x`` (equal sizes, or 1 in either).
        dim: the axis of ``x``; not one of the batch axes.

    Returns:
        ``x`` with size m along ``dim``.

    Raises:
        ShapeError: shapes that do not fit, or ``dim`` among the batch axes.
        InvalidTypeError: single precision meets double.

    Cost: m multiply-adds an element of ``x``.
    """
    check_matrix("matrix", matrix)
    check_numeric("x", x, min_dim=1)
    dtype = check_same_precision("matrix", matrix.dtype, "x", x.dtype)
    axis = check_int("dim", dim, minimum=-x.dim(), maximum=x.dim() - 1) % x.dim()
    lead = matrix.dim() - 2
    if axis < lead:
        raise ShapeError(f"dim={dim} is one of the {lead} batch axes that matrix {tuple(matrix.shape)} shares with x")
    if x.shape[axis] != matrix.shape[-1]:
        raise ShapeError(f"x has size {x.shape[axis]} along dim={dim} but matrix has {matrix.shape[-1]} columns")
    batch = broadcast_batch("x", x.shape[:lead], "matrix", matrix.shape[:-2])
    before, after = x.shape[lead:axis], x.shape[axis + 1 :]
    folded = x.reshape(*x.shape[:lead], math.prod(before), matrix.shape[-1], math.prod(after)).to(dtype)
    wide = matrix.to(dtype).unsqueeze(-3)
    # One GEMM with the shared axis last beats many narrow ones where nothing follows the axis.
    result = (folded.squeeze(-1) @ wide.squeeze(-3).mT) if not after else (wide @ folded)
    return result.reshape(*batch, *before, matrix.shape[-2], *after)


class KroneckerEigh(NamedTuple):
    r"""Eigendecomposition :math:`U\,\mathrm{diag}(w)\,U^H` of a Hermitian Kronecker product.

    Attributes:
        eigenvalues: real, (\*batch, N), in Kronecker order (not sorted).
        eigenvectors: U as an operator; its column i belongs to eigenvalue i.
    """

    eigenvalues: torch.Tensor
    eigenvectors: KroneckerOperator


class KroneckerOperator(LinearOperator):
    r"""The Kronecker product :math:`A_1 \otimes \dots \otimes A_d`, kept as its factors.

    Args:
        factors: tensors (\*batch, m_i, n_i), square or not, one precision, batches that broadcast.

    Raises:
        ShapeError: not matrices, or batches that do not broadcast.
        InvalidTypeError: mixed precisions.

    Cost: a product with k columns takes k N sum(m_i) multiply-adds where m_i = n_i, instead of k N^2.
    """

    def __init__(self, factors: Sequence[torch.Tensor]) -> None:
        batch, dtype = _check_factors(factors, "factors")
        self.factors = tuple(factor.to(dtype) for factor in factors)
        rows = math.prod([factor.shape[-2] for factor in self.factors])
        columns = math.prod([factor.shape[-1] for factor in self.factors])
        self._shape = torch.Size((*batch, rows, columns))

    @property
    def shape(self) -> torch.Size:
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        return self.factors[0].dtype

    @property
    def device(self) -> torch.device:
        return self.factors[0].device

    def _sweep(self, x: torch.Tensor, apply: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Apply something to every mode, last first.

        The axis at the end is worked on and comes out in front, so after all modes the order is back and no step copies:
        axes (k, 1..d) -> (d, k, 1..d-1) -> ... -> (1..d, k).
        """
        state = x.to(torch.promote_types(self.dtype, x.dtype)).mT
        for index in reversed(range(len(self.factors))):
            size = self.factors[index].shape[-1]
            state = apply(index, state.reshape(*state.shape[:-2], -1, size).mT)
        return state.reshape(*state.shape[:-2], -1, x.shape[-1])

    def _matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self._sweep(x, lambda index, state: self.factors[index].to(state.dtype) @ state)

    def solve(self, rhs: torch.Tensor, *, positive_definite: bool = False) -> torch.Tensor:
        r"""Solve :math:`(A_1 \otimes \dots \otimes A_d) X = B` factor by factor.

        Args:
            rhs: (\*batch, N, k) with a batch that broadcasts, or one vector (N,).
            positive_definite: the factors are Hermitian positive definite: Cholesky with jitter instead of LU.

        Returns:
            (\*batch, N, k), or (\*batch, N) for one vector.

        Raises:
            InvalidValueError: a singular factor.
            NotPositiveDefiniteError: with ``positive_definite``, a factor that is not.
            ShapeError: factors that are not square, or shapes that do not fit.
        """
        self._require_square_factors("solve")
        columns, vector = as_columns(rhs, self.shape[-2], "rhs")
        check_same_precision("the operator", self.dtype, "rhs", rhs.dtype)
        broadcast_batch("the operator", self.batch_shape, "rhs", columns.shape[:-2])

        def apply(index: int, state: torch.Tensor) -> torch.Tensor:
            factor, name = self.factors[index], f"factors[{index}]"
            if positive_definite:
                return hermitian_solve(factor, state, name=name)
            # Equal numbers of axes, or solve_ex may take (n, k) columns for a batch of vectors.
            state = state[(None,) * max(factor.dim() - state.dim(), 0)]
            solution, info = torch.linalg.solve_ex(factor.to(state.dtype), state)
            if not torch.compiler.is_compiling() and bool((info != 0).any()):
                raise InvalidValueError(f"{name} is singular in {int((info != 0).sum())} of {info.numel()} items")
            return solution

        solution = self._sweep(columns, apply)
        return solution.squeeze(-1) if vector else solution

    def eigh(self) -> KroneckerEigh:
        """Eigendecomposition of a product of Hermitian factors (only their Hermitian parts count): one small one a factor.

        Raises:
            ShapeError: factors that are not square.
        """
        self._require_square_factors("eigh")
        pairs = [torch.linalg.eigh(hermitian_part(factor)) for factor in self.factors]
        eigenvalues = reduce(_kron_vectors, [values for values, _ in pairs])
        return KroneckerEigh(eigenvalues, KroneckerOperator([vectors for _, vectors in pairs]))

    def matrix(self) -> torch.Tensor:
        return reduce(_kron_pair, self.factors)

    def diagonal(self) -> torch.Tensor:
        self._require_square_factors("diagonal")
        return reduce(_kron_vectors, [factor.diagonal(dim1=-2, dim2=-1) for factor in self.factors])

    @property
    def mT(self) -> KroneckerOperator:
        return KroneckerOperator([factor.mT for factor in self.factors])

    def conj(self) -> KroneckerOperator:
        return KroneckerOperator([factor.conj() for factor in self.factors])

    def _require_square_factors(self, what: str) -> None:
        for index, factor in enumerate(self.factors):
            if factor.shape[-1] != factor.shape[-2]:
                raise ShapeError(f"{what} needs square factors; factors[{index}] has shape {tuple(factor.shape)}")
