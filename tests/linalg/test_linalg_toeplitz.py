"""Toeplitz and circulant operators against SciPy, dense twins and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, NotPositiveDefiniteError, ShapeError
from wichan.linalg import CirculantOperator, ToeplitzOperator, hermitian_part, toeplitz, toeplitz_projection
from wichan.linalg.toeplitz import _fft_length

BATCHES = [(), (3,), (2, 3)]
DTYPES = [torch.float32, torch.complex64, torch.float64, torch.complex128]
# FFTs of some ten points lose a few roundings.
RTOL = {torch.float32: 1e-5, torch.complex64: 1e-5, torch.float64: 1e-13, torch.complex128: 1e-13}


def draw(*shape: int, dtype: torch.dtype = torch.complex128, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator)


def hermitian_column(*shape: int, dtype: torch.dtype = torch.complex128, generator: torch.Generator) -> torch.Tensor:
    """First column of a Hermitian Toeplitz matrix, diagonally dominant and so positive definite."""
    column = 0.3 * draw(*shape, dtype=dtype, generator=generator)
    column[..., 0] = 2.0 * shape[-1]
    return column


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> bool:
    return actual.shape == expected.shape and float((actual - expected).norm()) <= rtol * float(expected.norm())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_matrices_equal_scipy(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    column, row = (
        hermitian_column(*batch, 5, dtype=dtype, generator=generator),
        draw(*batch, 7, dtype=dtype, generator=generator),
    )
    hermitian, general = toeplitz(column), toeplitz(column, row)
    circulant = CirculantOperator(row).matrix()
    assert hermitian.dtype == general.dtype == dtype
    for index in np.ndindex(batch):
        c, r = column[index].numpy(), row[index].numpy()
        assert np.array_equal(hermitian[index].numpy(), scipy.linalg.toeplitz(c))
        assert np.array_equal(general[index].numpy(), scipy.linalg.toeplitz(c, r))
        assert np.array_equal(circulant[index].numpy(), scipy.linalg.circulant(r))


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_toeplitz_operator_equals_its_dense_twin(
    size: int, batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    operator = ToeplitzOperator(hermitian_column(*batch, size, dtype=dtype, generator=generator))
    dense, x = operator.matrix(), draw(*batch, size, 4, dtype=dtype, generator=generator)
    product = operator @ x
    assert operator.shape == dense.shape and operator.dtype == product.dtype == dtype
    assert close(product, dense @ x, RTOL[dtype])
    assert close(operator.mT @ x, dense.mT @ x, RTOL[dtype])
    assert close(operator.mH @ x, dense.mH @ x, RTOL[dtype])
    assert torch.equal(operator.diagonal(), dense.diagonal(dim1=-2, dim2=-1))
    assert close(operator.solve(x), torch.linalg.solve(dense, x), 10 * RTOL[dtype])
    assert close(operator.matvec(x[..., 0]), (dense @ x)[..., 0], RTOL[dtype])


@pytest.mark.parametrize("size", [1, 2, 8, 9])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_circulant_operator_equals_its_dense_twin(
    size: int, batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    column = draw(*batch, size, dtype=dtype, generator=generator)
    column[..., 0] += 3.0 * size
    operator = CirculantOperator(column)
    dense, x = operator.matrix(), draw(*batch, size, 4, dtype=dtype, generator=generator)
    product, solution = operator @ x, operator.solve(x)
    assert product.dtype == solution.dtype == operator.inverse().dtype == dtype
    assert close(product, dense @ x, RTOL[dtype])
    assert close(operator.mT @ x, dense.mT @ x, RTOL[dtype])
    assert close(operator.mH @ x, dense.mH @ x, RTOL[dtype])
    assert torch.equal(operator.diagonal(), dense.diagonal(dim1=-2, dim2=-1))
    assert close(solution, torch.linalg.solve(dense, x), 10 * RTOL[dtype])
    assert close(operator.inverse().matrix(), torch.linalg.inv(dense), 10 * RTOL[dtype])
    assert close(CirculantOperator.from_eigenvalues(operator.eigenvalues()).column, column.to(product.dtype) + 0j, RTOL[dtype])


def test_circulant_eigenvalues_belong_to_fourier_vectors(generator: torch.Generator) -> None:
    operator = CirculantOperator(draw(2, 6, generator=generator))
    index = torch.arange(6, dtype=torch.float64)
    vectors = torch.exp(2j * torch.pi * torch.outer(index, index) / 6)  # column k is e^{+j 2 pi k i / n}
    assert close(operator.matrix() @ vectors, vectors * operator.eigenvalues()[:, None, :])


def test_operators_mix_batches_vectors_and_reals(generator: torch.Generator) -> None:
    real, complex_ = (hermitian_column(3, 5, dtype=dtype, generator=generator) for dtype in (torch.float64, torch.complex128))
    for kind in (ToeplitzOperator, CirculantOperator):
        for column in (real, complex_):
            operator = kind(column)
            for dtype in (torch.float64, torch.complex128):
                vector, columns = (draw(*shape, dtype=dtype, generator=generator) for shape in ((5,), (2, 1, 5, 2)))
                dense = operator.matrix().to(torch.promote_types(column.dtype, dtype))
                assert close(operator @ vector, dense @ vector.to(dense.dtype))
                assert close(operator @ columns, dense @ columns.to(dense.dtype))
                assert close(operator.matvec(operator.solve(vector)), vector.expand(3, 5).to(dense.dtype))


# -- Nearest matrices --------------------------------------------------------------------------------------------------


def least_squares(matrix: torch.Tensor, basis: list[torch.Tensor]) -> torch.Tensor:
    """Oracle: the Frobenius projection onto a real span, by least squares over real and imaginary parts."""
    flat = torch.stack([torch.view_as_real(element).flatten() for element in basis], dim=1)
    target = torch.view_as_real(matrix).flatten().unsqueeze(1)
    return torch.view_as_complex((flat @ torch.linalg.lstsq(flat, target).solution).reshape(*matrix.shape, 2))


def test_projections_are_nearest_in_the_frobenius_norm(generator: torch.Generator) -> None:
    matrix, size = draw(2, 5, 5, generator=generator), 5
    units = torch.eye(size, dtype=torch.complex128)
    hermitian_basis = [toeplitz(units[0])] + [toeplitz(u * w) for u in units[1:] for w in (1, 1j)]
    circulant_basis = [CirculantOperator(u * w).matrix() for u in units for w in (1, 1j)]
    projected, circulant = toeplitz_projection(matrix), CirculantOperator.nearest(matrix).matrix()
    for item in range(2):
        assert close(projected[item], least_squares(matrix[item], hermitian_basis))
        assert close(circulant[item], least_squares(matrix[item], circulant_basis))


@pytest.mark.parametrize("dtype", DTYPES)
def test_projections_keep_what_already_fits(dtype: torch.dtype, generator: torch.Generator) -> None:
    column = hermitian_column(2, 3, 6, dtype=dtype, generator=generator)
    dense = toeplitz(column)
    assert toeplitz_projection(dense).dtype == dtype and close(toeplitz_projection(dense), dense, RTOL[dtype])
    free = draw(2, 3, 6, dtype=dtype, generator=generator)
    assert close(CirculantOperator.nearest(CirculantOperator(free).matrix()).column, free, RTOL[dtype])


def test_nearest_circulant_of_a_toeplitz_is_chans_formula(generator: torch.Generator) -> None:
    column, size = hermitian_column(6, generator=generator), 6
    k = torch.arange(size)
    wrapped = torch.cat([column[:1] * 0, column[1:].flip(0).conj()])  # t_{k-n}
    expected = ((size - k) * column + k * wrapped) / size
    assert close(CirculantOperator.nearest(toeplitz(column)).column, expected)


@settings(max_examples=25)
@given(size=st.integers(1, 8), rank=st.integers(1, 8), seed=st.integers(0, 999))
def test_nearest_circulant_of_a_covariance_is_a_covariance(size: int, rank: int, seed: int) -> None:
    root = draw(size, rank, generator=torch.Generator().manual_seed(seed))
    nearest = CirculantOperator.nearest(root @ root.mH)
    eigenvalues = nearest.eigenvalues()
    scale = float(eigenvalues.abs().max())
    assert float(eigenvalues.imag.abs().max()) <= 1e-12 * scale
    assert float(eigenvalues.real.min()) >= -1e-12 * scale
    assert close(nearest.matrix(), hermitian_part(nearest.matrix()))


# -- Gradients, compiled code, bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype: torch.dtype, generator: torch.Generator) -> None:
    free = 0.3 * draw(2, 4, dtype=dtype, generator=generator)
    x, matrix = draw(2, 4, 2, dtype=dtype, generator=generator), draw(2, 4, 4, dtype=dtype, generator=generator)
    inputs = tuple(tensor.requires_grad_() for tensor in (free, x))
    corner = torch.tensor([8.0, 0, 0, 0], dtype=dtype)

    def toeplitz_of(c: torch.Tensor) -> ToeplitzOperator:
        mask = torch.tensor([0.0, 1, 1, 1], dtype=dtype)
        return ToeplitzOperator(c * mask + c.real * (1 - mask) + corner)

    assert torch.autograd.gradcheck(lambda c, x: toeplitz_of(c) @ x, inputs)
    assert torch.autograd.gradcheck(lambda c, x: toeplitz_of(c).solve(x), inputs)
    assert torch.autograd.gradcheck(lambda c, x: toeplitz_of(c).matrix(), inputs)
    assert torch.autograd.gradcheck(lambda c, x: CirculantOperator(c + corner) @ x, inputs)
    assert torch.autograd.gradcheck(lambda c, x: CirculantOperator(c + corner).solve(x), inputs)
    leaf = (matrix.requires_grad_(),)
    assert torch.autograd.gradcheck(toeplitz_projection, leaf)
    assert torch.autograd.gradcheck(lambda m: CirculantOperator.nearest(m).column, leaf)


def test_compiled_equals_eager(generator: torch.Generator) -> None:
    column, x = hermitian_column(2, 5, generator=generator), draw(2, 5, 3, generator=generator)

    def product(column: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return ToeplitzOperator(column).mT.matmul(x) + CirculantOperator(column).mH.solve(x)

    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    assert close(compiled(column, x), product(column, x), 1e-13)


def test_fft_length_is_the_smallest_smooth_number() -> None:
    def smooth(number: int) -> bool:
        for prime in (2, 3, 5):
            while number % prime == 0:
                number //= prime
        return number == 1

    expected = [next(length for length in range(minimum, 2 * minimum + 1) if smooth(length)) for minimum in range(1, 400)]
    assert [_fft_length(minimum) for minimum in range(1, 400)] == expected


def test_bad_arguments_are_refused(generator: torch.Generator) -> None:
    column = hermitian_column(3, 4, generator=generator)
    with pytest.raises(InvalidValueError, match=r"column\[0\] is not real in 1 of 3 items"):
        column[1, 0] = 1 + 1j
        ToeplitzOperator(column)
    with pytest.raises(InvalidValueError, match=r"column\[0\] is not real"):
        toeplitz(column)
    with pytest.raises(ShapeError, match="broadcast"):
        toeplitz(column, torch.zeros(2, 4, dtype=torch.complex128))
    with pytest.raises(InvalidTypeError, match="one precision"):
        toeplitz(column, torch.zeros(4))
    with pytest.raises(ShapeError, match="non-empty"):
        ToeplitzOperator(torch.zeros(3, 0))
    with pytest.raises(InvalidTypeError, match="int64"):
        CirculantOperator(torch.arange(3))
    with pytest.raises(NotPositiveDefiniteError, match="the Toeplitz matrix: 1 of 2"):
        ToeplitzOperator(torch.tensor([[1.0, 0.5], [1.0, 2.0]])).solve(torch.ones(2))
    for call in (CirculantOperator(torch.ones(2, 4)).inverse, lambda: CirculantOperator(torch.ones(2, 4)).solve(torch.ones(4))):
        with pytest.raises(InvalidValueError, match="singular to rounding or not finite in 2 of 2"):
            call()
    with pytest.raises(ShapeError, match="equal"):
        toeplitz_projection(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match=r"x has shape \(3,\); it must be \(4,\)"):
        CirculantOperator(torch.ones(4)) @ torch.ones(3)
