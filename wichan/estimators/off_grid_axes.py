"""Axes of a link through a surface as functions of continuous directions: atoms, their derivatives, and a coarse search."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from wichan.observations.irs import IRSTraining

_CHUNK_BYTES = 1 << 26  # what the search may hold at once
_SCREENED = 48  # combinations of the other axes on which the longest axis is searched


@dataclass
class Table:
    """Atoms of P paths along one axis: what they measure, (B, 1 + D, M, P), and add to the channel, (B, 1 + D, C, P).

    Entry 0 of the second axis is the atom, entry d its derivative with respect to coordinate d.
    """

    measured: torch.Tensor
    channel: torch.Tensor

    def rows(self, index: torch.Tensor) -> Table:
        """A subset of the instances."""
        return Table(self.measured[index], self.channel[index])

    def where(self, mask: torch.Tensor, other: Table) -> Table:
        """These entries where ``mask`` (B,), others elsewhere."""
        pick = mask[:, None, None, None]
        return Table(
            torch.where(pick, self.measured, other.measured),
            torch.where(pick, self.channel, other.channel),
        )


class PathAxis:
    r"""One axis of an `IRSTraining` (``"irs"``, ``"ms"``, ``"bs"``, ``"delay"``) in coordinates that are 2-periodic.

    A response is :math:`e^{w \cdot u}` element by element, w imaginary, so its derivative is the response times w.
    Delays are measured in units of 1 / (2 subcarrier spacing), in which regular subcarriers are 2-periodic as well.

    Args:
        obs: the training.
        name: the axis.
        oversampling: points of the search grid per element of the array (at least 16 points a coordinate).
    """

    def __init__(self, obs: IRSTraining, name: str, oversampling: int) -> None:
        self.obs, self.name = obs, name
        shapes = {"irs": obs.irs.irs_shape, "ms": obs.irs.ms_shape, "bs": obs.irs.bs_shape}
        self.shape = tuple(shapes[name]) if name in shapes else (obs.num_subcarriers,)
        self.dims = len(self.shape)
        frequencies = obs.frequencies.double()
        spacing = frequencies.sort().values.diff().min().item() if name == "delay" else 1.0
        self.unit = 0.5 / spacing if name == "delay" else 1.0
        steps = ((frequencies - frequencies[0]) / spacing) if name == "delay" else frequencies[:1]
        self.periodic = bool(((steps - steps.round()).abs() < 1e-6).all())
        counts = [max(oversampling * size, 16) if size > 1 else 1 for size in self.shape]
        points = [-1 + 2 * torch.arange(count, dtype=torch.float64) / count for count in counts]
        grid = torch.cartesian_prod(*points) if self.dims > 1 else points[0]
        self.grid = grid.reshape(-1, self.dims).to(obs.frequencies.device)
        self.cells = math.prod(self.shape)
        self.weights = torch.stack([self._weight(d) for d in range(self.dims)])

    def _weight(self, d: int) -> torch.Tensor:
        """Derivative of the logarithm of the response with respect to coordinate d, (C,), imaginary."""
        if self.name == "delay":
            return -2j * math.pi * self.unit * self.obs.frequencies.double()
        behind = math.prod(self.shape[d + 1 :])  # elements are counted row by row
        element = torch.arange(self.cells, device=self.grid.device) // behind % self.shape[d]
        return 1j * math.pi * element.double()

    def _response(self, u: torch.Tensor) -> torch.Tensor:
        """(B, P, D) to (B, C, P)."""
        scaled = u * self.unit
        return self.obs.response(self.name, scaled if self.dims > 1 else scaled[..., 0])

    def _measured(self, response: torch.Tensor) -> torch.Tensor:
        if self.name == "irs":
            return self.obs.patterns.to(response.dtype) @ response
        return self.obs.pilots.to(response.dtype).mT @ response if self.name == "ms" else response

    def table(self, u: torch.Tensor, direct: torch.Tensor) -> Table:
        """Atoms and derivatives at ``u`` (B, P, D); paths that are ``direct`` (B, P) pass by the surface."""
        response = self._response(u)
        if self.name == "irs":
            response = torch.where(direct[:, None, :], 0, response)
        both = torch.stack([response, *(w[:, None] * response for w in self.weights)], dim=1)
        measured = self._measured(both)
        if self.name != "irs":
            return Table(measured, both)
        measured[:, 0] = torch.where(direct[:, None, :], 1, measured[:, 0])  # the same under every pattern
        return Table(measured, measured)

    def wrap(self, u: torch.Tensor) -> torch.Tensor:
        """Coordinates brought into [-1, 1)."""
        return torch.remainder(u + 1, 2) - 1 if self.periodic else u

    def physical(self, u: torch.Tensor) -> torch.Tensor:
        """Direction cosines in [-1, 1), or delays [s] from 0 to 1 / spacing: (B, P) or (B, P, 2)."""
        if self.name != "delay":
            return u if self.dims > 1 else u[..., 0]
        return (torch.remainder(u[..., 0], 2) if self.periodic else u[..., 0]) * self.unit


class PathSearch:
    r"""The single path that explains most of a residual, on a grid as fine as the arrays resolve.

    The score of a path is :math:`|a^H r|^2 / \|a\|^2`. The axis with most points is searched only for the combinations of
    the others whose share of the residual, an upper bound of every score there, is largest.

    Args:
        axes: those of the model.
        direct: whether paths that pass by the surface are candidates too.

    Cost: about 8 M sum(N_k) FLOP for the other axes and 8 * 48 M_j N_j for the longest, j.
    """

    def __init__(self, axes: list[PathAxis], direct: bool) -> None:
        self.axes = axes
        self.atoms, self.norms, self.directs = [], [], []
        for axis in axes:
            passing = torch.zeros(1, len(axis.grid), dtype=torch.bool, device=axis.grid.device)
            atoms = axis.table(axis.grid[None], passing).measured[0, 0]
            extra = direct and axis.name == "irs"
            if extra:
                atoms = torch.cat([atoms, atoms.new_ones(len(atoms), 1)], dim=1)
            norm = torch.linalg.vector_norm(atoms, dim=0).clamp_min(1e-12 * float(atoms.abs().max()))
            self.atoms.append(atoms / norm)
            self.norms.append(norm)
            self.directs.append(extra)
        self.last = max(range(len(axes)), key=lambda k: self.atoms[k].shape[1])

    def __call__(self, residual: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions (B, D) by axis, direct (B,), score (B,) and squared norm of the atom (B,) of ``residual`` (B, M1, ...)."""
        others = [k for k in range(len(self.axes)) if k != self.last]
        cells = math.prod(self.atoms[k].shape[1] for k in others) * residual.shape[self.last + 1]
        step = max(1, _CHUNK_BYTES // (32 * cells))
        parts = [self._search(rows, others) for rows in residual.split(step)]
        index, score = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
        norm = torch.ones_like(score)
        direct = torch.zeros_like(score, dtype=torch.bool)
        directions = []
        for k, axis in enumerate(self.axes):
            at = index[:, k]
            norm = norm * self.norms[k][at].square()
            if self.directs[k]:
                direct = at == len(axis.grid)
                at = torch.where(direct, 0, at)
            directions.append(axis.grid[at])
        return directions, direct, score, norm

    def _search(self, residual: torch.Tensor, others: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        seen = residual.movedim(self.last + 1, 1)
        for position, k in enumerate(others):
            seen = torch.tensordot(seen, self.atoms[k].conj(), dims=([2], [0]))  # the axis in front goes, its grid comes last
            del position
        shape = seen.shape[2:]
        seen = seen.flatten(2)
        kept = seen.abs().square().sum(1).topk(min(_SCREENED, seen.shape[2]), dim=1).indices
        picked = seen.gather(2, kept[:, None, :].expand(-1, seen.shape[1], -1))
        score = (self.atoms[self.last].mH @ picked).abs().square()
        best, flat = score.flatten(1).max(1)
        other = kept.gather(1, (flat % kept.shape[1])[:, None])[:, 0]
        index = torch.empty(len(residual), len(self.axes), dtype=torch.int64, device=residual.device)
        index[:, self.last] = flat // kept.shape[1]
        for k, at in zip(others, torch.unravel_index(other, shape), strict=True):
            index[:, k] = at
        return index, best
