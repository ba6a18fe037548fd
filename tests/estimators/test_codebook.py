"""The codebook of correlations: its divergence against dense matrices in plain loops, and what Lloyd's algorithm promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wichan.estimators.codebook import Codebook, cell_means, design_codebook
from wichan.estimators.scattering import doppler_correlations

NOISE = (0.1, 0.003)


def draws(count: int, n: int = 8, seed: int = 5) -> torch.Tensor:
    lags = torch.arange(n, dtype=torch.float64) * 1e-4
    return doppler_correlations(count, 2000.0, lags, generator=torch.Generator().manual_seed(seed))


def dense(column: np.ndarray) -> np.ndarray:
    """Covariance of a stationary process: r(i - j) below the diagonal, its conjugate above."""
    n = len(column)
    return np.array([[column[i - j] if i >= j else column[j - i].conj() for j in range(n)] for i in range(n)])


def divergence(draw: torch.Tensor, centre: torch.Tensor) -> float:
    """Kullback-Leibler divergence of CN(0, R + s I) from CN(0, C + s I), summed over noise levels."""
    total = 0.0
    for level in NOISE:
        r, c = (dense(x.numpy()) + level * np.eye(len(x)) for x in (draw, centre))
        trace = np.trace(np.linalg.inv(c) @ r).real
        total += trace + np.linalg.slogdet(c)[1] - np.linalg.slogdet(r)[1] - len(draw)
    return total


def distortion(correlations: torch.Tensor, book: Codebook) -> float:
    """Mean divergence of the draws from the centre of their cell."""
    centres = cell_means(correlations, book.member)
    return float(np.mean([divergence(draw, centres[cell]) for draw, cell in zip(correlations, book.member, strict=True)]))


def make(correlations: torch.Tensor, size: int, rounds: int = 12, seed: int = 0) -> Codebook:
    return design_codebook(correlations, size, NOISE, generator=torch.Generator().manual_seed(seed), rounds=rounds)


def test_every_draw_lies_in_the_cell_that_dense_matrices_find_nearest() -> None:
    correlations = draws(40)
    book = make(correlations, 5, rounds=40)
    again = make(correlations, 5, rounds=41)
    assert torch.equal(book.member, again.member)  # it has settled, so members belong to the centres that they have
    centres = cell_means(correlations, book.member)
    table = [[divergence(draw, centre) for centre in centres] for draw in correlations]
    assert book.member.tolist() == np.argmin(table, axis=1).tolist()


def test_divergence_is_zero_for_the_same_and_positive_for_others() -> None:
    correlations = draws(6)
    table = np.array([[divergence(a, b) for b in correlations] for a in correlations])
    assert np.abs(np.diag(table)).max() < 1e-9
    assert (table + np.eye(6) > 1e-3).all()


@pytest.mark.parametrize("seed", range(3))
def test_distortion_never_grows(seed: int) -> None:
    correlations = draws(60, seed=seed)
    found = [distortion(correlations, make(correlations, 6, rounds, seed)) for rounds in range(1, 9)]
    assert all(after <= before + 1e-9 for before, after in zip(found, found[1:], strict=False))
    assert found[-1] < found[0] - 0.01


def test_more_cells_distort_less() -> None:
    correlations = draws(60)
    found = [distortion(correlations, make(correlations, size)) for size in (1, 4, 16, 60)]
    assert all(after < 0.7 * before for before, after in zip(found, found[1:], strict=False))
    assert found[-1] < 1e-9  # every draw has a cell of its own


def test_one_cell_is_the_mean() -> None:
    correlations = draws(30)
    book = make(correlations, 1)
    assert book.member.tolist() == [0] * 30 and book.weight.tolist() == [1.0]
    assert torch.allclose(cell_means(correlations, book.member)[0], correlations.mean(0), atol=1e-14)


def test_mean_is_the_best_centre() -> None:
    correlations = draws(10)
    centre = correlations.mean(0)
    best = sum(divergence(draw, centre) for draw in correlations)
    for direction in correlations:
        for step in (-0.05, 0.05):  # in and out of the hull, so near that all are covariances
            assert sum(divergence(draw, (1 - step) * centre + step * direction) for draw in correlations) > best


@pytest.mark.parametrize("size", [1, 7, 60])
def test_weights_are_the_shares_of_the_cells(size: int) -> None:
    book = make(draws(60), size)
    assert len(book.weight) == int(book.member.max()) + 1 <= size
    assert book.weight.dtype == torch.float64 and float(book.weight.min()) > 0
    assert torch.equal((60 * book.weight).round().long(), torch.bincount(book.member))
    assert float(book.weight.sum()) == pytest.approx(1, abs=1e-12)


def test_more_cells_than_draws_and_equal_draws() -> None:
    correlations = draws(5)
    assert len(make(correlations, 50).weight) == 5
    twice = torch.cat([correlations, correlations])
    book = make(twice, 10)
    assert torch.equal(book.member[:5], book.member[5:]) and len(book.weight) <= 5
    flat = torch.ones(20, 8, dtype=torch.complex128)
    assert float(make(flat, 4).weight.sum()) == pytest.approx(1)


def test_two_kinds_are_told_apart() -> None:
    lags = torch.arange(8, dtype=torch.float64)
    slow = torch.exp(-0.01 * lags + 0.3j * lags) + 0 * draws(20)
    fast = torch.exp(-1.5 * lags + 0j) + 0 * draws(20)
    book = make(torch.cat([slow, fast]), 2)
    assert set(book.member[:20].tolist()).isdisjoint(book.member[20:].tolist())
    assert book.weight.tolist() == [0.5, 0.5]


def test_seed_decides() -> None:
    correlations = draws(60)
    assert torch.equal(make(correlations, 8, seed=1).member, make(correlations, 8, seed=1).member)
    assert not torch.equal(make(correlations, 8, seed=1).member, make(correlations, 8, seed=2).member)


def test_a_single_lag_is_enough() -> None:
    # One pilot in a symbol shows no correlation at all: all draws look alike.
    book = make(torch.ones(9, 1, dtype=torch.complex128), 3)
    assert float(book.weight.sum()) == pytest.approx(1)
