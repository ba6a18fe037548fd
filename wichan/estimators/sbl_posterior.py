r"""The Gaussian posterior behind sparse Bayesian learning, for any prior variances on the grid of a Kronecker dictionary.

With :math:`y = A x + n`, :math:`A = H_1 \otimes \dots \otimes H_I`, :math:`x \sim \mathcal{CN}(0, \mathrm{diag}(\gamma))`,

.. math:: S = \mathrm{no}\,I + A\,\mathrm{diag}(\gamma) A^H,\quad \mu = \gamma \circ A^H S^{-1} y,\quad
    \Sigma_{nn} = \gamma_n - \gamma_n^2 z_n,\quad z = \mathrm{diag}(A^H S^{-1} A) .

The variances need not be a Kronecker product. S is nevertheless formed without A: its entry
:math:`(i_1 \dots i_I,\, i'_1 \dots i'_I)` is :math:`\sum_n \gamma_n \prod_k H_k[i_k, n_k]\,H_k^*[i'_k, n_k]`, the mode
products of the array :math:`\gamma` with the matrices of products (M_k^2 x N_k); z is the same, transposed, of S^{-1}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch

from wichan.errors import check_choice
from wichan.linalg.solve import hermitian_cholesky

METHODS = ("auto", "modes", "support", "dense")
_CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**31}  # what the matrices of the instances that go together may take


class Moments(NamedTuple):
    r"""What one expectation step finds.

    Args:
        mean: (B, N1..NI), posterior mean.
        variance: real, same shape, the posterior variances.
        cost: real (B,), :math:`\log\det S + y^H S^{-1} y`.
        noise: real (B,), the next noise variance of expectation maximisation.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    cost: torch.Tensor
    noise: torch.Tensor


def contract(x: torch.Tensor, matrices: Sequence[torch.Tensor], *, real: bool = False) -> torch.Tensor:
    r"""Multiply every axis of ``x`` but the first by a matrix, those that shrink it most first.

    Args:
        x: (B, n1..nI), real or complex.
        matrices: (m_k, n_k), one an axis.
        real: only the real part is wanted.

    Returns:
        (B, m1..mI).

    Cost: m_k multiply-adds an element that there is at that point; half for what is real on one side.
    """
    order = sorted(range(len(matrices)), key=lambda k: matrices[k].shape[0] / matrices[k].shape[1])
    for k in order:
        right, rows = matrices[k].mT, x.movedim(k + 1, -1)
        if real and k == order[-1] and rows.is_complex():
            parts = torch.view_as_real(rows.resolve_conj()).flatten(-2)
            made = parts @ torch.stack([right.real, -right.imag], dim=1).flatten(0, 1)
        elif right.is_complex() and not rows.is_complex():
            made = rows @ torch.view_as_real(right.resolve_conj()).flatten(-2)
            made = torch.view_as_complex(made.unflatten(-1, (-1, 2)))
        else:
            made = rows @ right
        x = made.movedim(-1, k + 1)
    return x.real if real and x.is_complex() else x


def _cholesky(matrix: torch.Tensor, name: str) -> torch.Tensor:
    """Cholesky factor of what is Hermitian by construction; jitter, with its warning, only where that fails."""
    lower, info = torch.linalg.cholesky_ex(matrix)
    return hermitian_cholesky(matrix, name=name) if bool((info != 0).any()) else lower


