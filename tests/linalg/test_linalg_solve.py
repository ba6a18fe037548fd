"""Hermitian Cholesky, solve and roots against dense twins; jitter, errors, gradients, compiled code."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, NotPositiveDefiniteError, ShapeError, WichanWarning
from wichan.linalg import hermitian_cholesky, hermitian_inverse_sqrt, hermitian_part, hermitian_solve, psd_sqrt

BATCHES = [(), (3,), (2, 3)]
DTYPES = [torch.float32, torch.complex64, torch.float64, torch.complex128]
# Well-conditioned 6 x 6 systems lose some ten roundings.
RTOL = {torch.float32: 1e-4, torch.complex64: 1e-4, torch.float64: 1e-11, torch.complex128: 1e-11}


def draw(*shape: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator)


def positive(batch: tuple[int, ...], size: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    root = draw(*batch, size, 2 * size, dtype=dtype, generator=generator)
    return root @ root.mH / size


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> bool:
    error, size = (actual - expected).detach().norm(), expected.detach().norm()
    return actual.shape == expected.shape and float(error) <= rtol * float(size)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cholesky_gives_back_the_matrix(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = positive(batch, 6, dtype, generator)
    factor = hermitian_cholesky(matrix)
    assert factor.dtype == dtype and factor.shape == matrix.shape
    assert torch.equal(factor, factor.tril())
    assert close(factor @ factor.mH, matrix, RTOL[dtype])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_solve_equals_scipy_item_by_item(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = positive(batch, 6, dtype, generator)
    rhs = draw(*batch, 6, 2, dtype=dtype, generator=generator)
    solution = hermitian_solve(matrix, rhs)
    twin = [
        torch.from_numpy(scipy.linalg.solve(a.numpy(), b.numpy(), assume_a="her"))
        for a, b in zip(matrix.reshape(-1, 6, 6), rhs.reshape(-1, 6, 2), strict=True)
    ]
    assert solution.dtype == dtype
    assert close(solution, torch.stack(twin).reshape(solution.shape), RTOL[dtype])


def test_solve_broadcasts_vectors_and_real_matrices(generator: torch.Generator) -> None:
    matrix = positive((3,), 4, torch.float64, generator)
    vector = draw(4, dtype=torch.complex128, generator=generator)
    solution = hermitian_solve(matrix, vector)
    assert solution.shape == (3, 4)
    assert close(torch.einsum("bij,bj->bi", matrix.to(vector.dtype), solution), vector.expand(3, 4), 1e-11)
    columns = draw(2, 1, 4, 5, dtype=torch.float64, generator=generator)
    assert close(matrix @ hermitian_solve(matrix, columns), columns.expand(2, 3, 4, 5), 1e-11)


def test_only_the_hermitian_part_counts(generator: torch.Generator) -> None:
    matrix = positive((), 5, torch.complex128, generator)
    skew = draw(5, 5, dtype=torch.complex128, generator=generator)
    skew = (skew - skew.mH) / 2
    assert close(hermitian_cholesky(matrix + skew), hermitian_cholesky(matrix), 1e-12)
    assert close(hermitian_part(matrix + skew), matrix, 1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = positive((2,), 3, dtype, generator).requires_grad_()
    rhs = draw(2, 3, 2, dtype=dtype, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(hermitian_cholesky, (matrix,))
    assert torch.autograd.gradcheck(hermitian_solve, (matrix, rhs))
    assert torch.autograd.gradcheck(psd_sqrt, (matrix,))
    assert torch.autograd.gradcheck(hermitian_inverse_sqrt, (matrix,))


# -- Jitter ------------------------------------------------------------------------------------------------------------


def singular_batch(dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Items 0 and 2 positive definite, item 1 with eigenvalue -1e-12: rounding below a rank-deficient covariance."""
    matrix = positive((3,), 6, dtype, generator)
    eigenvalues, vectors = torch.linalg.eigh(matrix[1])
    eigenvalues[0] = -1e-12
    matrix[1] = (vectors * eigenvalues) @ vectors.mH
    return matrix


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_jitter_reaches_failing_items_only(dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = singular_batch(dtype, generator)
    with pytest.warns(WichanWarning, match=r"added to 1 of 3 matrices") as record:
        factor = hermitian_cholesky(matrix)
    assert len(record) == 1
    assert torch.equal(factor[0], hermitian_cholesky(matrix[0])) and torch.equal(factor[2], hermitian_cholesky(matrix[2]))
    added = (factor[1] @ factor[1].mH - matrix[1]).diagonal().real
    # One step of the ladder above 1e-12: 1e-11 x the mean diagonal at most, and the same for every row.
    scale = matrix[1].diagonal().real.mean()
    assert float(added.min()) > 0
    assert float(added.max()) <= 1.1e-11 * float(scale)


def test_jitter_of_a_rank_one_covariance_in_single_precision(generator: torch.Generator) -> None:
    root = draw(40, 1, dtype=torch.complex64, generator=generator)
    matrix = root @ root.mH
    with pytest.warns(WichanWarning, match="added to 1 of 1"):
        factor = hermitian_cholesky(matrix)
    assert torch.isfinite(factor).all()
    assert close(factor @ factor.mH, matrix, 1e-4)  # the last of three tries adds 1e-4 of the mean diagonal


def test_gradient_passes_through_the_jitter(generator: torch.Generator) -> None:
    matrix = singular_batch(torch.complex128, generator)
    leaf = matrix.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WichanWarning)
        hermitian_cholesky(leaf)[0].abs().square().sum().backward()
    # ||L||^2 = trace(A), so the gradient is the identity.
    assert leaf.grad is not None and close(leaf.grad[0], torch.eye(6, dtype=torch.complex128), 1e-10)
    assert float(leaf.grad[1].abs().max()) == 0.0


