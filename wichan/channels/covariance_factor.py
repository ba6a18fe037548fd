r"""Thin factors of a channel covariance, kept in Tucker form so that an N x r matrix need not exist.

A sum of Kronecker terms :math:`R = \sum_c (A_c \otimes B_c \otimes C_c)(\cdot)^H` lives in the product of three small
subspaces: those that the stacked factors of space, time and frequency span. Everything is done in coordinates of those
subspaces (a higher-order singular value decomposition), and expanded when asked for:

.. math:: G = (U_S \otimes U_T \otimes U_F)\, M , \qquad R = G G^H + \text{(what was cut off)} .

Source: De Lathauwer, De Moor, Vandewalle, "A multilinear singular value decomposition", SIAM J. Matrix Anal. Appl., 2000.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from wichan.linalg import compress_factor, mode_product

if TYPE_CHECKING:
    from wichan.channels.covariance import KroneckerTerm

Axis = torch.Tensor | None
_FEW_COLUMNS = 768  # columns that are compressed in one eigendecomposition
_CHUNK_VALUES = 2**21  # complex128 values that an intermediate result may hold: 32 MiB


def cheapest_order(sizes: Sequence[int], targets: Sequence[int]) -> tuple[int, ...]:
    """Return the order of mode products that takes axes from ``sizes`` to ``targets`` with the fewest multiply-adds."""

    def cost(order: tuple[int, ...]) -> int:
        now, total = list(sizes), 0
        for axis in order:
            total += math.prod(now) * targets[axis]
            now[axis] = targets[axis]
        return total

    return min(itertools.permutations(range(len(sizes))), key=cost)


def apply_modes(x: torch.Tensor, matrices: Sequence[Axis]) -> torch.Tensor:
    r"""Multiply the last axes of ``x`` by one matrix each (``None`` is the identity), in the cheapest order.

    Args:
        x: complex, (\*batch, n_1, ..., n_d).
        matrices: d matrices (m_i, n_i), or with leading batch axes equal to the first of ``x``.

    Returns:
        complex, (\*batch, m_1, ..., m_d).
    """
    dims = len(matrices)
    active = {axis - dims: matrix for axis, matrix in enumerate(matrices) if matrix is not None}
    order: Sequence[int] = list(active)
    if len(active) > 1:
        # Axes that stay as they are scale all orders alike.
        pairs = [(x.shape[axis], matrix.shape[-2]) for axis, matrix in active.items()]
        order = [order[i] for i in cheapest_order([n for n, _ in pairs], [m for _, m in pairs])]
    for axis in order:
        x = mode_product(x, active[axis], axis)
    return x


@dataclass(frozen=True, eq=False)
class ThinFactor:
    r"""G with :math:`G G^H \approx R`, columns orthogonal and by descending energy, as Tucker bases and a core.

    Attributes:
        core: complex128, (a t f, r).
        bases: one orthonormal complex128 matrix each for antennas, times and subcarriers, (n, a); ``None`` is the identity.
        sizes: (num_ant, num_times, num_subcarriers).
        residual: real float64, (N,): diagonal of :math:`R - G G^H`, at least 0.
    """

    core: torch.Tensor
    bases: tuple[Axis, Axis, Axis]
    sizes: tuple[int, int, int]
    residual: torch.Tensor

    @property
    def rank(self) -> int:
        """Number of columns r."""
        return self.core.shape[-1]

    @property
    def core_shape(self) -> tuple[int, ...]:
        """Sizes (a, t, f) of the three coordinate axes."""
        return tuple(n if basis is None else basis.shape[-1] for n, basis in zip(self.sizes, self.bases, strict=True))

    def columns(self, start: int, stop: int) -> torch.Tensor:
        """Return columns ``start`` to ``stop`` of G, complex128, (stop - start, num_ant, num_times, num_subcarriers)."""
        return apply_modes(self.core[:, start:stop].T.reshape(-1, *self.core_shape), self.bases)

    def chunks(self) -> list[tuple[int, int]]:
        """Return ranges of columns whose expansion stays within 32 MiB (one column at least)."""
        step = max(1, _CHUNK_VALUES // math.prod(self.sizes))
        return [(start, min(start + step, self.rank)) for start in range(0, self.rank, step)]

    def dense(self) -> torch.Tensor:
        """Return G, complex128, (N, r)."""
        return self.columns(0, self.rank).flatten(1).T.contiguous()

    def energy(self, weights: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`\sum_k |G_{nk}|^2 w_k` for rows of real weights, (\*lead, r) -> (\*lead, N)."""
        total = weights.new_zeros(*weights.shape[:-1], math.prod(self.sizes))
        for start, stop in self.chunks():
            total += weights[..., start:stop] @ squared(self.columns(start, stop)).flatten(1).to(weights.dtype)
        return total


def squared(x: torch.Tensor) -> torch.Tensor:
    """Return |x|^2 elementwise."""
    real, imag = torch.view_as_real(x.resolve_conj()).unbind(-1)
    return torch.addcmul(real.square(), imag, imag)


