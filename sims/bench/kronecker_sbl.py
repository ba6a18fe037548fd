"""Kronecker sparse Bayesian learning beside a dense Cholesky iteration, a plain NumPy one, and itself one by one.

N = 15^3 real coefficients, M = 8 x 12 x 15 measurements, 25 dB, double precision: no variance is switched off, so that every
iteration is a first one. Times of wichan are of whole calls, divided by instances and iterations. The floor is FLOP over the
rate of a large product.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from harness import Row, paired

from wichan.estimators import KroneckerSBL
from wichan.estimators.kronecker_estep import flops
from wichan.estimators.kronecker_mstep import SQUARINGS
from wichan.observations import KroneckerDictionary

ROWS, ATOMS, BATCH, ITERATIONS = (8, 12, 15), (15, 15, 15), 256, 20
DENSE_REPEATS = 3  # an iteration of the dense form takes seconds


def kronecker_sbl(repeats: int) -> list[Row]:
    """Iterations against both peers in CPU seconds, then complete estimates in a batch against one by one by the clock."""
    dictionary, y, no = _problem()
    size = f"N = 15^3, M = 8 x 12 x 15, float64, batch {BATCH}"
    run = KroneckerSBL(dictionary, prune=0.0, tol=0.0, max_iter=ITERATIONS)
    floor = _iteration_flops() / _gemm_rate()
    rows = []
    for name, peer, calls, most, target in (
        ("dense Cholesky SBL (torch)", _dense(dictionary, y[0], float(no[0])), 1, DENSE_REPEATS, ">= 5000x"),
        ("Kronecker NumPy, one instance", _plain(dictionary, y[0], float(no[0])), 300, repeats, ">= 2x"),
    ):
        mine, theirs = _paired_cpu(lambda: run(y, no), peer, calls, min(repeats, most))
        rows.append(Row("KroSBL, svd", size, "iteration (CPU)", mine / (ITERATIONS * BATCH), name, theirs, target, floor))
    est, some = KroneckerSBL(dictionary), BATCH // 8
    batch, single = paired(lambda: est(y, no), lambda: [est(y[i], no[i]) for i in range(0, BATCH, 8)], min(repeats, 5))
    setting = f"{size}, complete estimates, {torch.get_num_threads()} threads"
    rows.append(Row("KroSBL, svd", setting, "estimate", batch / BATCH, "itself, one by one", single / some, ">= 5x"))
    return rows


def _paired_cpu(ours: Any, peer: Any, peer_calls: int, repeats: int) -> tuple[float, float]:
    """Median CPU seconds of all threads, measured in turn: what else runs on the machine counts in neither."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other burn CPU time
    ours()
    peer()
    mine, theirs = [], []
    for _ in range(repeats):
        start = time.process_time()
        ours()
        middle = time.process_time()
        for _ in range(peer_calls):
            peer()
        mine.append(middle - start)
        theirs.append((time.process_time() - middle) / peer_calls)
    torch.set_num_threads(threads)
    return statistics.median(mine), statistics.median(theirs)


def _iteration_flops() -> float:
    """An E-step, and the M-step's Gram matrices with their squarings and products."""
    n = ATOMS[0]
    return flops(ROWS, ATOMS) + 2 * (n**4 + n**3) + 2 * 2 * SQUARINGS * n**3 + 2 * (n**3 + n**2)


def _problem() -> tuple[KroneckerDictionary, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    factors = [torch.randn(m, n, generator=generator, dtype=torch.float64) for m, n in zip(ROWS, ATOMS, strict=True)]
    dictionary = KroneckerDictionary(factors)
    vectors = []
    for n in ATOMS:
        kept = torch.rand(BATCH, n, generator=generator).argsort(-1) < 3
        vectors.append(torch.randn(BATCH, n, generator=generator, dtype=torch.float64) * kept)
    clean = dictionary.measure(torch.einsum("bi,bj,bk->bijk", *vectors))
    no = clean.square().mean(-1) * 10**-2.5
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return dictionary, clean + noise * no.sqrt()[:, None], no


def _gemm_rate(size: int = 512) -> float:
    """Real double GEMM rate of one core [FLOP per CPU second]."""
    left = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rates = []
    for _ in range(10):
        start = time.process_time()
        _ = left @ left
        rates.append(2 * size**3 / (time.process_time() - start))
    return max(rates)


def _dense(dictionary: KroneckerDictionary, y: torch.Tensor, no: float) -> Any:
    """One iteration of classical learning: Cholesky factor, one triangular solve, diagonals only."""
    matrix = dictionary.dense()
    gamma = torch.ones(matrix.shape[1], dtype=torch.float64)

    def iteration() -> torch.Tensor:
        covariance = torch.mm(matrix * gamma, matrix.mT)
        covariance.diagonal().add_(no)
        factor = torch.linalg.cholesky(covariance)
        whitened = torch.linalg.solve_triangular(factor, torch.cat([matrix, y[:, None]], 1), upper=False)
        left = whitened[:, :-1]
        mean = gamma * (left.mT @ whitened[:, -1])
        return mean.square() + gamma - gamma.square() * left.square().sum(0)

    return iteration


def _plain(dictionary: KroneckerDictionary, y: torch.Tensor, no: float) -> Any:
    """One iteration of one instance in NumPy: the same E-step, and three power iterations a factor as M-step."""
    factors = [f.numpy() for f in dictionary.factors]
    data = y.numpy().reshape(ROWS)
    gammas = [np.ones(n) for n in ATOMS]

    def expand(x: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
        for matrix in reversed(matrices):
            x = matrix @ x.reshape(-1, matrix.shape[1]).T
            x = x.reshape(matrix.shape[0], -1)
        return x.reshape([m.shape[0] for m in matrices])

    def iteration() -> list[np.ndarray]:
        pairs = [np.linalg.eigh((h * g) @ h.T) for h, g in zip(factors, gammas, strict=True)]
        back = [h.T @ u for h, (_, u) in zip(factors, pairs, strict=True)]
        values = np.multiply.outer(np.multiply.outer(pairs[0][0], pairs[1][0]), pairs[2][0])
        inverse = 1 / (no + values)
        weight = expand(inverse * expand(data, [u.T for _, u in pairs]), back)
        shrink = expand(inverse, [v * v for v in back])
        prior = np.multiply.outer(np.multiply.outer(gammas[0], gammas[1]), gammas[2])
        second = (prior * weight) ** 2 + np.maximum(prior - prior**2 * shrink, 0)
        new = [g / np.linalg.norm(g) for g in gammas]
        for _ in range(3):
            inner = second @ new[2]
            new[0] = inner @ new[1]
            new[0] /= np.linalg.norm(new[0])
            new[1] = new[0] @ inner
            new[1] /= np.linalg.norm(new[1])
            new[2] = np.outer(new[0], new[1]).reshape(-1) @ second.reshape(225, 15)
            new[2] /= np.linalg.norm(new[2])
        return new

    return iteration
