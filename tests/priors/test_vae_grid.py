"""Stationary covariances by their spectrum: against matrices of the DFT written out, products, draws."""

from __future__ import annotations

import math

import pytest
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, UnknownNameError
from wichan.priors.spectral_grid import SpectralGrid


def dft_columns(size: int, columns: int) -> torch.Tensor:
    """The first columns of the unitary DFT matrix, written out."""
    k, n = torch.arange(size)[:, None], torch.arange(columns)[None, :]
    angle = -2 * math.pi * (k * n % size).double() / size
    return torch.polar(torch.full_like(angle, size**-0.5), angle)


def spectrum_for(grid: SpectralGrid, generator: torch.Generator, *batch: int) -> torch.Tensor:
    return torch.rand(*batch, *grid.sizes, generator=generator, dtype=torch.float64) + 0.1


GRIDS = [
    ((6,), "circulant", (6,)),
    ((6,), "block-circulant", (6,)),
    ((6,), "toeplitz", (12,)),
    ((3, 4), "block-circulant", (3, 4)),
    ((3, 4), "block-toeplitz", (6, 8)),
    ((5, 1, 1, 1), "toeplitz", (10, 1, 1, 1)),
    ((1,), "toeplitz", (1,)),
]


@pytest.mark.parametrize(("shape", "structure", "sizes"), GRIDS)
def test_covariance_is_that_of_the_dft_matrix(
    shape: tuple[int, ...], structure: str, sizes: tuple[int, ...], generator: torch.Generator
) -> None:
    grid = SpectralGrid(shape, structure)
    assert grid.sizes == sizes
    s = spectrum_for(grid, generator)
    q = torch.ones(1, 1, dtype=torch.complex128)
    for size, n in zip(sizes, shape, strict=True):
        q = torch.kron(q, dft_columns(size, n))
    want = q.mH @ torch.diag(s.flatten().to(q.dtype)) @ q
    # Rounding of a DFT of at most 48 points with values about 1.
    torch.testing.assert_close(grid.covariance(s), want, atol=1e-14, rtol=0)
    power = torch.full((math.prod(shape),), float(s.mean()), dtype=torch.float64)
    torch.testing.assert_close(grid.covariance(s).diagonal().real, power, atol=1e-14, rtol=0)


@pytest.mark.parametrize(("shape", "structure", "sizes"), GRIDS)
def test_products_need_no_matrix(
    shape: tuple[int, ...], structure: str, sizes: tuple[int, ...], generator: torch.Generator
) -> None:
    grid = SpectralGrid(shape, structure)
    s = spectrum_for(grid, generator, 2)
    x = torch.randn(2, *shape, generator=generator, dtype=torch.complex128)
    want = (grid.covariance(s) @ x.reshape(2, -1, 1))[..., 0].reshape(x.shape)
    torch.testing.assert_close(grid.multiply(s, x), want, atol=1e-13, rtol=0)  # rounding


def test_the_spectrum_of_a_circulant_channel_is_its_mean_power(generator: torch.Generator) -> None:
    grid = SpectralGrid((4, 2), "block-circulant")
    s = spectrum_for(grid, generator)
    h = grid.sample(s.expand(40_000, *s.shape), generator=generator)
    # A mean of 40,000 powers: relative standard deviation 1/200; 8 values, six times that.
    torch.testing.assert_close(grid.transform(h).abs().square().mean(0), s, rtol=0.03, atol=0)


def test_draws_have_the_covariance(generator: torch.Generator) -> None:
    grid = SpectralGrid((5,), "toeplitz")
    s = spectrum_for(grid, generator)
    h = grid.sample(s.expand(40_000, *s.shape), generator=generator)
    cov = h.mT @ h.conj() / len(h)
    # Entries of a sample covariance: standard deviation at most power/200; 25 of them, five times that.
    assert float((cov - grid.covariance(s)).abs().max()) < 0.025 * float(s.mean())
    assert h.shape == (40_000, 5)


def test_the_dft_of_a_toeplitz_grid_keeps_the_energy(generator: torch.Generator) -> None:
    grid = SpectralGrid((5,), "toeplitz")
    h = torch.randn(3, 5, generator=generator, dtype=torch.complex128)
    # Parseval for 10 points over sqrt(5).
    torch.testing.assert_close(grid.transform(h).abs().square().sum(-1), 2 * h.abs().square().sum(-1))


@pytest.mark.parametrize(
    ("shape", "structure", "error"),
    [
        ((3, 4), "toeplitz", InvalidValueError),
        ((3, 4), "circulant", InvalidValueError),
        ((3,), "full", UnknownNameError),
        ((0,), "circulant", InvalidValueError),
        ((2.5,), "circulant", InvalidTypeError),
    ],
)
def test_bad_grids(shape: tuple[int, ...], structure: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="^[^\n]*$"):
        SpectralGrid(shape, structure)
