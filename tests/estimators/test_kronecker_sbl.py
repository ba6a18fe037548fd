"""Kronecker sparse Bayesian learning against dense formulas in NumPy, written down independently, and its M-steps."""

from __future__ import annotations

import itertools
from functools import reduce

import numpy as np
import pytest
import torch

from wichan.estimators import KroneckerSBL
from wichan.estimators.kronecker_estep import Tables, channel_variance, moments, second_moments, spectrum
from wichan.estimators.kronecker_mstep import alternating, distance, majorize, normalize, rank_one
from wichan.estimators.kronecker_noise import update_noise
from wichan.random import complex_normal

SIZES = {1: ((9,), (12,)), 2: ((4, 5), (6, 7)), 3: ((3, 4, 2), (5, 4, 6))}
NO = 0.03


def normal(shape: tuple[int, ...], generator: torch.Generator, *, is_complex: bool) -> torch.Tensor:
    if is_complex:
        return complex_normal(shape, generator=generator, dtype=torch.complex128)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def problem(count: int, generator: torch.Generator, *, is_complex: bool, batch: int = 3):
    rows, atoms = SIZES[count]
    factors = [normal((m, n), generator, is_complex=is_complex) for m, n in zip(rows, atoms, strict=True)]
    gammas = [torch.rand(batch, n, generator=generator, dtype=torch.float64) for n in atoms]
    gammas[0][:, 1] = 0  # one that is switched off
    return factors, gammas, normal((batch, *rows), generator, is_complex=is_complex)


def dense(factors, gammas, y: np.ndarray, no: float):
    """Mean, covariance and cost of one instance by the textbook's formulas."""
    matrix = reduce(np.kron, [f.numpy() for f in factors])
    prior = np.diag(reduce(np.kron, [g.numpy() for g in gammas]))
    covariance = no * np.eye(len(matrix)) + matrix @ prior @ matrix.conj().T
    gain = prior @ matrix.conj().T @ np.linalg.inv(covariance)
    cost = np.linalg.slogdet(covariance)[1] + (y.conj() @ np.linalg.solve(covariance, y)).real
    return gain @ y, prior - gain @ matrix @ prior, cost, matrix


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("is_complex", [False, True], ids=["real", "complex"])
def test_posterior_is_the_dense_one(count: int, is_complex: bool, generator: torch.Generator) -> None:
    factors, gammas, y = problem(count, generator, is_complex=is_complex)
    synthesis = [normal((3 + k, f.shape[1]), generator, is_complex=is_complex) for k, f in enumerate(factors)]
    tables = Tables.of(factors, y.dtype)
    found = spectrum(tables, y, gammas, torch.full((3,), NO, dtype=torch.float64))
    at = moments(found, gammas)
    channel = channel_variance(found, gammas, synthesis, tables)
    noise, cost = update_noise(found, torch.full((3,), NO, dtype=torch.float64)), found.cost()
    for b in range(3):
        data = y[b].reshape(-1).numpy()
        mean, covariance, expected, matrix = dense(factors, [g[b] for g in gammas], data, NO)
        # 1e-10 and 1e-9: what is asked of double precision; rounding of sums of this size leaves about 1e-13.
        assert np.abs(at.mean()[b].reshape(-1).numpy() - mean).max() < 1e-10 * np.abs(mean).max()
        variance = np.diag(covariance).real
        assert np.abs(at.variance()[b].reshape(-1).numpy() - variance).max() < 1e-10 * variance.max()
        second = second_moments(found, gammas)[b].reshape(-1).numpy()
        assert np.abs(second - np.abs(mean) ** 2 - variance).max() < 1e-10 * second.max()
        assert abs(float(cost[b]) - expected) < 1e-9 * abs(expected)
        wide = reduce(np.kron, [a.numpy() for a in synthesis])
        error = np.einsum("cn,nm,cm->c", wide, covariance, wide.conj()).real
        assert np.abs(channel[b].reshape(-1).numpy() - error).max() < 1e-10 * error.max()
        prior = reduce(np.kron, [g[b].numpy() for g in gammas])
        used = prior > 0
        learned = np.linalg.norm(data - matrix @ mean) ** 2 + NO * np.sum(1 - variance[used] / prior[used])
        assert abs(float(noise[b]) - learned / len(data)) < 1e-12  # an identity: rounding only


def test_single_precision_keeps_the_variance_at_30_db(generator: torch.Generator) -> None:
    # Eigenvalues in double precision, products in single: published error of the variance 2e-3 at worst, 1e-4 typical.
    factors = [torch.randn(m, 15, generator=generator, dtype=torch.float64) for m in (8, 12, 15)]
    gammas = [torch.rand(8, 15, generator=generator, dtype=torch.float64) ** 4 for _ in range(3)]
    y = torch.randn(8, 8, 12, 15, generator=generator, dtype=torch.float64) * 10
    no = y.square().flatten(1).mean(-1) * 1e-3
    want = moments(spectrum(Tables.of(factors, y.dtype), y, gammas, no), gammas)
    small = [g.float() for g in gammas]
    have = moments(spectrum(Tables.of(factors, torch.float32), y.float(), small, no), small)
    error = ((have.variance() - want.variance()).abs() / want.variance()).flatten()
    assert float(error.max()) < 5e-3 and float(error.median()) < 1e-4
    assert float((have.mean() - want.mean()).norm() / want.mean().norm()) < 1e-4


