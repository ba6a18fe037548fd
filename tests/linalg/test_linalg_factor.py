"""Thin factors against the dense matrix: values, order, padding, gradients, errors."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wichan.errors import InvalidTypeError, InvalidValueError, NotPositiveDefiniteError, ShapeError
from wichan.linalg import compress_factor, concatenate_factors, thin_factor

BATCHES = [(), (3,), (2, 3)]
DTYPES = [torch.float32, torch.complex64, torch.float64, torch.complex128]


def low_rank(batch: tuple[int, ...], size: int, rank: int, dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    root = torch.randn(*batch, size, rank, dtype=dtype, generator=generator)
    return root @ root.mH


def with_eigenvalues(eigenvalues: list[float], generator: torch.Generator) -> torch.Tensor:
    size = len(eigenvalues)
    vectors = torch.linalg.qr(torch.randn(size, size, dtype=torch.complex128, generator=generator))[0]
    return (vectors * torch.tensor(eigenvalues)) @ vectors.mH


def assert_orthogonal_and_sorted(factor: torch.Tensor) -> None:
    gram = factor.mH @ factor
    energy = gram.diagonal(dim1=-2, dim2=-1).real
    assert bool((energy.diff(dim=-1) <= 1e-12 * energy.amax()).all())
    assert float((gram - torch.diag_embed(energy)).abs().max()) <= 1e-12 * float(energy.max())


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_factor_gives_back_the_matrix(batch: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> None:
    matrix = low_rank(batch, 7, 3, dtype, generator)
    double = torch.finfo(dtype).eps < 1e-12
    factor = thin_factor(matrix, 1e-7 if double else 1e-5)  # single-precision entries are noise below 1e-6
    assert factor.dtype == torch.complex128
    assert factor.shape == (*batch, 7, 3)
    error = (factor @ factor.mH - matrix).abs().max()
    assert float(error) <= (1e-12 if double else 1e-5) * float(matrix.abs().max())
    assert_orthogonal_and_sorted(factor)


def test_rtol_cuts_eigenvalues_of_the_matrix(generator: torch.Generator) -> None:
    matrix = with_eigenvalues([2.0, 0.5, 2e-5, 2e-9], generator)
    for rtol, rank in ((0.5, 1), (1e-3, 2), (1e-7, 3), (0.0, 4)):
        factor = thin_factor(matrix, rtol)
        assert factor.shape == (4, rank)
        energy = factor.abs().square().sum(0)
        assert torch.allclose(energy, torch.tensor([2.0, 0.5, 2e-5, 2e-9], dtype=torch.float64)[:rank], rtol=1e-6)
        assert compress_factor(thin_factor(matrix, 0.0), rtol).shape == (4, rank)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_batch_is_padded_with_zero_columns(scale: float, generator: torch.Generator) -> None:
    ranks = (1, 4, 2, 0)
    matrix = scale * torch.stack([low_rank((), 6, max(r, 1), torch.complex128, generator) * (r > 0) for r in ranks])
    factor = thin_factor(matrix)
    assert factor.shape == (4, 6, 4)
    for item, rank in enumerate(ranks):
        assert float(factor[item, :, rank:].abs().sum()) == 0.0
        assert bool((factor[item, :, :rank].abs().sum(0) > 0).all())
    assert torch.allclose(factor @ factor.mH, matrix, rtol=0, atol=1e-11 * scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_zero_matrix_gives_one_zero_column(dtype: torch.dtype) -> None:
    for shape in ((5, 5), (2, 5, 5)):
        factor = thin_factor(torch.zeros(shape, dtype=dtype))
        assert torch.equal(factor, torch.zeros(*shape[:-1], 1, dtype=torch.complex128))
        assert torch.equal(compress_factor(factor), factor)
    assert thin_factor(torch.zeros(0, 5, 5)).shape == (0, 5, 1)
    assert compress_factor(torch.zeros(0, 5, 3)).shape == (0, 5, 1)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize(("rows", "columns"), [(5, 12), (12, 5), (6, 6)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_compress_keeps_the_matrix(
    batch: tuple[int, ...], rows: int, columns: int, dtype: torch.dtype, generator: torch.Generator
) -> None:
    mixing = torch.randn(*batch, 3, columns, dtype=dtype, generator=generator)
    wide = torch.randn(*batch, rows, 3, dtype=dtype, generator=generator) @ mixing  # rank 3
    compressed = compress_factor(wide)
    assert compressed.dtype == torch.complex128 and compressed.shape == (*batch, rows, 3)
    dense = wide @ wide.mH
    assert float((compressed @ compressed.mH - dense).abs().max()) <= 1e-12 * float(dense.abs().max())
    assert_orthogonal_and_sorted(compressed)


@pytest.mark.parametrize("columns", [4, 20])
def test_compress_drops_what_rtol_allows(columns: int, generator: torch.Generator) -> None:
    fat = torch.randn(8, columns, dtype=torch.complex128, generator=generator) * torch.logspace(0, -6, columns)
    compressed = compress_factor(fat, 1e-4)
    eigenvalues = torch.linalg.svdvals(fat).square()
    kept = int((eigenvalues > 1e-4 * eigenvalues[0]).sum())
    assert compressed.shape[-1] == kept < min(8, columns)
    # The optimal error is the sum of the dropped eigenvalues (trace norm).
    lost = torch.linalg.matrix_norm(fat @ fat.mH - compressed @ compressed.mH, ord="nuc")
    assert abs(float(lost - eigenvalues[kept:].sum())) <= 1e-12 * float(eigenvalues[0])


def test_concatenated_factors_are_the_factor_of_the_sum(generator: torch.Generator) -> None:
    first = torch.randn(2, 1, 6, 3, dtype=torch.complex128, generator=generator)
    second = torch.randn(3, 6, 2, dtype=torch.float64, generator=generator)
    joint = concatenate_factors([first, second])
    assert joint.shape == (2, 3, 6, 5) and joint.dtype == torch.complex128
    dense = first @ first.mH + (second @ second.mH)
    assert torch.allclose(joint @ joint.mH, dense, rtol=0, atol=1e-12)
    assert torch.equal(concatenate_factors([second]), second)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("rank", [2, 4])
def test_gradients_of_the_product_and_of_the_energies(dtype: torch.dtype, rank: int, generator: torch.Generator) -> None:
    root = torch.randn(2, 4, rank, dtype=dtype, generator=generator).requires_grad_()

    def product_through_matrix(g: torch.Tensor) -> torch.Tensor:
        factor = thin_factor(g @ g.mH)
        return factor @ factor.mH

    def product_through_compression(g: torch.Tensor) -> torch.Tensor:
        factor = compress_factor(torch.cat([g, 0.5 * g, g.roll(1, -1)], dim=-1))
        return factor @ factor.mH

    def energies(g: torch.Tensor) -> torch.Tensor:
        return thin_factor(g @ g.mH).abs().square().sum(-2) + compress_factor(g).abs().square().sum(-2)

    for function in (product_through_matrix, product_through_compression, energies):
        assert torch.autograd.gradcheck(function, (root,))


def test_gradient_at_equal_eigenvalues_is_finite_and_right() -> None:
    leaf = torch.eye(4, dtype=torch.complex128, requires_grad=True)
    factor = thin_factor(leaf)
    weight = torch.arange(16.0, dtype=torch.float64).reshape(4, 4).to(torch.complex128)
    (weight * (factor @ factor.mH)).sum().real.backward()
    # G G^H = A, so the gradient of Re sum(W A) is the Hermitian part of conj(W); eigh's own gradient is NaN here.
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, (weight + weight.mT) / 2, rtol=0, atol=1e-12)


def test_negative_eigenvalues_are_refused_beyond_rounding(generator: torch.Generator) -> None:
    good, bad = (with_eigenvalues([1.0, 0.5, 0.0, value], generator) for value in (-5e-9, -5e-8))
    assert thin_factor(good).shape == (4, 2)
    with pytest.raises(NotPositiveDefiniteError, match=r"^cov: 1 of 2 matrices have a negative eigenvalue, down to -5\.0e-08"):
        thin_factor(torch.stack([good, bad]), name="cov")
    assert thin_factor(bad.to(torch.complex64)).shape == (4, 2)  # single-precision entries cannot show -5e-8
    with pytest.raises(NotPositiveDefiniteError, match="1 of 1"):
        thin_factor(-torch.eye(3))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="NaN"):
        thin_factor(torch.full((2, 2), float("nan")))
    with pytest.raises(InvalidValueError, match="NaN"):
        compress_factor(torch.full((2, 3), float("inf")))
    with pytest.raises(ShapeError, match="equal"):
        thin_factor(torch.zeros(2, 3))
    with pytest.raises(ShapeError, match="non-empty"):
        compress_factor(torch.zeros(3, 0))
    with pytest.raises(InvalidValueError, match="rtol=-1"):
        thin_factor(torch.eye(2), -1.0)
    with pytest.raises(ShapeError, match=r"factors\[1\] has 3 rows"):
        concatenate_factors([torch.zeros(2, 2), torch.zeros(3, 2)])
    with pytest.raises(ShapeError, match="broadcast"):
        concatenate_factors([torch.zeros(2, 2, 2), torch.zeros(3, 2, 2)])
    with pytest.raises(InvalidTypeError, match="one precision"):
        concatenate_factors([torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.float64)])
    with pytest.raises(InvalidValueError, match="at least one"):
        concatenate_factors([])
    with pytest.raises(InvalidTypeError, match="list or tuple"):
        concatenate_factors(torch.zeros(2, 2))  # type: ignore[arg-type]


@settings(max_examples=30)
@given(
    size=st.integers(1, 7),
    columns=st.integers(1, 9),
    exponent=st.integers(-40, 40),
    decay=st.integers(0, 9),
    seed=st.integers(0, 999),
)
def test_compression_agrees_with_the_factor_of_the_dense_matrix(
    size: int, columns: int, exponent: int, decay: int, seed: int
) -> None:
    stream = torch.Generator().manual_seed(seed)
    raw = torch.randn(size, columns, dtype=torch.complex128, generator=stream)
    raw = raw * torch.logspace(0, -decay, columns, dtype=torch.float64) * 10.0**exponent
    dense = raw @ raw.mH
    lost = float(torch.linalg.matrix_norm(dense, ord=2))
    for factor in (compress_factor(raw, 1e-7), thin_factor(dense, 1e-7)):
        assert torch.isfinite(factor).all()
        assert factor.shape[-1] <= min(size, columns)
        error = float(torch.linalg.matrix_norm(factor @ factor.mH - dense, ord=2))
        assert error <= (1e-7 + 1e-12) * lost  # in the spectral norm the loss is the largest dropped eigenvalue