def tucker_factor(
    terms: Sequence[KroneckerTerm],
    dense: Sequence[torch.Tensor],
    sizes: tuple[int, int, int],
    diagonal: torch.Tensor,
    rtol: float,
) -> ThinFactor:
    """Build the thin factor of a sum of unbatched terms.

    Args:
        terms: Kronecker terms.
        dense: further factors (N, r) that are no Kronecker products; with one of them the bases are the identity.
        sizes: (num_ant, num_times, num_subcarriers).
        diagonal: real float64, (N,), diagonal of the whole covariance.
        rtol: smallest eigenvalue to keep, relative to the largest.
    """
    rotated = [tuple(_rotate(m) for m in (term.space, term.time, term.frequency)) for term in terms]
    # The largest eigenvalue of a sum is at least that of any term. What lies a hundred times below the cut is dropped
    # before the terms are put together, so that a term's 20 rays do not become 20 columns where three would do.
    peak = max([math.prod(float(lam[0]) for _, lam in term) for term in rotated], default=0.0)
    floor = 0.01 * rtol * peak
    bases = _bases(rotated, max(rtol**2, 1e-30) * peak) if not dense else (None, None, None)
    blocks = [*(_coordinates(term, bases, floor) for term in rotated), *dense]
    if len(rotated) == len(blocks) == 1:
        core = _sorted_columns(blocks[0], rtol)
    else:
        core = compress_factor(_merge(blocks, 0.01 * rtol), rtol, name="covariance")
    factor = ThinFactor(core, bases, sizes, diagonal)
    kept = factor.energy(diagonal.new_ones(factor.rank))
    return replace(factor, residual=(diagonal - kept).clamp_min(0))


def _rotate(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a factor with orthogonal columns of descending energy, and that energy."""
    if matrix.shape[-1] > matrix.shape[-2]:
        matrix = compress_factor(matrix, 0.0)
    lam, vectors = torch.linalg.eigh(matrix.mH @ matrix)
    return matrix @ vectors.flip(-1), lam.flip(-1).clamp_min(0)


def _bases(terms: Sequence[tuple], floor: float) -> tuple[Axis, Axis, Axis]:
    """Return orthonormal bases of the three marginals; directions with less energy than ``floor`` are dropped.

    A direction of energy e takes cross terms of up to sqrt(e x largest eigenvalue) with it: hence the square of the
    tolerance on eigenvalues here.
    """
    found: list[Axis] = []
    for axis in range(3):
        rest = [math.prod(float(term[other][1].sum()) for other in range(3) if other != axis) for term in terms]
        stacked = torch.cat([term[axis][0] * math.sqrt(w) for term, w in zip(terms, rest, strict=True)], dim=-1)
        if stacked.shape[0] == 1:
            found.append(None)
            continue
        basis, singular, _ = torch.linalg.svd(stacked, full_matrices=False)
        keep = max(1, int((singular.square() > floor).sum()))
        found.append(None if keep == stacked.shape[0] else basis[:, :keep].contiguous())
    return found[0], found[1], found[2]


def _coordinates(term: tuple, bases: tuple[Axis, Axis, Axis], floor: float) -> torch.Tensor:
    """Return the columns a_i (x) b_j (x) c_l of a term in the coordinates of ``bases``, without negligible ones."""
    parts, energies = [], []
    for (matrix, lam), basis in zip(term, bases, strict=True):
        parts.append(matrix if basis is None else basis.mH @ matrix)
        energies.append(lam)
    energy = energies[0][:, None, None] * energies[1][None, :, None] * energies[2][None, None, :]
    # The strongest column stays whatever happens, so that an all-zero covariance has a factor too.
    i, j, k = torch.nonzero((energy > floor) | (energy == energy[0, 0, 0]), as_tuple=True)
    a, b, c = parts[0][:, i], parts[1][:, j], parts[2][:, k]
    return (a[:, None, None] * b[None, :, None] * c[None, None, :]).reshape(-1, i.numel())


def _merge(blocks: Sequence[torch.Tensor], rtol: float) -> torch.Tensor:
    """Put blocks of columns side by side; many are compressed pair by pair on the way, as in a knockout tournament.

    A model with hundreds of terms (one for each ray of a moving array) has thousands of columns and a rank of a hundred;
    neighbours belong to one cluster, so that most is gone after the first rounds, where matrices are small.
    """
    rounds = list(blocks)
    while sum(block.shape[-1] for block in rounds) > _FEW_COLUMNS and len(rounds) > 1:
        pairs = [torch.cat(rounds[i : i + 2], dim=-1) for i in range(0, len(rounds), 2)]
        rounds = [pair if pair.shape[-1] <= _FEW_COLUMNS // 8 else compress_factor(pair, rtol) for pair in pairs]
    return torch.cat(rounds, dim=-1)


def _sorted_columns(core: torch.Tensor, rtol: float) -> torch.Tensor:
    """Sort orthogonal columns by energy and drop those at or below ``rtol`` times the largest."""
    energy, order = squared(core).sum(0).sort(descending=True)
    keep = max(1, int((energy > rtol * energy[0]).sum())) if energy.numel() else 0
    return core[:, order[:keep]].contiguous()
