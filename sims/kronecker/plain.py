"""A second implementation to check against: one instance, NumPy, literal, nothing shared with the library.

Written from the formulas, so that tests can compare every iteration, and so that the published details which the
library does not follow can be measured: hyper-parameters that start at one, pruning that removes atoms, and a posterior from a
general eigenvalue decomposition of a matrix that is symmetric up to rounding only (``symmetric=False``): where a factor has
fewer rows than atoms, the eigenvectors that such a routine returns for the zero eigenvalues are not orthogonal, and the
posterior is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def mode(array: Array, matrix: Array, axis: int) -> Array:
    """Mode product: ``matrix`` on one axis."""
    return np.moveaxis(np.tensordot(matrix, array, axes=(1, axis)), 0, axis)


def modes(array: Array, matrices: Sequence[Array]) -> Array:
    """Mode products on all axes."""
    for axis, matrix in enumerate(matrices):
        array = mode(array, matrix, axis)
    return array


def outer(vectors: Sequence[Array]) -> Array:
    """v1 o v2 o ... as an array."""
    result = np.ones(())
    for vector in vectors:
        result = result[..., None] * vector
    return result


def posterior(factors: Sequence[Array], gammas: Sequence[Array], y: Array, no: float) -> tuple[Array, Array, float]:
    """Mean, variance and cost log det Sy + y^H Sy^-1 y, from eigenvalues on the side of the rows."""
    bases, rotations, spectra = [], [], []
    for factor, gamma in zip(factors, gammas, strict=True):
        level, basis = np.linalg.eigh((factor * gamma) @ factor.conj().T)
        spectra.append(np.maximum(level, 0))
        rotations.append(basis.conj().T)
        bases.append(factor.conj().T @ basis)
    inverse = 1 / (no + outer(spectra))
    turned = modes(y, rotations)
    prior = outer(gammas)
    mean = prior * modes(inverse * turned, bases)
    variance = prior - prior**2 * modes(inverse, [np.abs(basis) ** 2 for basis in bases])
    cost = float(np.sum(inverse * np.abs(turned) ** 2) - np.sum(np.log(inverse)))
    return mean, np.maximum(variance, 0), cost


def posterior_general(factors: Sequence[Array], gammas: Sequence[Array], y: Array, no: float) -> tuple[Array, Array, float]:
    """The same from a general eigenvalue routine on the side of the atoms, as the published KSBL has it: no cost."""
    bases, spectra = [], []
    for factor, gamma in zip(factors, gammas, strict=True):
        root = np.sqrt(gamma)
        level, basis = np.linalg.eig((root[:, None] * (factor.conj().T @ factor)) * root)
        spectra.append(level.real)
        bases.append(root[:, None] * basis.real if np.isrealobj(factor) else root[:, None] * basis)
    share = 1 / (outer(spectra) + no)
    back = modes(y, [factor.conj().T for factor in factors])
    mean = modes(share * modes(back, [basis.conj().T for basis in bases]), bases)
    return mean, modes(no * share, [np.abs(basis) ** 2 for basis in bases]).real, np.nan


def rank_one(matrix: Array) -> tuple[Array, Array]:
    """Leading singular vector and the scaled other one, both non-negative."""
    left, level, right = np.linalg.svd(matrix, full_matrices=False)
    return np.abs(left[:, 0]), level[0] * np.abs(right[0])


def step_svd(second: Array, gammas: Sequence[Array]) -> list[Array]:
    """Sequential rank-one fit of the unconstrained update."""
    found = []
    for axis in range(len(gammas) - 1):
        first, rest = rank_one(second.reshape(len(gammas[axis]), -1))
        found.append(first)
        second = rest
    return [*found, second.reshape(-1)]


def sweep(second: Array, gammas: Sequence[Array]) -> list[Array]:
    """One pass of the closed-form updates, each with the newest values of the others."""
    found = [gamma.copy() for gamma in gammas]
    for axis in range(len(found)):
        others = [np.ones_like(g) if k == axis else g for k, g in enumerate(found)]
        rest = tuple(k for k in range(len(found)) if k != axis)
        found[axis] = (second / outer(others)).mean(rest)
    return found


def step_am(second: Array, gammas: Sequence[Array], tol: float = 1e-10, most: int = 500) -> list[Array]:
    """Alternating minimisation until the product stands still; the scale is in the last factor."""
    found = list(gammas)
    for _ in range(most):
        before = outer(found)
        found = sweep(second, found)
        norms = [np.linalg.norm(gamma) for gamma in found[:-1]]
        found = [*(g / n for g, n in zip(found[:-1], norms, strict=True)), found[-1] * np.prod(norms)]
        after = outer(found)
        if np.linalg.norm(after - before) <= tol * np.linalg.norm(after):
            break
    return found


def step_mm(factors: Sequence[Array], gammas: Sequence[Array], y: Array, no: float) -> list[Array]:
    """The majoriser's update: square roots of ratios, factor by factor."""
    bases, rotations, spectra = [], [], []
    for factor, gamma in zip(factors, gammas, strict=True):
        level, basis = np.linalg.eigh((factor * gamma) @ factor.conj().T)
        spectra.append(np.maximum(level, 0))
        rotations.append(basis.conj().T)
        bases.append(factor.conj().T @ basis)
    inverse = 1 / (no + outer(spectra))
    slope = modes(inverse, [np.abs(basis) ** 2 for basis in bases])
    power = np.abs(outer(gammas) * modes(inverse * modes(y, rotations), bases)) ** 2
    found = [gamma.copy() for gamma in gammas]
    for axis in range(len(found)):
        others = outer([np.ones_like(g) if k == axis else g for k, g in enumerate(found)])
        rest = tuple(k for k in range(len(found)) if k != axis)
        found[axis] = np.sqrt((power / others).sum(rest) / (slope * others).sum(rest))
    return found