def _products(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Entry (i, j), n of the result is left[i, n] conj(right[j, n]); (m_left m_right, N)."""
    return (left.unsqueeze(1) * right.conj()).flatten(0, 1)


def support_indices(mask: torch.Tensor, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the true entries of each row of ``mask`` (B, N), padded with 0 to the longest (or ``size``).

    Returns:
        Indices int64 (B, n) and which of them are no padding, bool (B, n).
    """
    counts = mask.sum(dim=1)
    size = max(int(counts.max()), 1) if size is None else size
    rows, columns = mask.nonzero(as_tuple=True)
    index = torch.zeros(len(mask), size, dtype=torch.int64, device=mask.device)
    index[rows, (mask.cumsum(dim=1) - 1)[rows, columns]] = columns
    return index, torch.arange(size, device=mask.device) < counts.unsqueeze(1)


def mode_indices(index: torch.Tensor, sizes: Sequence[int]) -> list[torch.Tensor]:
    """Split indices into the flattened array (last axis fastest) into one a mode."""
    found = []
    for size in reversed(sizes):
        found.append(index % size)
        index = index // size
    return found[::-1]


def gather_columns(factors: Sequence[torch.Tensor], index: torch.Tensor, rows: slice = slice(None)) -> torch.Tensor:
    r"""Columns of the Kronecker product, never formed as a whole.

    Args:
        factors: (m_k, N_k).
        index: int64 (B, n), into the flattened columns.
        rows: which rows of the first factor.

    Returns:
        (B, prod m_k, n).
    """
    modes = mode_indices(index, [factor.shape[1] for factor in factors])
    chosen = [factor[:, at].transpose(0, 1) for factor, at in zip([factors[0][rows], *factors[1:]], modes, strict=True)]
    return reduce(lambda a, b: (a.unsqueeze(2) * b.unsqueeze(1)).flatten(1, 2), chosen)


def chunks(count: int, bytes_each: float, device: torch.device) -> Iterator[slice]:
    """Slices of ``count`` instances that together stay within what memory is given for."""
    step = max(1, int(_CHUNK_BYTES.get(device.type, 2**25) // max(bytes_each, 1)))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class GaussianPosterior:
    r"""Posterior moments of independent coefficients with given variances, for batches of observations.

    Args:
        factors: H_k, double precision, (M_k, N_k).
        method: ``"modes"``, S by mode products; ``"support"``, the equations of the atoms whose variance is not 0, in which
            all sums have positive terms; ``"dense"``, the textbook form with A itself, for comparison; ``"auto"``, for each
            observation "support" where at most three quarters as many atoms as measurements are left, otherwise "modes".

    All are exact. Multiply-adds an instance, M = prod M_k, N = prod N_k, n atoms left:

    ========= ==================================================================================================
    modes     M^3 (Cholesky factor and inverse), and for each of S and z the mode products: N (M_1^2 + ...), growing
              from N to M^2 elements, for M = (6, 3, 16) and N = 18^3 about 1.7e6 where M^2 N = 4.8e8
    support   n^3 2/3 + I n^2, and nothing that grows with M or N but the mode products of y, once
    dense     2 M^2 N + M^3 / 3
    ========= ==================================================================================================

    Memory: "modes" about six M x M matrices an instance, "support" about five n x n, "dense" M x N; instances go in chunks of
    32 MiB of them (2 GiB on a GPU).
    """

    def __init__(self, factors: Sequence[torch.Tensor], method: str = "auto") -> None:
        self.factors = list(factors)
        self.method = check_choice("method", method, METHODS)
        self.rows = tuple(factor.shape[0] for factor in factors)
        self.sizes = tuple(factor.shape[1] for factor in factors)
        self.measurements = math.prod(self.rows)
        self.grams = [factor.mH @ factor for factor in factors]
        self._squares: list[torch.Tensor] | None = None
        self._dense: torch.Tensor | None = None

    @property
    def squares(self) -> list[torch.Tensor]:
        """The matrices of products, (M_k^2, N_k)."""
        if self._squares is None:
            self._squares = [_products(factor, factor) for factor in self.factors]
        return self._squares

    @property
    def dense(self) -> torch.Tensor:
        """A, (M, N)."""
        if self._dense is None:
            self._dense = reduce(torch.kron, self.factors)
        return self._dense

    def correlate(self, y: torch.Tensor) -> torch.Tensor:
        """A^H y by mode products: (B, M1..MI) to (B, N1..NI)."""
        return contract(y, [factor.mH for factor in self.factors])

    def measure(self, x: torch.Tensor) -> torch.Tensor:
        """A x by mode products: (B, N1..NI) to (B, M1..MI)."""
        return contract(x, self.factors)

    # -- Which equations an instance is solved with. --

    def _groups(self, gamma: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
        """Instances and how each group of them is solved; those on their support in order of its size."""
        counts = (gamma > 0).flatten(1).sum(dim=1)
        everyone = torch.arange(len(gamma), device=gamma.device)
        if self.method in ("modes", "dense"):
            return [(self.method, everyone)]
        small = torch.ones_like(counts, dtype=torch.bool) if self.method == "support" else 4 * counts <= 3 * self.measurements
        found = [("support", everyone[small][counts[small].argsort(stable=True)]), ("modes", everyone[~small])]
        return [(name, index) for name, index in found if len(index)]

    def _parts(self, gamma: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """The groups in chunks that fit into memory."""
        counts = (gamma > 0).flatten(1).sum(dim=1)
        width = 16 if self.factors[0].is_complex() else 8
        for method, index in self._groups(gamma):
            # Padding is to the longest support of a chunk, and the longest of the group bounds them all.
            size = max(int(counts[index].max()), 1) if method == "support" else self.measurements
            columns = math.prod(self.sizes) if method == "dense" else 0
            for part in chunks(len(index), width * (6 * size**2 + 2 * size * columns), gamma.device):
                yield method, index[part]

    # -- Moments of the coefficients. --

    def moments(self, y: torch.Tensor, no: torch.Tensor, gamma: torch.Tensor, correlation: torch.Tensor) -> Moments:
        r"""Mean, variances, cost and the next noise variance.

        Args:
            y: (B, M1..MI), in the dtype of the factors.
            no: real (B,), greater than 0.
            gamma: real (B, N1..NI), at least 0; an atom with 0 takes no part.
            correlation: A^H y, (B, N1..NI), which does not change from step to step.

        The next noise variance is :math:`(\|y - A\mu\|^2 + \mathrm{no} \sum_n (1 - \Sigma_{nn}/\gamma_n))/M`.
        """
        mean, variance = torch.zeros_like(correlation), torch.zeros_like(gamma)
        cost, noise = torch.zeros_like(no), torch.zeros_like(no)
        for method, at in self._parts(gamma):
            solve = self._on_support if method == "support" else self._on_measurements
            found = solve(y[at], no[at], gamma[at], correlation[at])
            mean[at], variance[at], cost[at], noise[at] = found
        return Moments(mean, variance, cost, noise)

    def _covariance(self, no: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        """S, (B, M, M)."""
        if self.method == "dense":
            weighted = self.dense * gamma.flatten(1).unsqueeze(1)
            total = weighted @ self.dense.mH
        else:
            pairs = [size for size in self.rows for _ in range(2)]
            total = contract(gamma, self.squares).reshape(len(gamma), *pairs)
            count = len(self.rows)
            total = total.permute(0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2))
            total = total.reshape(len(gamma), self.measurements, self.measurements)
        total.diagonal(dim1=1, dim2=2).add_(no.unsqueeze(1))
        return total

    def _quadratic(self, lower: torch.Tensor) -> torch.Tensor:
        """diag(A^H S^-1 A), (B, N1..NI), from the Cholesky factor of S."""
        if self.method == "dense":
            white = torch.linalg.solve_triangular(lower, self.dense.expand(len(lower), -1, -1), upper=False)
            return white.abs().square().sum(dim=1).unflatten(1, self.sizes)
        count = len(self.rows)
        split = torch.cholesky_inverse(lower).reshape(len(lower), *self.rows, *self.rows)
        split = split.permute(0, *[axis for k in range(count) for axis in (1 + k, 1 + count + k)])
        split = split.reshape(len(lower), *[size**2 for size in self.rows])
        return contract(split, [square.mH for square in self.squares], real=True)

    def _on_measurements(
        self, y: torch.Tensor, no: torch.Tensor, gamma: torch.Tensor, correlation: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        lower = _cholesky(self._covariance(no, gamma), "covariance of y")
        flat = y.flatten(1)
        dual = torch.cholesky_solve(flat.unsqueeze(2), lower).squeeze(2)
        explained = gamma * self._quadratic(lower)  # 1 - variance / gamma
        mean = gamma * self.correlate(dual.reshape(y.shape))
        variance = gamma * (1 - explained).clamp_min(0.0)
        log_det = 2 * lower.diagonal(dim1=1, dim2=2).real.log().sum(dim=1)
        cost = log_det + (flat.conj() * dual).real.sum(dim=1)
        residual = no.square() * dual.abs().square().sum(dim=1)  # y - A mean = no S^-1 y
        noise = (residual + no * explained.flatten(1).sum(dim=1)) / self.measurements
        return mean, variance, cost, noise

    # -- The same on the support: (I + D A^H A D / no)^-1 with D = sqrt(gamma), atoms with gamma = 0 left out. --

    def _support_factor(
        self, no: torch.Tensor, gamma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cholesky factor (B, n, n), square roots of the variances (B, n), indices and what is no padding."""
        flat = gamma.flatten(1)
        index, real = support_indices(flat > 0)
        root = flat.gather(1, index).sqrt() * real
        modes = mode_indices(index, self.sizes)
        gram = reduce(torch.mul, [gram[at.unsqueeze(2), at.unsqueeze(1)] for gram, at in zip(self.grams, modes, strict=True)])
        gram = gram * root.unsqueeze(2) * (root / no.unsqueeze(1)).unsqueeze(1)
        gram.diagonal(dim1=1, dim2=2).add_(1.0)
        return _cholesky(gram, "equations of the support"), root, index, real

    def _on_support(
        self, y: torch.Tensor, no: torch.Tensor, gamma: torch.Tensor, correlation: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        lower, root, index, real = self._support_factor(no, gamma)
        flat = correlation.flatten(1)
        white = (root * flat.gather(1, index) / no.unsqueeze(1)).unsqueeze(2)
        small = torch.cholesky_solve(white, lower).squeeze(2)  # mean over root
        eye = torch.eye(lower.shape[1], dtype=lower.dtype, device=lower.device).expand_as(lower)
        inverse = torch.linalg.solve_triangular(lower, eye, upper=False).abs().square().sum(dim=1)
        # Padding carries zeros; adding them at index 0 changes nothing, writing them would.
        mean = torch.zeros_like(flat).scatter_add_(1, index, root * small).reshape(correlation.shape)
        variance = torch.zeros_like(gamma.flatten(1)).scatter_add_(1, index, root.square() * inverse).reshape(gamma.shape)
        residual = (y - self.measure(mean)).flatten(1).abs().square().sum(dim=1)
        cost = self.measurements * no.log() + 2 * lower.diagonal(dim1=1, dim2=2).real.log().sum(dim=1)
        cost = cost + residual / no + small.abs().square().sum(dim=1)
        noise = (residual + no * ((1 - inverse) * real).sum(dim=1)) / self.measurements
        return mean, variance, cost, noise

    # -- Variance of linear functions of the coefficients. --

    def channel_variance(self, synthesis: Sequence[torch.Tensor], no: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        r"""diag(C Sigma C^H) for C = C_1 x .. x C_I (Kronecker): the variance of what the coefficients make.

        Args:
            synthesis: C_k, (C_k, N_k).
            no: real (B,), greater than 0.
            gamma: real (B, N1..NI).

        Returns:
            real (B, C1..CI).

        Cost: prod C_k times half the square of n or M, in chunks of the rows of C_1; C is never formed.
        """
        heights = tuple(factor.shape[0] for factor in synthesis)
        result = torch.zeros(len(gamma), *heights, dtype=gamma.dtype, device=gamma.device)
        rest = math.prod(heights[1:])
        for method, at in self._parts(gamma):
            lower, root, index, _ = self._support_factor(no[at], gamma[at]) if method == "support" else (None,) * 4
            if lower is None:
                lower = _cholesky(self._covariance(no[at], gamma[at]), "covariance of y")
            for rows in chunks(heights[0], 48.0 * rest * lower.shape[1] * len(at), gamma.device):
                if root is not None and index is not None:
                    seen = (gather_columns(synthesis, index, rows) * root.unsqueeze(1)).mH
                    found = torch.linalg.solve_triangular(lower, seen, upper=False).abs().square().sum(dim=1)
                    result[at, rows] = found.reshape(len(at), -1, *heights[1:])
                else:
                    part = [synthesis[0][rows], *synthesis[1:]]
                    result[at, rows] = self._unexplained(part, lower, gamma[at])
        return result

    def _unexplained(self, synthesis: Sequence[torch.Tensor], lower: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        """diag(C Gamma C^H) less what the measurements explain of it."""
        prior = contract(gamma, [factor.abs().square() for factor in synthesis])
        pairs = [_products(left, right) for left, right in zip(self.factors, synthesis, strict=True)]
        heights = [factor.shape[0] for factor in synthesis]
        cross = contract(gamma, pairs).reshape(
            len(gamma), *[size for pair in zip(self.rows, heights, strict=True) for size in pair]
        )
        count = len(heights)
        cross = cross.permute(0, *range(1, 2 * count, 2), *range(2, 2 * count + 1, 2))
        cross = cross.reshape(len(gamma), self.measurements, -1)
        explained = torch.linalg.solve_triangular(lower, cross.to(lower.dtype), upper=False).abs().square().sum(dim=1)
        return (prior - explained.reshape(prior.shape)).clamp_min(0.0)
