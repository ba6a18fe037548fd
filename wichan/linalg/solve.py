"""Cholesky factors and solves of Hermitian positive-definite matrices, with jitter for failing items only."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from wichan.errors import InvalidValueError, NotPositiveDefiniteError, WichanWarning, check_int, check_real
from wichan.linalg._checks import as_columns, broadcast_batch, check_same_precision, check_square

# First jitter relative to the mean diagonal: a few hundred roundings, far below any noise floor the precision can show.
_JITTER = {torch.float32: 1e-6, torch.complex64: 1e-6, torch.float64: 1e-13, torch.complex128: 1e-13}


def hermitian_part(matrix: torch.Tensor) -> torch.Tensor:
    r"""Return the Hermitian part :math:`(A + A^H)/2`, the nearest Hermitian matrix in the Frobenius norm.

    Args:
        matrix: real or complex, (\*batch, n, n).

    Returns:
        Same shape and dtype.
    """
    # A physical conjugate, not the lazy view of .mH: inside an operator called from an AOT graph, PyTorch (2.13) drops the
    # conjugate bit silently, and A + A^T came out.
    return (matrix + matrix.mT.conj_physical()) * 0.5


def _failed_items(factor: torch.Tensor, info: torch.Tensor) -> torch.Tensor:
    # Some GPU back-ends let NaN and infinity pass with info = 0; both always reach the diagonal of the factor.
    return (info != 0) | ~torch.isfinite(factor.diagonal(dim1=-2, dim2=-1).abs().sum(-1))


def _refuse_nonfinite(matrix: torch.Tensor, name: str) -> None:
    bad = ~torch.isfinite(matrix)
    if bool(bad.any()):
        items = int(bad.flatten(-2).any(-1).sum())
        raise InvalidValueError(
            f"{name} holds {int(bad.sum())} NaN or infinite of {bad.numel()} values, in {items} of "
            f"{bad[..., 0, 0].numel()} matrices; all must be finite"
        )


def _cholesky(matrix: torch.Tensor, jitter: float, max_tries: int, name: str) -> torch.Tensor:
    """Factor; climb the jitter ladder for failing items. Differentiable; the jitter itself counts as a constant."""
    hermitian = hermitian_part(matrix)
    factor, info = torch.linalg.cholesky_ex(hermitian)
    failed = _failed_items(factor, info)
    if not bool(failed.any()):
        return factor
    _refuse_nonfinite(matrix.detach(), name)
    scale = hermitian.detach().diagonal(dim1=-2, dim2=-1).real.mean(-1).abs()
    amount = torch.zeros_like(scale)
    repaired, total = int(failed.sum()), failed.numel()
    relative = jitter
    for attempt in range(max_tries):
        relative = jitter * 10**attempt
        amount = torch.where(failed, scale * relative, amount)
        shift = torch.diag_embed(amount.unsqueeze(-1).expand(hermitian.shape[:-1]))
        factor, info = torch.linalg.cholesky_ex(hermitian + shift)
        failed = _failed_items(factor, info)
        if not bool(failed.any()):
            message = f"{name}: jitter of up to {relative:.0e} x the mean diagonal added to {repaired} of {total} matrices"
            warnings.warn(message, WichanWarning, stacklevel=3)
            return factor
    tried = f"with jitter up to {relative:.0e} x the mean diagonal" if max_tries else "and no jitter was allowed"
    raise NotPositiveDefiniteError(f"{name}: {int(failed.sum())} of {total} matrices are not positive definite, {tried}")


# Under torch.compile the ladder and its gradient are opaque operators: the ladder's branch on values would break the graph
# (compiled code must warn, repair and raise exactly as eager code does), and inductor (2.13) expects other strides of batched
# triangular solves than it gets.
@torch.library.custom_op("wichan::hermitian_cholesky", mutates_args=())
def _cholesky_op(matrix: torch.Tensor, jitter: float, max_tries: int, name: str) -> torch.Tensor:
    return _cholesky(matrix, jitter, max_tries, name).contiguous()


@torch.library.custom_op("wichan::hermitian_cholesky_gradient", mutates_args=())
def _cholesky_gradient_op(factor: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Reverse rule of Murray (2016): with P = tril(L^H G), halved on the diagonal, the gradient is herm(L^-H P L^-1)."""
    upper = factor.mT.conj_physical()
    inner = (upper @ grad).tril()
    inner = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1) / 2)
    left = torch.linalg.solve_triangular(upper, inner, upper=True)
    full = torch.linalg.solve_triangular(upper, left.mT.conj_physical(), upper=True)  # its adjoint, which herm() ignores
    return hermitian_part(full).contiguous()