@dataclass
class Trace:
    """What a run leaves.

    Attributes:
        mean: coefficients, (N1, ..., NI).
        gammas: full length, zero where pruned.
        costs: of every E-step.
        iterations: number of EM iterations.
        means: coefficients of every E-step, if asked for.
    """

    mean: Array
    gammas: list[Array]
    costs: list[float] = field(default_factory=list)
    iterations: int = 0
    means: list[Array] = field(default_factory=list)


def solve(
    factors: Sequence[Array],
    y: Array,
    no: float,
    m_step: str = "svd",
    *,
    threshold: float = 0.0,
    max_iter: int = 150,
    tol: float = 1e-4,
    start: Sequence[Array] | None = None,
    symmetric: bool = True,
    inner_tol: float = 1e-10,
    keep_means: bool = False,
) -> Trace:
    """EM as published: prune, E-step, M-step, relative stopping rule, and a last E-step.

    Args:
        factors: (Mk, Nk) each.
        y: (M1, ..., MI) or flat.
        no: noise variance.
        m_step: "svd", "am", "single" or "mm".
        threshold: atoms below this share of their factor's largest hyper-parameter are removed.
        max_iter: EM iterations.
        tol: relative change of the product of the hyper-parameters.
        start: hyper-parameters (default: ones).
        symmetric: False takes `posterior_general`.
        inner_tol: of "am".
        keep_means: keep the coefficients of every iteration.
    """
    y = np.asarray(y).reshape([factor.shape[0] for factor in factors])
    full = [np.ones(factor.shape[1]) for factor in factors] if start is None else [np.array(g) for g in start]
    e_step = posterior if symmetric else posterior_general
    trace = Trace(np.zeros([factor.shape[1] for factor in factors]), full)
    for _ in range(max_iter):
        kept, few, gammas = _pruned(factors, full, threshold)
        mean, variance, cost = e_step(few, gammas, y, no)
        trace.costs.append(cost)
        if keep_means:
            trace.means.append(_spread(mean, kept, full))
        if m_step == "mm":
            new = step_mm(few, gammas, y, no)
        else:
            second = np.abs(mean) ** 2 + variance
            new = _step(m_step, second, gammas, inner_tol)
        after = [np.zeros(len(g)) for g in full]
        for place, keep, gamma in zip(after, kept, new, strict=True):
            place[keep] = gamma
        before, now = outer(full), outer(after)
        full = after
        trace.iterations += 1
        if np.linalg.norm(now - before) <= tol * np.linalg.norm(before):
            break
    kept, few, gammas = _pruned(factors, full, 0.0)
    mean, _, cost = e_step(few, gammas, y, no)
    trace.costs.append(cost)
    trace.mean, trace.gammas = _spread(mean, kept, full), full
    return trace


def _step(m_step: str, second: Array, gammas: Sequence[Array], inner_tol: float) -> list[Array]:
    if m_step == "svd":
        return step_svd(second, gammas)
    return sweep(second, gammas) if m_step == "single" else step_am(second, gammas, inner_tol)


def _pruned(factors: Sequence[Array], full: Sequence[Array], threshold: float) -> tuple[list[Array], list[Array], list[Array]]:
    kept = [np.flatnonzero((gamma > 0) & (gamma >= threshold * gamma.max())) for gamma in full]
    few = [factor[:, keep] for factor, keep in zip(factors, kept, strict=True)]
    return kept, few, [gamma[keep] for gamma, keep in zip(full, kept, strict=True)]


def _spread(mean: Array, kept: Sequence[Array], full: Sequence[Array]) -> Array:
    whole = np.zeros([len(gamma) for gamma in full], dtype=mean.dtype)
    whole[np.ix_(*kept)] = mean
    return whole


def dense_sbl(
    dictionary: Array, y: Array, no: float, *, threshold: float = 0.0, max_iter: int = 150, tol: float = 1e-4
) -> tuple[Array, Array, int]:
    """Classical SBL by Cholesky, gammas start at one: mean, hyper-parameters, iterations."""
    gamma = np.ones(dictionary.shape[1])
    mean = np.zeros(dictionary.shape[1], dtype=y.dtype)
    count = 0
    for count in range(1, max_iter + 1):  # noqa: B007 (returned)
        keep = np.flatnonzero((gamma > 0) & (gamma >= threshold * gamma.max()))
        few, prior = dictionary[:, keep], gamma[keep]
        root = np.linalg.cholesky((few * prior) @ few.conj().T + no * np.eye(len(y)))
        white, target = np.linalg.solve(root, few), np.linalg.solve(root, y)
        part = prior * (white.conj().T @ target)
        variance = np.maximum(prior - prior**2 * (np.abs(white) ** 2).sum(0), 0)
        new = np.zeros_like(gamma)
        new[keep] = np.abs(part) ** 2 + variance
        change = np.linalg.norm(new - gamma) / np.linalg.norm(gamma)
        gamma = new
        mean = np.zeros_like(mean)
        mean[keep] = part
        if change <= tol:
            break
    return mean, gamma, count
