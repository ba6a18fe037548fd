r"""Monotone ascent over the phases of a reflecting surface, batched over channels and starts.

The channel is :math:`G_f(\theta) = \sum_l \theta_l Z_{l,f} + D_f`, the objective a function of all G_f with gradient
:math:`M_f = \partial J / \partial G_f^*`. What element l adds to first order is the real part of :math:`\theta_l s_l`,
:math:`s_l = \sum_f \langle M_f, Z_{l,f} \rangle`, and the step turns every phase towards :math:`\theta_l s_l > 0` at once. For
a convex objective such as the gain of the best beams the full step never descends (minorise and maximise); otherwise it is an
ascent direction, because :math:`x \sin x \ge 0`, and its length is halved until the objective rises.

Few paths leave few directions at the antennas: all matrices are first rotated into the joint column and row spaces of the
Z_l (their higher-order SVD), after which a step costs 16 r_b r_a L F FLOP instead of 16 Nbs Nms L F.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

_KEPT = 1e-13  # eigenvalues of Gram matrices below this part of the largest are rounding
_SHORTEST, _LONGEST = 2.0**-10, 1.9  # of a step; a convex objective may fall beyond 2
_RACE = 12  # steps after which the better third of the starts goes on alone


class Objective(Protocol):
    """What to maximise, as a function of the channel (*batch, F, rows, columns)."""

    def value(self, channel: torch.Tensor) -> torch.Tensor:
        """Objective, real, (*batch)."""

    def value_and_gradient(self, channel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Objective, and its gradient with respect to the conjugate of the channel, up to a positive factor."""


@dataclass(frozen=True, eq=False)
class Core:
    """A cascade in the coordinates of its own column and row space.

    Attributes:
        elements: complex128, (B, L, n), n = F * rows * columns: the matrices Z_{l,f}.
        direct: complex128, (B, n): D_f, zeros where there is none.
        shape: (F, rows, columns).
        has_direct: whether there is a direct link.
    """

    elements: torch.Tensor
    direct: torch.Tensor
    shape: tuple[int, int, int]
    has_direct: bool

    def channel(self, reflection: torch.Tensor) -> torch.Tensor:
        """G of reflections (B, S, L), flat: (B, S, n)."""
        return reflection @ self.elements + self.direct[:, None]

    def fold(self, channel: torch.Tensor) -> torch.Tensor:
        """(..., n) as (..., F, rows, columns)."""
        return channel.unflatten(-1, self.shape)


def compress(cascade: torch.Tensor, has_direct: bool) -> Core:
    r"""Rotate a cascade into the joint column and row spaces of its matrices, exact to rounding.

    Args:
        cascade: complex, (B, num_bs_ant, num_ms_ant, L [+ 1], F).
        has_direct: whether the last entry of the axis of elements is the direct link.

    Returns:
        `Core`, with as many rows and columns as the largest rank in the batch.

    Cost: 4 (Nbs + Nms) Nbs Nms L F FLOP for the Gram matrices, as much as (Nbs + Nms) / 4 steps without it.
    """
    z = cascade.to(torch.complex128).permute(0, 4, 3, 1, 2)  # (B, F, L, Nbs, Nms)
    left = _range(z.permute(0, 3, 1, 2, 4).flatten(2))
    z = left.mH[:, None, None] @ z if left.shape[-1] < z.shape[-2] else z
    right = _range(z.permute(0, 4, 1, 2, 3).flatten(2))
    z = z @ right.conj()[:, None, None] if right.shape[-1] < z.shape[-1] else z
    rows = z.transpose(1, 2).flatten(2)
    direct = rows[:, -1] if has_direct else torch.zeros_like(rows[:, 0])
    return Core(rows[:, : rows.shape[1] - has_direct], direct, (z.shape[1], z.shape[3], z.shape[4]), has_direct)


def _range(unfolded: torch.Tensor) -> torch.Tensor:
    """Orthonormal basis of the columns of (B, n, m), (B, n, r); r is the largest rank in the batch, at least 1."""
    values, vectors = torch.linalg.eigh(unfolded @ unfolded.mH)
    top = values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    rank = max(1, int((values > _KEPT * unfolded.shape[-2] * top).sum(dim=-1).max())) if len(values) else 1
    return vectors[..., -rank:]


