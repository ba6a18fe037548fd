"""Paths at continuous directions: posterior, evidence, damped Gauss-Newton steps, and what their error does to the channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from wichan.estimators.off_grid_axes import PathAxis, Table

#: Share of an atom outside the span of the others below which it counts as spanned.
SPANNED = 1e-10


@dataclass
class Paths:
    """P paths of B instances: ``directions``, (B, P, D) an axis; ``direct``, bool, and ``power``, 0 where is none, (B, P)."""

    directions: list[torch.Tensor]
    direct: torch.Tensor
    power: torch.Tensor

    @classmethod
    def nothing(cls, axes: Sequence[PathAxis], count: int, slots: int, device: torch.device) -> Paths:
        """Empty slots."""
        power = torch.zeros(count, slots, dtype=torch.float64, device=device)
        return cls([power[..., None].repeat(1, 1, axis.dims) for axis in axes], power > 0, power)

    def rows(self, index: torch.Tensor, slots: int) -> Paths:
        """The first ``slots`` paths of a subset of the instances."""
        return Paths([u[index, :slots] for u in self.directions], self.direct[index, :slots], self.power[index, :slots])

    def put(self, index: torch.Tensor, other: Paths) -> None:
        """Write a subset back, in place."""
        slots = other.power.shape[1]
        for mine, new in zip(
            (*self.directions, self.direct, self.power), (*other.directions, other.direct, other.power), strict=True
        ):
            mine[index, :slots] = new


@dataclass
class State:
    """What one evaluation finds: tables of atoms, Gram blocks (B, G, G, P, P), correlations (B, G, P), posterior, cost (B,)."""

    tables: list[Table]
    gram: torch.Tensor
    seen: torch.Tensor
    gains: torch.Tensor
    covariance: torch.Tensor
    cost: torch.Tensor

    def where(self, mask: torch.Tensor, other: State) -> State:
        """This where ``mask`` (B,), the other elsewhere."""

        def pick(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.where(mask.reshape(-1, *[1] * (a.dim() - 1)), a, b)

        tables = [a.where(mask, b) for a, b in zip(self.tables, other.tables, strict=True)]
        names = ("gram", "seen", "gains", "covariance", "cost")
        return State(tables, *(pick(getattr(self, name), getattr(other, name)) for name in names))


class PathModel:
    r"""y = A(u) x + n with Gaussian gains :math:`x_p \sim CN(0, \gamma_p)` of paths at directions u.

    The columns of A are Kronecker products of one atom an axis, so every Gram matrix, also those of derivatives, is an
    elementwise product of small ones, and nothing of size M x P is made. The cost is that of `KroneckerSBL`,

    .. math:: L(u, \gamma) = \log\det S + y^H S^{-1} y, \qquad S = \mathrm{no}\, I + A \Gamma A^H,

    whose second term is the least squares residual :math:`\min_x \|y - A x\|^2 / \mathrm{no} + x^H \Gamma^{-1} x`.

    Args:
        axes: in the order of the measurement's axes.
        y: complex128, (B, M1, ..., MI).
        no: float64, (B,), above 0.
    """

    def __init__(self, axes: Sequence[PathAxis], y: torch.Tensor, no: torch.Tensor) -> None:
        self.axes, self.y, self.no = list(axes), y, no
        # Block g of the Gram matrix: 0 plain atoms, else the derivative with respect to (axis, coordinate) number g - 1.
        self.blocks = [(-1, 0)] + [(k, d + 1) for k, axis in enumerate(axes) for d in range(axis.dims)]
        self.num_measurements = y[0].numel()
        self.energy = y.abs().square().flatten(1).sum(1)

    def rows(self, index: torch.Tensor) -> PathModel:
        """The model of a subset of the instances."""
        return PathModel(self.axes, self.y[index], self.no[index])

    def evaluate(self, paths: Paths) -> State:
        """Posterior of the gains and cost at these paths."""
        tables = [axis.table(u, paths.direct) for axis, u in zip(self.axes, paths.directions, strict=True)]
        gram, seen = self._gram(tables), self._correlate(tables)
        return State(tables, gram, seen, *self.posterior(gram[:, 0, 0], seen[:, 0], paths.power))

    def _gram(self, tables: list[Table]) -> torch.Tensor:
        total = None
        for k, table in enumerate(tables):
            atoms = table.measured
            batch, kinds, _, count = atoms.shape
            flat = atoms.transpose(1, 2).flatten(2)
            small = (flat.mH @ flat).reshape(batch, kinds, count, kinds, count).transpose(2, 3)
            use = torch.tensor([d if axis == k else 0 for axis, d in self.blocks], device=small.device)
            part = small[:, use][:, :, use]
            total = part if total is None else total * part
        assert total is not None
        return total

    def _correlate(self, tables: list[Table]) -> torch.Tensor:
        """A^H y for plain atoms and every derivative, (B, G, P)."""
        plain: torch.Tensor | None = None
        others: dict[int, torch.Tensor] = {}
        for k in range(len(tables) - 1, -1, -1):
            atoms = tables[k].measured.conj()

            def contract(z: torch.Tensor, d: int, atoms: torch.Tensor = atoms) -> torch.Tensor:
                return (z * atoms[:, d, None]).sum(2)  # (B, R, Mk, P) to (B, R, P)

            if plain is None:
                first = self.y.reshape(len(self.y), -1, atoms.shape[2])
                made = [first @ atoms[:, d] for d in range(atoms.shape[1])]
            else:
                front = plain.reshape(len(plain), -1, atoms.shape[2], plain.shape[-1])
                made = [contract(front, d) for d in range(atoms.shape[1])]
                others = {g: contract(z.reshape(front.shape), 0) for g, z in others.items()}
            plain = made[0]
            others |= {g: made[d] for g, (axis, d) in enumerate(self.blocks) if axis == k}
        assert plain is not None
        return torch.cat([plain, *(others[g] for g in range(1, len(self.blocks)))], dim=1)

    def posterior(
        self, gram: torch.Tensor, seen: torch.Tensor, power: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean (B, P) and covariance (B, P, P) of the gains, and the cost (B,); paths of power 0 are switched off."""
        root, no = power.sqrt(), self.no[:, None, None]
        inner = root[:, :, None] * gram * root[:, None, :]
        # Next to no noise at all, what is left of it must not drown in rounding.
        lift = 1e-15 * power.shape[1] * torch.diagonal(inner, dim1=1, dim2=2).real.amax(1)
        inner = inner + (no + lift[:, None, None]) * torch.eye(power.shape[1], dtype=power.dtype, device=power.device)
        factor = torch.linalg.cholesky(inner)
        covariance = no * root[:, :, None] * torch.cholesky_inverse(factor) * root[:, None, :]
        gains = (covariance @ seen[..., None])[..., 0] / self.no[:, None]
        fit = (self.energy - (seen.conj() * gains).sum(1).real) / self.no
        determinant = 2 * torch.diagonal(factor, dim1=1, dim2=2).real.log().sum(1)
        return gains, covariance, (self.num_measurements - power.shape[1]) * self.no.log() + determinant + fit

    def residual(self, state: State) -> torch.Tensor:
        """y - A x at the posterior mean, (B, M1, ..., MI)."""
        return self.y - combine([t.measured[:, 0] for t in state.tables], state.gains)

    def channel(self, state: State) -> torch.Tensor:
        """Channel of the posterior mean, (B, C1, ..., CI)."""
        return combine([t.channel[:, 0] for t in state.tables], state.gains)

    # -- Directions. --

    def curvature(self, state: State) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gauss-Newton matrix (B, DP, DP) of no/2 times the cost, its slope (B, DP), and the gains' response (B, D, P, P)."""
        gram, gains, cov = state.gram, state.gains, state.covariance
        missed = state.seen[:, 1:] - (gram[:, 1:, 0] @ gains[:, None, :, None])[..., 0]
        slope = (gains.conj()[:, None] * missed).real - torch.einsum("bgpq,bqp->bgp", gram[:, 1:, 0], cov).real
        moved = gains[:, None, None, :, None].conj() * gram[:, 1:, 1:] * gains[:, None, None, None, :]
        leak = gram[:, 0, 1:] * gains[:, None, None, :]
        response = cov[:, None] @ leak / self.no[:, None, None, None]
        back = leak.mH[:, :, None] @ response[:, None]  # (B, D, D, P, P)
        matrix = (moved - back).real.permute(0, 1, 3, 2, 4)
        size = matrix.shape[1] * matrix.shape[2]
        return matrix.reshape(-1, size, size), slope.reshape(-1, size), response

    def newton(self, paths: Paths, steps: int) -> tuple[Paths, State]:
        """Damped Gauss-Newton steps on the directions; each is taken only by the instances whose cost falls."""
        state = self.evaluate(paths)
        damping = torch.full_like(self.no, 1e-3)
        for _ in range(steps):
            matrix, slope, _ = self.curvature(state)
            free = self._free(paths)
            own = torch.diagonal(state.gram[:, 1:, 1:], dim1=-2, dim2=-1).diagonal(dim1=1, dim2=2).real.mT  # (B, D, P)
            own = (own * state.gains.abs().square()[:, None]).flatten(1)
            lift = damping[:, None] * own + 1e-12 * own.amax(1, keepdim=True) + 1e-300
            matrix = torch.where(free[:, :, None] & free[:, None, :], matrix, 0)
            matrix = matrix + torch.diag_embed(torch.where(free, lift, 1.0))
            step = torch.linalg.solve_ex(matrix, torch.where(free, slope, 0))[0].nan_to_num(0.0)
            trial = Paths(self._moved(paths.directions, step), paths.direct, paths.power)
            found = self.evaluate(trial)
            better = found.cost <= state.cost
            paths.directions = [
                torch.where(better[:, None, None], new, old)
                for new, old in zip(trial.directions, paths.directions, strict=True)
            ]
            state = found.where(better, state)
            damping = torch.where(better, damping / 5, damping * 10).clamp(1e-12, 1e9)
        return paths, state

    def _moved(self, directions: list[torch.Tensor], step: torch.Tensor) -> list[torch.Tensor]:
        steps = step.unflatten(1, (len(self.blocks) - 1, -1))
        moved, at = [], 0
        for axis, u in zip(self.axes, directions, strict=True):
            moved.append(axis.wrap(u + steps[:, at : at + axis.dims].mT))
            at += axis.dims
        return moved

    # -- Powers. --

    def update_powers(self, state: State, power: torch.Tensor, threshold: float) -> torch.Tensor:
        r"""Set each path's power to its maximum of the evidence in turn, and to 0 where it explains too little.

        With s and q the atom's :math:`a^H S^{-1} a` and :math:`a^H S^{-1} y` without the path itself, the maximum is
        :math:`(|q|^2 - s) / s^2`; :math:`|q|^2 / s` is exponential of mean 1 where there is no path.
        """
        gram, seen, power = state.gram[:, 0, 0], state.seen[:, 0], power.clone()
        threshold = max(threshold, 1.0)  # below, the maximum is at power 0
        for p in range(power.shape[1]):
            there = power[:, p] > 0
            power[:, p] = 0
            gains, covariance, _ = self.posterior(gram, seen, power)
            cross = gram[:, :, p]
            own = cross[:, p].real
            spread = (cross.conj()[:, None, :] @ covariance @ cross[..., None])[:, 0, 0].real / self.no
            s = (own - spread) / self.no
            square = ((seen[:, p] - (cross.conj() * gains).sum(1)) / self.no).abs().square()
            # An atom that the others span has nothing of its own to explain.
            there = there & (own - spread > SPANNED * own) & (square > threshold * s)
            s = torch.where(there, s, 1.0)
            power[:, p] = torch.where(there, (square - s) / s.square(), 0)
        return power

    # -- Uncertainty. --

    def _free(self, paths: Paths) -> torch.Tensor:
        """Which coordinates move, (B, DP): those of paths that are there; a direct path has none at the surface."""
        moving = paths.power > 0
        return torch.cat([moving & ~(paths.direct & (self.axes[k].name == "irs")) for k, _ in self.blocks[1:]], dim=1)

    def _precision(self, state: State, paths: Paths) -> torch.Tensor:
        """Inverse covariance of the directions, (B, DP, DP), with a prior as wide as half a beam."""
        matrix = self.curvature(state)[0]
        widths = [torch.full_like(paths.power, float(self.axes[k].shape[d - 1]) ** 2) for k, d in self.blocks[1:]]
        return (matrix + matrix.mT) / self.no[:, None, None] + torch.diag_embed(torch.cat(widths, dim=1))

    def occam(self, state: State, paths: Paths) -> torch.Tensor:
        r"""What the directions cost, (B,): :math:`\tfrac12 \log\det(C_u^{-1} / 2\pi) + D \log 2`, D coordinates in [-1, 1).

        Added to the cost it is Laplace's approximation of minus the logarithm of the evidence with the directions
        integrated out, comparable with that of a grid, which has none.
        """
        free = self._free(paths)
        precision = torch.where(free[:, :, None] & free[:, None, :], self._precision(state, paths), 0)
        precision = precision + torch.diag_embed(torch.where(free, 0.0, 2 * torch.pi))
        values = torch.linalg.eigvalsh(precision).clamp_min(1e-300)
        each: torch.Tensor = 0.5 * (values / (2 * torch.pi)).log().sum(1) + free.sum(1) * math.log(2.0)
        return each

    def channel_variance(self, state: State, paths: Paths) -> torch.Tensor:
        r"""Posterior variance of the channel, (B, C1, ..., CI): gains at known directions, and directions to first order.

        .. math:: \operatorname{diag}\big(B \Sigma B^H\big) + \operatorname{diag}\big(T\, C_u T^H\big),\qquad
            T = \partial_u (B x) - B\, \Sigma A^H \partial_u (A x) / \mathrm{no}

        with B the channel's atoms and :math:`C_u` the inverse of the Gauss-Newton curvature of the evidence, bounded by a
        prior whose deviation is half the width of a beam (beyond, no first order holds).
        """
        _, _, response = self.curvature(state)
        spread = torch.linalg.eigh(self._precision(state, paths))
        root = spread.eigenvectors / spread.eigenvalues.clamp_min(1e-300).sqrt()[:, None, :]
        turns = root.unflatten(1, (len(self.blocks) - 1, -1)).to(state.gains.dtype)  # (B, D, P, DP)
        halves = torch.linalg.eigh(state.covariance)
        lower = halves.eigenvectors * halves.eigenvalues.clamp_min(0).sqrt()[:, None, :]
        plain = torch.cat([lower, -(response @ turns).sum(1)], dim=2)
        outcome = _spread([t.channel[:, 0] for t in state.tables], plain, None)
        for g, (k, d) in enumerate(self.blocks[1:]):
            atoms = [t.channel[:, d if j == k else 0] for j, t in enumerate(state.tables)]
            outcome = _spread(atoms, torch.cat([torch.zeros_like(lower), state.gains[..., None] * turns[:, g]], dim=2), outcome)
        return outcome.abs().square().sum(-1)


def combine(atoms: list[torch.Tensor], gains: torch.Tensor) -> torch.Tensor:
    """Sum over paths of gain times the outer product of the atoms: (B, Ck, P) and (B, P) to (B, C1, ..., CI)."""
    left = atoms[0] * gains[:, None]
    for atom in atoms[1:-1]:
        left = (left[:, :, None, :] * atom[:, None]).flatten(1, 2)
    return (left @ atoms[-1].mT).reshape(len(gains), *(atom.shape[1] for atom in atoms))


def _spread(atoms: list[torch.Tensor], weights: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
    """Products of the atoms (B, C1, ..., CI, P) times ``weights`` (B, P, R), added to what was there before."""
    whole = atoms[0]
    for atom in atoms[1:]:
        whole = (whole[:, :, None, :] * atom[:, None]).flatten(1, 2)
    made = (whole @ weights).reshape(len(weights), *(atom.shape[1] for atom in atoms), -1)
    return made if before is None else before + made