# -- M-steps --


def random_moments(generator: torch.Generator, sizes: tuple[int, ...] = (6, 5, 7)) -> torch.Tensor:
    return torch.rand(4, *sizes, generator=generator, dtype=torch.float64) ** 3


def objective(second: torch.Tensor, gammas) -> torch.Tensor:
    prior = torch.einsum("bi,bj,bk->bijk", *gammas)
    return (prior.log() + second / prior).flatten(1).sum(-1)


def test_alternating_m_step_has_one_optimum(generator: torch.Generator) -> None:
    second = random_moments(generator)
    starts = [[torch.rand(4, n, generator=generator, dtype=torch.float64) + 0.1 for n in (6, 5, 7)] for _ in range(2)]
    ends = [alternating(second, start, sweeps=200, tol=0.0) for start in starts]
    assert float(distance(*ends).max()) < 1e-7  # of a difference of squares: root of 1e-16
    for a, b in zip(*ends, strict=True):
        assert float((a / b - 1).abs().max()) < 1e-10  # convex in logarithms, so the optimum is unique
    best = objective(second, ends[0])
    assert bool((best < objective(second, normalize(rank_one(second)))).all())
    for factor, direction in itertools.product(range(3), range(4)):
        moved = [g.clone() for g in ends[0]]
        moved[factor][:, direction] *= 1.001
        assert bool((objective(second, moved) > best).all())


def test_power_iteration_is_the_singular_value_decomposition(generator: torch.Generator) -> None:
    second = random_moments(generator).pow(1 / 3)
    spread = torch.linalg.svdvals(second.flatten(2))
    assert float((spread[:, 1] / spread[:, 0]).max()) < 0.4  # and 0.4^32 is 2e-13
    for ours, exact in zip(rank_one(second), rank_one(second, exact=True), strict=True):
        assert float((ours - exact.abs()).abs().max() / exact.abs().max()) < 1e-11
    u, s, vh = np.linalg.svd(second[0].reshape(6, 35).numpy())
    left, values, right = np.linalg.svd((s[0] * vh[0]).reshape(5, 7))
    for ours, vector in zip(rank_one(second), (u[:, 0], left[:, 0], values[0] * right[0]), strict=True):
        assert np.abs(ours[0].numpy() - np.abs(vector)).max() < 1e-11


def test_majorised_step_is_the_minimum_of_its_bound(generator: torch.Generator) -> None:
    power, shrink = random_moments(generator), random_moments(generator)
    start = [torch.rand(4, n, generator=generator, dtype=torch.float64) + 0.1 for n in (6, 5, 7)]
    end = majorize(power, shrink, start, sweeps=300)

    def bound(gammas) -> torch.Tensor:
        prior = torch.einsum("bi,bj,bk->bijk", *gammas)
        return (power / prior + shrink * prior).flatten(1).sum(-1)

    for factor, element in itertools.product(range(3), range(4)):
        for change in (0.999, 1.001):
            moved = [g.clone() for g in end]
            moved[factor][:, element] *= change
            assert bool((bound(moved) > bound(end)).all())


@pytest.mark.parametrize("m_step", ["am", "single", "mm"])
def test_cost_never_rises(m_step: str, generator: torch.Generator) -> None:
    factors = [torch.randn(m, 8, generator=generator, dtype=torch.float64) for m in (4, 6, 7)]
    y = torch.randn(6, 4 * 6 * 7, generator=generator, dtype=torch.float64)
    found = KroneckerSBL(factors, m_step, prune=0.0, tol=0.0, max_iter=150, history=True)(y, 0.1)
    history = found.history
    assert history.shape == (6, 150) and bool(torch.isfinite(history).all())
    # Of a sum of logarithms that is computed anew every time, 1e-9 of its size is rounding.
    assert bool((history.diff(dim=1) <= 1e-9 * history[:, 1:].abs()).all())
    assert bool((history[:, -1] < history[:, 0] - 1).all())
    assert bool((found.cost <= history[:, -1] + 1e-9).all())


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 3)], ids=["one", "trivial-after", "trivial-around"])
def test_one_factor_is_classical_learning(shape: tuple[int, ...], generator: torch.Generator) -> None:
    """EM for one variance a coefficient, by hand, against every M-step whose other factors are 1 x 1."""
    matrix, y = torch.randn(10, 14, generator=generator, dtype=torch.float64), torch.randn(10, generator=generator).double()
    one = torch.ones(1, 1, dtype=torch.float64)
    factors = {(1,): [matrix], (3,): [matrix, one, one], (1, 3): [one, matrix, one]}[shape]
    gamma = np.ones(14)
    for _ in range(20):
        mean, covariance, _, _ = dense([matrix], [torch.from_numpy(gamma)], y.numpy(), 0.2)
        gamma = mean**2 + np.diag(covariance)
    for m_step in ("svd", "am", "single"):
        found = KroneckerSBL(factors, m_step, prune=0.0, tol=0.0, max_iter=20, start=1.0)(y, 0.2)
        ours = reduce(np.kron, [g.numpy() for g in found.gammas])
        assert np.abs(ours - gamma).max() < 1e-10 * gamma.max()  # rounding over 20 iterations; about 1e-13 seen