def test_indefinite_items_are_counted(generator: torch.Generator) -> None:
    matrix = positive((2, 2), 4, torch.complex64, generator)
    matrix[0, 1] = -matrix[0, 1]
    matrix[1, 0] = 0
    with pytest.raises(NotPositiveDefiniteError, match=r"^R: 2 of 4 matrices .* jitter up to 1e-04 x") as caught:
        hermitian_cholesky(matrix, name="R")
    assert "\n" not in str(caught.value)
    with pytest.raises(NotPositiveDefiniteError, match="no jitter was allowed"):
        hermitian_cholesky(matrix, max_tries=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [(1, 0, 0), (1, 3, 1), (1, 1, 3)])
def test_nonfinite_entries_are_counted(value: float, place: tuple[int, int, int], generator: torch.Generator) -> None:
    matrix = positive((3,), 4, torch.complex128, generator)
    matrix[place] = value
    with pytest.raises(InvalidValueError, match=r"^matrix holds 1 NaN or infinite of 48 values, in 1 of 3 matrices"):
        hermitian_cholesky(matrix)


def test_bad_arguments_are_refused(generator: torch.Generator) -> None:
    matrix = positive((3,), 4, torch.complex128, generator)
    with pytest.raises(ShapeError, match="last two axes must be equal"):
        hermitian_cholesky(matrix[:, :3])
    with pytest.raises(InvalidTypeError, match=r"dtype torch\.int64"):
        hermitian_cholesky(torch.eye(3, dtype=torch.int64))
    with pytest.raises(InvalidValueError, match="jitter=0"):
        hermitian_cholesky(matrix, jitter=0.0)
    with pytest.raises(ShapeError, match=r"rhs has shape \(3, 5, 1\)"):
        hermitian_solve(matrix, torch.zeros(3, 5, 1, dtype=torch.complex128))
    with pytest.raises(ShapeError, match="do not broadcast"):
        hermitian_solve(matrix, torch.zeros(2, 4, 1, dtype=torch.complex128))
    with pytest.raises(InvalidTypeError, match="one precision"):
        hermitian_solve(matrix, torch.zeros(4, dtype=torch.complex64))


def test_empty_batch() -> None:
    matrix = torch.zeros(0, 3, 3, dtype=torch.complex64)
    assert hermitian_cholesky(matrix).shape == (0, 3, 3)
    assert hermitian_solve(matrix, torch.zeros(0, 3, 2, dtype=torch.complex64)).shape == (0, 3, 2)
    assert psd_sqrt(matrix).shape == hermitian_inverse_sqrt(matrix).shape == (0, 3, 3)


@settings(max_examples=25)
@given(size=st.integers(1, 6), rank=st.integers(1, 6), exponent=st.integers(-30, 30), seed=st.integers(0, 2**32 - 1))
def test_any_covariance_is_factored_or_refused_never_nan(size: int, rank: int, exponent: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    root = draw(2, size, rank, dtype=torch.complex128, generator=stream) * 10.0**exponent
    matrix = root @ root.mH
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WichanWarning)
        factor = hermitian_cholesky(matrix)  # positive semi-definite up to rounding: the ladder must reach it
    assert torch.isfinite(factor).all()
    assert float((factor @ factor.mH - matrix).abs().max()) <= 2e-11 * float(matrix.abs().max())


