r"""Exact Hamiltonian draws from a Gaussian vector that is confined to a box, many at once.

A particle in the potential of :math:`\mathcal N(0, \Sigma)` with a velocity drawn from :math:`\mathcal N(0, \Sigma)` runs along

.. math:: y(t) = y\cos t + \dot y\sin t

without any error of integration. Where a coordinate m reaches a wall, the velocity is mirrored there,

.. math:: \dot y \leftarrow \dot y - 2\,\dot y_m\,\Sigma_{:m}/\Sigma_{mm},

which keeps energy and volume, so that the place after a fixed time is a draw that is never refused [Pakman2014]_. Nothing is
factorised or inverted on the way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

_COMPACT = 0.7  # particles at rest are dropped when no more than this share still moves


class Box(NamedTuple):
    """Where particles may go.

    Args:
        low: float64, (rows, size), lower walls; -inf where there is none.
        high: float64, (rows, size), upper walls, above the lower ones.
        outward: float64, (rows, size), +-1 towards the wall, where each coordinate has just one, at 0; else ``None``.
    """

    low: torch.Tensor
    high: torch.Tensor
    outward: torch.Tensor | None = None

    def at(self, rows: torch.Tensor) -> Box:
        """The boxes of some rows."""
        return Box(self.low[rows], self.high[rows], None if self.outward is None else self.outward[rows])


def column_table(covariance: torch.Tensor) -> torch.Tensor:
    """Columns of real covariances over their diagonals, for complex circular vectors written as (re, im) pairs.

    Args:
        covariance: complex128, (G, size, size), Hermitian.

    Returns:
        float64, (G, 2 size, 2 size): row m is the direction in which a velocity is mirrored at a wall of coordinate m.
    """
    unit = covariance.mT / covariance.diagonal(dim1=-2, dim2=-1).real[..., None]  # row m: column m over its diagonal
    rows = torch.stack([unit, 1j * unit], dim=-2)  # E[y Re y_m] and E[y Im y_m] of a circular vector
    return torch.view_as_real(rows).flatten(-2).flatten(-3, -2).contiguous()


def travel(
    y: torch.Tensor,
    velocity: torch.Tensor,
    box: Box,
    columns: torch.Tensor,
    table: torch.Tensor,
    duration: torch.Tensor,
    max_bounces: int,
) -> torch.Tensor:
    """Let particles run for some time.

    Args:
        y: float64, (rows, size), inside the box.
        velocity: float64, (rows, size).
        box: its walls.
        columns: of `column_table`, (G, size, size).
        table: int64, (rows,): which of the G covariances a particle has.
        duration: float64, (rows,), greater than 0.
        max_bounces: a particle that would bounce more often stays where it started, which is as reversible as the way.

    Returns:
        float64, (rows, size). Cost: about a dozen passes over (rows, size) a bounce; particles at rest are left out.
    """
    result, size = y.clone(), y.shape[1]
    flat = columns.reshape(-1, size)
    rows, left = torch.arange(len(y), device=y.device), duration
    base = table * size
    for _ in range(max_bounces):
        first, wall = _first_wall(y, velocity, box)
        hits = first < left
        step = torch.where(hits, first, left)
        cos, sin = step.cos()[:, None], step.sin()[:, None]
        y, velocity = y * cos + velocity * sin, velocity * cos - y * sin
        left = left - step
        # At rest the time left is 0 and stays so: nothing moves any more.
        here = wall[:, None]
        towards = velocity.gather(1, here)
        velocity = velocity - torch.where(hits[:, None], 2 * towards, 0.0) * flat.index_select(0, base + wall)
        _put_on_wall(y, velocity, here, towards, hits, box)
        moving = int(hits.sum())
        if moving <= _COMPACT * len(rows):
            done = ~hits
            result[rows[done]] = y[done]
            if not moving:
                return result
            rows, left, base, y, velocity = rows[hits], left[hits], base[hits], y[hits], velocity[hits]
            box = box.at(hits)
    done = left == 0
    result[rows[done]] = y[done]
    return result


def _first_wall(y: torch.Tensor, velocity: torch.Tensor, box: Box) -> tuple[torch.Tensor, torch.Tensor]:
    """When each particle reaches its first wall, (rows,), at most a full turn; and the coordinate, int64 (rows,).

    Times of one particle are compared by a cotangent, which falls with time and needs no inverse functions.
    """
    if box.outward is not None:  # y cos t + v sin t = 0 at cot t = -v / y, in half a turn
        cotangent = (velocity * box.outward).div_(y.abs().clamp_min_(1e-300))
        first, wall = cotangent.max(dim=1)
        return torch.atan2(torch.ones_like(first), first), wall
    # Ahead of each coordinate is one wall; the one behind counts where it turns round before.
    rising = velocity > 0
    sign = torch.where(rising, 1.0, -1.0).to(y.dtype)
    place, speed = y * sign, velocity.abs()
    ahead, behind = torch.where(rising, box.high, -box.low), torch.where(rising, box.low, -box.high)
    energy = velocity.square().add_(y.square())
    onward = energy > ahead.square()
    # (w - y) c^2 - 2 v c + (w + y) = 0 with c = cot(t/2); of the two forms of its larger root the one without a difference.
    room = energy - torch.where(onward, ahead, behind).square_()
    reach = room.clamp_min(0).sqrt_().add_(speed)
    top = torch.where(onward, reach, behind + place)
    bottom = torch.where(onward, ahead - place, reach).clamp_min_(1e-300)
    first, wall = top.div_(bottom).masked_fill_(room <= 0, -math.inf).max(dim=1)
    return 2 * torch.atan2(torch.ones_like(first), first), wall


def _put_on_wall(
    y: torch.Tensor, velocity: torch.Tensor, here: torch.Tensor, towards: torch.Tensor, hits: torch.Tensor, box: Box
) -> None:
    """Set the coordinate that hit to its wall, and its velocity to what it was, mirrored, both without rounding (in place)."""
    wall = torch.where(towards > 0, box.high.gather(1, here), box.low.gather(1, here))
    hit = hits[:, None] & wall.isfinite()
    y.scatter_(1, here, torch.where(hit, wall, y.gather(1, here)))
    velocity.scatter_(1, here, torch.where(hit, -towards, velocity.gather(1, here)))