@_cholesky_op.register_fake
def _(matrix: torch.Tensor, jitter: float, max_tries: int, name: str) -> torch.Tensor:
    return torch.empty_like(matrix, memory_format=torch.contiguous_format)


@_cholesky_gradient_op.register_fake
def _(factor: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(factor, memory_format=torch.contiguous_format)


def _save_factor(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    ctx.save_for_backward(output)


def _cholesky_backward(ctx: Any, grad: torch.Tensor) -> tuple:
    # Physical conjugates only, for the reason that hermitian_part gives.
    return _cholesky_gradient_op(ctx.saved_tensors[0], grad.resolve_conj()), None, None, None


_cholesky_op.register_autograd(_cholesky_backward, setup_context=_save_factor)


def hermitian_cholesky(
    matrix: torch.Tensor, *, jitter: float | None = None, max_tries: int = 3, name: str = "matrix"
) -> torch.Tensor:
    r"""Factor Hermitian positive-definite matrices as :math:`A = L L^H`, with jitter for the items that fail.

    Only the Hermitian part of ``matrix`` counts. Items whose factorisation fails get
    :math:`\epsilon\,\overline{\mathrm{diag}}(A)\,I` added, with :math:`\epsilon` = ``jitter`` and ten times more at each
    further try; the others stay untouched. One `WichanWarning` says how many items were repaired. Under ``torch.compile``
    the same happens inside one opaque operator, so the graph does not break.

    Args:
        matrix: real or complex, (\*batch, n, n).
        jitter: first shift relative to the mean diagonal; default 1e-6 (single precision) or 1e-13 (double).
        max_tries: shifts to try, 0 for none.
        name: what the matrix is called in messages.

    Returns:
        L, lower triangular with a real positive diagonal, same shape and dtype. Differentiable.

    Raises:
        NotPositiveDefiniteError: an item fails with the largest jitter, too.
        InvalidValueError: NaN or infinity in ``matrix``.

    Cost: n^3/3 multiply-adds an item when nothing fails, as much again (whole batch) for each try.
    """
    check_square(name, matrix)
    first = _JITTER[matrix.dtype] if jitter is None else check_real("jitter", jitter, positive=True)
    tries = check_int("max_tries", max_tries, minimum=0)
    if torch.compiler.is_compiling():
        return _cholesky_op(matrix.resolve_conj(), first, tries, name)
    return _cholesky(matrix, first, tries, name)


def hermitian_solve(
    matrix: torch.Tensor, rhs: torch.Tensor, *, jitter: float | None = None, max_tries: int = 3, name: str = "matrix"
) -> torch.Tensor:
    r"""Solve :math:`A X = B` for Hermitian positive-definite A.

    Args:
        matrix: real or complex, (\*batch, n, n); see `hermitian_cholesky` for jitter and errors.
        rhs: (\*batch, n, k) with a batch that broadcasts against that of ``matrix``, or one vector (n,).
        jitter: as in `hermitian_cholesky`.
        max_tries: as in `hermitian_cholesky`.
        name: what the matrix is called in messages.

    Returns:
        X, (\*batch, n, k), or (\*batch, n) where ``rhs`` is one vector. Differentiable in both arguments.

    Raises:
        NotPositiveDefiniteError: an item is not positive definite.
        ShapeError: shapes that do not fit together.
        InvalidTypeError: single precision meets double.

    Cost: n^3/3 + k n^2 multiply-adds an item.
    """
    check_square(name, matrix)
    columns, vector = as_columns(rhs, matrix.shape[-1], "rhs")
    dtype = check_same_precision(name, matrix.dtype, "rhs", rhs.dtype)
    broadcast_batch(name, matrix.shape[:-2], "rhs", columns.shape[:-2])
    factor = hermitian_cholesky(matrix, jitter=jitter, max_tries=max_tries, name=name)
    solution = torch.cholesky_solve(columns.to(dtype), factor.to(dtype))
    return solution.squeeze(-1) if vector else solution
