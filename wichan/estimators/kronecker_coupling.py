"""Coupling of neighbouring prior variances, for coefficients that come in blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

#: Added to every coupled variance, relative to the largest of its factor.
FLOOR = 1e-5
#: Steps of the nonnegative fit from the target, and from the fit of the sweep before.
FIRST_STEPS, NEXT_STEPS = 20, 8


def coupling_matrix(size: int, grid: Sequence[int] | None, coupling: float, *, periodic: bool = False) -> torch.Tensor:
    """Ones on the diagonal, ``coupling`` between neighbours on a grid, float64 (size, size).

    Args:
        size: number of columns of the factor.
        grid: its shape, last axis fastest; ``None`` is a line. Columns beyond it have no neighbours.
        coupling: the weight of a neighbour.
        periodic: the ends of each grid axis are neighbours.
    """
    grid = (size,) if grid is None else tuple(grid)
    matrix = torch.eye(size, dtype=torch.float64)
    index = torch.arange(torch.Size(grid).numel()).reshape(grid)
    for axis, length in enumerate(grid):
        if length < 2:
            continue
        a, b = index.narrow(axis, 0, length - 1).flatten(), index.narrow(axis, 1, length - 1).flatten()
        if periodic and length > 2:
            a = torch.cat([a, index.select(axis, length - 1).flatten()])
            b = torch.cat([b, index.select(axis, 0).flatten()])
        matrix[a, b] = matrix[b, a] = coupling
    return matrix


def nonnegative_steps(
    matrix: torch.Tensor, bound: float, target: torch.Tensor, active: torch.Tensor, start: torch.Tensor, steps: int
) -> torch.Tensor:
    r"""Accelerated projected gradient steps towards the least ||C g - r|| over g >= 0.

    The same few products for all instances, whatever their active sets. From its target, 20 steps end 0.02 to 0.2 % above
    the least residual in the median, where 20 multiplicative steps :math:`g \circ (C^T r) / (C^T C g)` end 1 to 6 % above.

    Args:
        matrix: C, symmetric, real (N, N).
        bound: its largest squared eigenvalue.
        target: r, real (B, N).
        active: 1 where a row and column of C counts, else 0, real (B, N).
        start: g, (B, N), at least 0.
        steps: how many.

    Source: the acceleration of [Beck2009]_.
    """
    rise = torch.mm(target * active, matrix).div_(bound)
    g = ahead = start
    momentum = 1.0
    for _ in range(steps):
        fitted = torch.mm(ahead, matrix).mul_(active)
        new = torch.addmm(ahead + rise, fitted, matrix, alpha=-1 / bound).clamp_min_(0).mul_(active)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = torch.lerp(g, new, 1 + (momentum - 1) / following)
        g, momentum = new, following
    return g


class Coupling:
    """The coupled factors of one solver.

    Args:
        matrices: factor -> C, real (Nk, Nk), in working precision.
    """

    def __init__(self, matrices: Mapping[int, torch.Tensor]) -> None:
        self.matrices = dict(matrices)
        self.bounds = {k: float(torch.linalg.eigvalsh(c.double()).abs().max()) ** 2 for k, c in self.matrices.items()}

    def projection(self, gammas: Sequence[torch.Tensor]) -> Projection:
        """A projection onto what coupled variances can be, for an M-step from ``gammas``, (B, Nk) a factor."""
        return Projection(self, gammas)


class Projection:
    """``projection(k, r)`` is the nonnegative fit C g of r, plus a floor; ``r`` itself where factor k is not coupled.

    Within an M-step each fit starts from the one before, so that few steps are enough. Where variances are switched off, C
    loses their rows and columns.
    """

    def __init__(self, coupling: Coupling, gammas: Sequence[torch.Tensor]) -> None:
        self._matrices, self._bounds = coupling.matrices, coupling.bounds
        self._active = {k: (gammas[k] > 0).to(gammas[k].dtype) for k in self._matrices}
        self._fit: dict[int, torch.Tensor] = {}

    def __call__(self, k: int, value: torch.Tensor) -> torch.Tensor:
        if k not in self._matrices:
            return value
        matrix, active = self._matrices[k], self._active[k]
        before = self._fit.get(k)
        start, steps = (value * active, FIRST_STEPS) if before is None else (self._scaled(k, before, value), NEXT_STEPS)
        g = nonnegative_steps(matrix, self._bounds[k], value, active, start, steps)
        self._fit[k] = g
        fitted = torch.mm(g, matrix)
        return (fitted + FLOOR * fitted.amax(-1, keepdim=True)).mul_(active)

    def _scaled(self, k: int, fit: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """The fit of before on the scale of today's ``value``: a fit that lags behind drives the factors' scales apart."""
        seen = torch.mm(fit, self._matrices[k]).mul_(self._active[k])
        power = seen.square().sum(-1, keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)
        return fit * ((seen * value).sum(-1, keepdim=True) / power)