def starts(core: Core, count: int, *, sums: bool = False) -> torch.Tensor:
    r"""Reflections to start from: phases of the leading singular vectors of all matrices Z_l side by side, (B, count, L).

    Each of them points the surface from one pair of directions into another. For several streams, sums of the leading two,
    three, ... serve several at once. The vectors come from an orthogonal iteration that begins with chirps, whose spectrum is
    flat, so that no direction is missed and no generator is needed. Chirps also fill up where there are fewer vectors.

    Args:
        core: the channel.
        count: starts.
        sums: the first vector and sums of the leading ones for two thirds, and chirps, instead of the leading ones.

    Cost: six iterations of 16 n L count FLOP.
    """
    num_elements = core.elements.shape[1]
    index = torch.arange(num_elements, dtype=torch.float64, device=core.elements.device)
    rate = torch.arange(1, count + 1, dtype=torch.float64, device=index.device)
    turns = torch.remainder(rate[:, None] * index * index / (2 * num_elements), 1.0)
    chirps = _unit(2 * torch.pi * turns).expand(len(core.elements), -1, -1)
    leading = min(count - count // 3 if sums else count, core.elements.shape[2], num_elements)
    basis = chirps[:, :leading]
    for _ in range(6):
        basis = torch.linalg.qr(((basis @ core.elements) @ core.elements.mH).mT).Q.mT
    found = basis.cumsum(dim=1) if sums else basis
    return torch.cat([unit_modulus(found), chirps[:, leading:]], dim=1)


def unit_modulus(z: torch.Tensor) -> torch.Tensor:
    """z / |z|, 1 where z is 0."""
    size = z.abs()
    return torch.where(size > 0, z / torch.where(size > 0, size, torch.ones_like(size)), torch.ones_like(z))


def values_at(core: Core, reflection: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Objective of reflections (B, S, L), (B, S)."""
    return objective.value(core.fold(core.channel(reflection)))


def race(core: Core, reflection: torch.Tensor, objective: Objective, *, max_iter: int, tol: float) -> torch.Tensor:
    r"""Climb from all starts for a while, then from the better third of them, and return the best end.

    Args:
        core, reflection, objective, max_iter, tol: as in `ascend`.

    Returns:
        (B, L).
    """
    first = min(max_iter, _RACE)
    theta, value = ascend(core, reflection, objective, max_iter=first, tol=tol)
    ahead = value.topk(-(-value.shape[1] // 3), dim=1).indices
    theta = theta.gather(1, ahead[..., None].expand(-1, -1, theta.shape[-1]))
    if max_iter > first:
        theta, value = ascend(core, theta, objective, max_iter=max_iter - first, tol=tol)
        best = value.argmax(dim=1)
    else:
        best = torch.zeros(len(theta), dtype=torch.long, device=theta.device)
    return theta[torch.arange(len(theta), device=theta.device), best]


def ascend(
    core: Core, reflection: torch.Tensor, objective: Objective, *, max_iter: int, tol: float
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Climb from every start; a step is taken only where the objective rises.

    Args:
        core: the channel.
        reflection: starts, complex128, (B, S, L), unit modulus.
        objective: what to maximise.
        max_iter: steps at most.
        tol: a start rests once a step has gained no more than this part of its value.

    Returns:
        reflections (B, S, L) and their values (B, S).

    Cost: a step takes 16 n L FLOP a start and one eigenvalue problem a subcarrier.
    """
    theta = reflection
    value, towards = _look(core, theta, objective)
    length = torch.ones_like(value)
    resting = torch.zeros_like(value, dtype=torch.bool)
    for _ in range(max_iter):
        tried = theta * _unit(length[..., None] * towards)
        new_value, new_towards = _look(core, tried, objective)
        better = (new_value > value) & ~resting
        small = new_value - value <= tol * value.abs()
        theta = torch.where(better[..., None], tried, theta)
        towards = torch.where(better[..., None], new_towards, towards)
        value = torch.where(better, new_value, value)
        resting |= torch.where(better, small, length <= _SHORTEST)
        length = torch.where(better, length * 1.5, length / 2).clamp(_SHORTEST, _LONGEST)
        if bool(resting.all()):
            break
    return theta, value


def _look(core: Core, theta: torch.Tensor, objective: Objective) -> tuple[torch.Tensor, torch.Tensor]:
    """Objective at theta (B, S, L), and by how much each phase is to turn [rad]."""
    value, gradient = objective.value_and_gradient(core.fold(core.channel(theta)))
    m = gradient.flatten(-3).conj()
    towards = -(theta * (m @ core.elements.mT)).angle()
    if core.has_direct:  # all may turn together towards the direct link; for one stream this is the optimum in one step
        towards = towards + (m @ core.direct[..., None]).angle()
        towards = torch.remainder(towards + torch.pi, 2 * torch.pi) - torch.pi
    return value, towards


def _unit(angle: torch.Tensor) -> torch.Tensor:
    return torch.polar(torch.ones_like(angle), angle)
