"""Kronecker and Khatri-Rao products, mode products and sums of operators against dense twins."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, NotPositiveDefiniteError, ShapeError
from wichan.linalg import KroneckerOperator, LinearOperator, SumOperator, ToeplitzOperator, khatri_rao, kron, mode_product

BATCHES = [(), (3,), (2, 3)]
DTYPES = [torch.float32, torch.complex64, torch.float64, torch.complex128]
# Short sums of order-one products.
RTOL = {torch.float32: 1e-5, torch.complex64: 1e-5, torch.float64: 1e-13, torch.complex128: 1e-13}


def draw(*shape: int, dtype: torch.dtype = torch.complex128, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=generator)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> bool:
    return actual.shape == expected.shape and float((actual - expected).norm()) <= rtol * float(expected.norm())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_products_equal_numpy_and_scipy(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    a, b, c = (draw(*batch, *size, dtype=dtype, generator=generator) for size in ((2, 3), (4, 3), (3, 3)))
    triple, columns = kron(a, b, c), khatri_rao(a, b)
    assert triple.dtype == columns.dtype == dtype
    assert triple.shape == (*batch, 24, 27) and columns.shape == (*batch, 8, 3)
    for index in np.ndindex(batch):
        twin = np.kron(np.kron(a[index].numpy(), b[index].numpy()), c[index].numpy())
        assert close(triple[index], torch.from_numpy(twin), RTOL[dtype])
        twin = np.asarray(scipy.linalg.khatri_rao(a[index].numpy(), b[index].numpy()))
        assert close(columns[index], torch.from_numpy(twin), RTOL[dtype])


def test_dense_products_broadcast(generator: torch.Generator) -> None:
    a, b = draw(2, 1, 2, 3, generator=generator), draw(3, 4, 3, dtype=torch.float64, generator=generator)
    assert close(kron(a, b)[1, 2], torch.kron(a[1, 0], b[2].to(a.dtype)))
    assert close(khatri_rao(a, b)[1, 2], kron(a, b)[1, 2][:, ::4])  # column k of one is column (k, k) of the other


@pytest.mark.parametrize("dim", [0, 1, 2, 3, -1, -2])
def test_mode_product_equals_tensordot(dim: int, generator: torch.Generator) -> None:
    x = draw(2, 3, 4, 5, generator=generator)
    matrix = draw(6, x.shape[dim], generator=generator)
    twin = torch.tensordot(matrix, x, dims=([1], [dim])).movedim(0, dim)
    assert close(mode_product(x, matrix, dim), twin)


def test_mode_product_with_batches(generator: torch.Generator) -> None:
    x = draw(2, 3, 4, 5, generator=generator)
    matrix = draw(2, 1, 6, 4, generator=generator)
    assert close(mode_product(x, matrix, 2), torch.einsum("bij,bcjk->bcik", matrix[:, 0], x))
    last = draw(2, 6, 5, dtype=torch.float64, generator=generator)
    assert close(mode_product(x, last, -1), torch.einsum("bij,bckj->bcki", last.to(x.dtype), x))
    shared, several = draw(1, 3, 4, generator=generator), draw(7, 6, 4, generator=generator)
    assert close(mode_product(shared, several, -1), torch.einsum("bij,cj->bci", several, shared[0]))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_operator_equals_its_dense_twin(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    factors = [draw(*batch, *size, dtype=dtype, generator=generator) for size in ((2, 3), (4, 2), (3, 5))]
    operator, dense = KroneckerOperator(factors), kron(*factors)
    x = draw(*batch, 30, 4, dtype=dtype, generator=generator)
    assert operator.shape == dense.shape and operator.dtype == dtype and operator.batch_shape == torch.Size(batch)
    assert torch.equal(operator.matrix(), dense)
    assert close(operator @ x, dense @ x, RTOL[dtype])
    y = draw(*batch, 24, 2, dtype=dtype, generator=generator)
    assert close(operator.mT @ y, dense.mT @ y, RTOL[dtype])
    assert close(operator.mH @ y, dense.mH @ y, RTOL[dtype])
    assert close(operator.matvec(x[..., 0]), (dense @ x)[..., 0], RTOL[dtype])


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_square_operator_solves_and_has_a_diagonal(
    batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    roots = [draw(*batch, size, size, dtype=dtype, generator=generator) for size in (2, 3, 4)]
    eyes = [torch.eye(size, dtype=dtype) for size in (2, 3, 4)]
    definite = KroneckerOperator([root @ root.mH + eye for root, eye in zip(roots, eyes, strict=True)])
    general = KroneckerOperator([root + 4 * eye for root, eye in zip(roots, eyes, strict=True)])
    rhs = draw(*batch, 24, 3, dtype=dtype, generator=generator)
    twin = torch.linalg.solve(definite.matrix(), rhs)
    assert close(definite.solve(rhs, positive_definite=True), twin, 1e3 * RTOL[dtype])
    assert close(definite.solve(rhs), twin, 1e3 * RTOL[dtype])
    assert close(general.solve(rhs), torch.linalg.solve(general.matrix(), rhs), 1e3 * RTOL[dtype])
    assert close(general.diagonal(), general.matrix().diagonal(dim1=-2, dim2=-1), RTOL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_eigh_diagonalises(dtype: torch.dtype, generator: torch.Generator) -> None:
    roots = [draw(3, size, size, dtype=dtype, generator=generator) for size in (2, 4)]
    operator = KroneckerOperator([root + root.mH for root in roots])
    eigenvalues, vectors = operator.eigh()
    assert not eigenvalues.is_complex() and eigenvalues.shape == (3, 8)
    dense = vectors.matrix()
    assert close((dense * eigenvalues[..., None, :]) @ dense.mH, operator.matrix(), 100 * RTOL[dtype])
    assert close(eigenvalues.sort().values, torch.linalg.eigvalsh(operator.matrix()), 100 * RTOL[dtype])


def test_operator_broadcasts_batches_vectors_and_reals(generator: torch.Generator) -> None:
    # (3, 3) columns against a batch of three 3 x 3 factors: the shape that solve could take for a batch of vectors.
    a, b = draw(3, 3, 3, dtype=torch.float64, generator=generator), draw(2, 2, dtype=torch.float64, generator=generator)
    operator = KroneckerOperator([a + 4 * torch.eye(3), b + 4 * torch.eye(2)])
    dense = operator.matrix()
    assert dense.shape == (3, 6, 6)
    for shape in ((6,), (6, 3), (3, 6, 1), (2, 1, 6, 2)):
        x = draw(*shape, generator=generator)
        twin = (dense.to(x.dtype) @ x.reshape(shape if len(shape) > 1 else (6, 1))).reshape(
            (3, 6) if len(shape) == 1 else (*torch.broadcast_shapes((3,), shape[:-2]), 6, shape[-1])
        )
        assert close(operator @ x, twin)
        solved = operator.solve(x)
        back = operator @ solved if len(shape) > 1 else operator.matvec(solved)
        assert close(back, x.expand(back.shape), 1e-11)
    single = KroneckerOperator([draw(3, 3, 3, generator=generator) + 4 * torch.eye(3)])
    square = draw(3, 3, generator=generator)
    assert close(single.solve(square), torch.linalg.solve(single.matrix(), square.expand(3, 3, 3)), 1e-11)


def test_sum_equals_the_sum_of_dense_twins(generator: torch.Generator) -> None:
    first = KroneckerOperator([draw(2, 1, 3, 3, generator=generator), draw(2, 2, generator=generator)])
    second = KroneckerOperator([draw(3, 2, 2, generator=generator), draw(3, 3, dtype=torch.float64, generator=generator)])
    column = draw(6, dtype=torch.float64, generator=generator)
    total = first + second + ToeplitzOperator(column)
    dense = first.matrix() + second.matrix() + ToeplitzOperator(column).matrix()
    x = draw(6, 4, generator=generator)
    assert isinstance(total, SumOperator) and len(total.operators) == 3
    assert total.shape == (2, 3, 6, 6) and total.dtype == torch.complex128
    assert torch.equal(total.matrix(), dense)
    assert close(total @ x, dense @ x)
    assert close(total.mT @ x, dense.mT @ x)
    assert close(total.mH @ x, dense.mH @ x)
    assert close(total.diagonal(), dense.diagonal(dim1=-2, dim2=-1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_gradients(dtype: torch.dtype, generator: torch.Generator) -> None:
    a, b = (draw(2, size, size, dtype=dtype, generator=generator) + 3 * torch.eye(size) for size in (2, 3))
    x = draw(2, 6, 2, dtype=dtype, generator=generator)
    inputs = tuple(tensor.detach().requires_grad_() for tensor in (a, b, x))
    assert torch.autograd.gradcheck(lambda a, b, x: KroneckerOperator([a, b]) @ x, inputs)
    assert torch.autograd.gradcheck(lambda a, b, x: KroneckerOperator([a, b]).solve(x), inputs)
    assert torch.autograd.gradcheck(lambda a, b, x: (KroneckerOperator([a, b]) + KroneckerOperator([b, a])) @ x, inputs)
    assert torch.autograd.gradcheck(lambda a, b, x: khatri_rao(a, b[..., :2]), inputs)
    assert torch.autograd.gradcheck(lambda a, b, x: mode_product(x, a, -1), inputs)


def test_compiled_equals_eager(generator: torch.Generator) -> None:
    a, b, x = draw(2, 3, 3, generator=generator), draw(4, 4, generator=generator), draw(2, 12, 5, generator=generator)

    def product(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return KroneckerOperator([a, b.mH]).matmul(x) + KroneckerOperator([a, b]).solve(x)

    compiled = torch.compile(product, fullgraph=True, backend="aot_eager")
    assert close(compiled(a, b, x), product(a, b, x), 1e-13)


def test_bad_arguments_are_refused(generator: torch.Generator) -> None:
    square, tall = draw(3, 3, generator=generator), draw(4, 2, generator=generator)
    operator = KroneckerOperator([square, tall])
    with pytest.raises(ShapeError, match=r"x has shape \(5, 1\); it must be \(\*batch, 6, k\)"):
        operator @ torch.zeros(5, 1, dtype=torch.complex128)
    with pytest.raises(InvalidTypeError, match="one precision"):
        operator @ torch.zeros(6, dtype=torch.complex64)
    with pytest.raises(ShapeError, match="do not broadcast"):
        KroneckerOperator([draw(2, 3, 3, generator=generator)]) @ torch.zeros(3, 3, 1, dtype=torch.complex128)
    for call in (operator.diagonal, operator.eigh, lambda: operator.solve(torch.zeros(12, dtype=torch.complex128))):
        with pytest.raises(ShapeError, match=r"factors\[1\] has shape \(4, 2\)"):
            call()
    with pytest.raises(InvalidValueError, match=r"factors\[0\] is singular in 1 of 2 items"):
        singular = torch.stack([torch.eye(2), torch.zeros(2, 2)])
        KroneckerOperator([singular]).solve(torch.ones(2))
    with pytest.raises(NotPositiveDefiniteError, match=r"factors\[1\]: 1 of 1"):
        KroneckerOperator([torch.eye(2), -torch.eye(2)]).solve(torch.ones(4), positive_definite=True)
    with pytest.raises(InvalidValueError, match="at least one"):
        KroneckerOperator([])
    with pytest.raises(InvalidTypeError, match="list or tuple"):
        KroneckerOperator(square)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="as many"):
        khatri_rao(square, tall)
    with pytest.raises(ShapeError, match="cannot be added"):
        operator + KroneckerOperator([square])
    with pytest.raises(InvalidTypeError, match=r"operators\[1\] must be a LinearOperator, got Tensor"):
        SumOperator([operator, square])  # type: ignore[list-item]
    with pytest.raises(InvalidValueError, match="at least one"):
        SumOperator([])
    with pytest.raises(TypeError):
        operator + 1  # type: ignore[operator]
    with pytest.raises(ShapeError, match="columns"):
        mode_product(square, tall, 0)
    with pytest.raises(InvalidValueError, match="dim=2"):
        mode_product(square, square, 2)
    with pytest.raises(ShapeError, match="batch axes"):
        mode_product(draw(3, 3, generator=generator), draw(3, 3, 3, generator=generator), 0)
    assert isinstance(operator, LinearOperator) and "shape=(12, 6)" in repr(operator)


@settings(max_examples=30)
@given(data=st.data(), batch=st.sampled_from(BATCHES), columns=st.integers(1, 3), seed=st.integers(0, 999))
def test_any_factors_multiply_like_the_dense_product(
    data: st.DataObject, batch: tuple[int, ...], columns: int, seed: int
) -> None:
    sizes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    stream = torch.Generator().manual_seed(seed)
    factors = [draw(*(batch if index % 2 else ()), *size, generator=stream) for index, size in enumerate(sizes)]
    operator = KroneckerOperator(factors)
    x = draw(*batch, operator.shape[-1], columns, generator=stream)
    assert close(operator @ x, operator.matrix() @ x)