# -- Compiled code -----------------------------------------------------------------------------------------------------


def test_compiled_equals_eager_with_gradient_jitter_and_error(generator: torch.Generator) -> None:
    matrix = positive((3,), 4, torch.complex128, generator)
    rhs = draw(3, 4, 2, dtype=torch.complex128, generator=generator)
    compiled = torch.compile(hermitian_solve, fullgraph=True, backend="aot_eager")
    grads = []
    for function in (hermitian_solve, compiled):
        a, b = matrix.clone().requires_grad_(), rhs.clone().requires_grad_()
        solution = function(a, b)
        solution.abs().square().sum().backward()
        grads.append((solution.detach(), a.grad, b.grad))
    for eager, fast in zip(*grads, strict=True):
        assert close(fast, eager, 1e-12)
    # A lazy conjugate made inside the graph: its conjugate bit must not get lost on the way into the operator.
    twisted = torch.compile(lambda a, b: hermitian_solve((2 * a).mT.conj(), b), fullgraph=True, backend="aot_eager")
    assert close(twisted(matrix, rhs), hermitian_solve(2 * matrix, rhs), 1e-12)
    singular = matrix.clone()
    singular[1] = torch.ones(4, 4)
    with pytest.warns(WichanWarning, match="added to 1 of 3"):
        repaired = compiled(singular, rhs)
    with pytest.warns(WichanWarning, match="added to 1 of 3"):
        assert torch.equal(repaired, hermitian_solve(singular, rhs))
    with pytest.raises(NotPositiveDefiniteError, match="3 of 3"):
        compiled(-matrix, rhs)


# -- Roots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_roots_equal_their_definition(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = positive(batch, 5, dtype, generator)
    root, inverse = psd_sqrt(matrix), hermitian_inverse_sqrt(matrix)
    eye = torch.eye(5, dtype=dtype).expand_as(matrix)
    assert root.dtype == inverse.dtype == dtype
    assert close(root @ root, matrix, RTOL[dtype]) and close(root, root.mH, RTOL[dtype])
    assert close(inverse @ matrix @ inverse, eye, 10 * RTOL[dtype])
    if batch == ():
        twin = torch.from_numpy(np.asarray(scipy.linalg.sqrtm(matrix.numpy())).astype(matrix.numpy().dtype))
        assert close(root, twin.to(dtype), 10 * RTOL[dtype])


def test_roots_have_gradients_at_equal_eigenvalues(generator: torch.Generator) -> None:
    # eigh's own gradient is NaN here; d sqrt(A) = dA/2 and d A^{-1/2} = -dA/2 at A = I.
    weight = hermitian_part(draw(4, 4, dtype=torch.complex128, generator=generator))
    for root, sign in ((psd_sqrt, 0.5), (hermitian_inverse_sqrt, -0.5)):
        leaf = torch.eye(4, dtype=torch.complex128, requires_grad=True)
        (root(leaf) * weight.conj()).sum().real.backward()
        assert leaf.grad is not None and close(leaf.grad, sign * weight, 1e-12)


def test_root_of_a_singular_matrix(generator: torch.Generator) -> None:
    vector = draw(4, 1, dtype=torch.complex128, generator=generator)
    leaf = (vector @ vector.mH).requires_grad_()
    root = psd_sqrt(leaf)
    root.abs().sum().backward()
    assert close(root @ root, leaf, 1e-7)  # a null eigenvalue of rounding size 1e-16 has the root 1e-8
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    assert torch.equal(psd_sqrt(torch.zeros(3, 3)), torch.zeros(3, 3))
    for bad in (torch.zeros(3, 3), leaf.detach()):
        with pytest.raises(NotPositiveDefiniteError, match="1 of 1 matrices are not positive definite"):
            hermitian_inverse_sqrt(bad)
    with pytest.raises(NotPositiveDefiniteError, match=r"1 of 2 matrices have a negative eigenvalue, down to -1\.0e\+00"):
        psd_sqrt(torch.stack([torch.eye(3), -torch.eye(3)]))
    with pytest.raises(InvalidValueError, match="1 NaN"):
        psd_sqrt(torch.tensor([[float("nan")]]))
