r"""Laws of the paths of a hop: where they arrive and where they depart, as direction cosines in [-1, 1).

All laws are the same in distribution for arrival and departure convention, and every direction cosine alone is uniform:

- ``"uniform"``: every path has directions of its own, isotropic in space (a linear array sees a uniform cosine, a planar array
  the two components of a uniformly distributed unit vector);
- ``"cluster"``: one departure for the whole hop, arrivals with Laplacian offsets in angle around one isotropic centre;
- ``"grid"``: every path on a point of the grid of its own, drawn with replacement;
- ``"block"``: one departure grid point for the whole hop, arrivals on consecutive grid points, cyclic: the block-sparse law of
  [He2024]_. On a planar grid the block runs along a row (the column coordinate).

The grid has points :math:`u_g = -1 + 2g/R`, on each axis. The surface sees the sum of two cosines modulo 2: for even R it is
a point of the grid again, for odd R it lies halfway between two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int
from wichan.random import uniform

ANGLE_LAWS = ("uniform", "cluster", "grid", "block")


def wrap_cosine(u: torch.Tensor) -> torch.Tensor:
    """Bring direction cosines (or sums of them) into [-1, 1): arrays of half a wavelength see them with period 2."""
    wrapped = torch.remainder(u + 1, 2) - 1
    return torch.where(wrapped >= 1, wrapped - 2, wrapped)  # the remainder of a tiny negative number rounds to 2


def check_grid_size(value: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Grid points of each end's axes from an int, a pair, or a dict of them with keys ``"ms"``, ``"irs"``, ``"bs"``."""
    if value is None:
        raise InvalidValueError("grid_size=None is missing; the laws 'grid' and 'block' need the number of grid points")
    if isinstance(value, Mapping):
        for key in value:
            check_choice("grid_size", key, shapes)
        missing = [name for name in shapes if name not in value]
        if missing:
            raise InvalidValueError(f"grid_size has no entry {missing[0]!r}; it must have {', '.join(shapes)}")
        given = dict(value)
    else:
        given = dict.fromkeys(shapes, value)
    return {name: _points(name, given[name], len(shape)) for name, shape in shapes.items()}


def _points(end: str, value: Any, axes: int) -> tuple[int, ...]:
    if isinstance(value, (tuple, list)):
        if len(value) != axes:
            raise ShapeError(f"grid_size={tuple(value)} has {len(value)} axes; the array {end!r} has {axes}")
        return tuple(check_int("grid_size", size, minimum=1) for size in value)
    if isinstance(value, str):
        raise InvalidTypeError(f"grid_size={value!r} must be an integer, a pair, or a dict of them")
    return (check_int("grid_size", value, minimum=1),) * axes


def grid_cosines(index: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Direction cosines -1 + 2 g / R of grid indices, (*batch, axes), float64."""
    size = torch.tensor(sizes, dtype=torch.float64, device=index.device)
    return -1 + 2 * index.to(torch.float64) / size


def isotropic_cosines(count: tuple[int, ...], axes: int, generator: torch.Generator) -> torch.Tensor:
    """Direction cosines of isotropic directions, float64 (*count, axes); a planar array has its column cosine uniform first."""
    draw = uniform((*count, 2), generator=generator, dtype=torch.float64)
    first = 2 * draw[..., :1] - 1
    if axes == 1:
        return first
    around = (1 - first.square()).sqrt() * (2 * math.pi * draw[..., 1:]).cos()
    return torch.cat([around, first], dim=-1)


def laplace_offsets(count: tuple[int, ...], spread: float, generator: torch.Generator) -> torch.Tensor:
    """Laplacian angles of standard deviation ``spread`` [rad], cut at +-pi, float64."""
    draw = uniform(count, -1.0, 1.0, generator=generator, dtype=torch.float64)
    scale = spread / math.sqrt(2)
    mass = -math.expm1(-math.pi / scale) if scale > 0 else 1.0  # so that the cut density is drawn exactly
    return -scale * draw.sign() * torch.log1p(-draw.abs() * mass)


def turned_cosines(centre: torch.Tensor, azimuth: torch.Tensor, elevation: torch.Tensor) -> torch.Tensor:
    r"""Direction cosines (\*batch, axes) after turns of the centre's angles by azimuth and elevation [rad], (\*batch,).

    A linear array has one angle from broadside, u = sin(angle). A planar one has elevation e and azimuth a:
    u_row = sin(e), u_col = cos(e) sin(a).
    """
    if centre.shape[-1] == 1:
        return ((centre[..., 0].clamp(-1, 1).asin()) + azimuth).sin().unsqueeze(-1)
    row, col = centre.unbind(-1)
    lift = row.clamp(-1, 1).asin()
    across = (col / lift.cos().clamp(min=1e-12)).clamp(-1, 1).asin()
    raised = lift + elevation
    return torch.stack([raised.sin(), raised.cos() * (across + azimuth).sin()], dim=-1)


def draw_directions(
    law: str,
    batch_size: int,
    num_paths: int,
    axes: tuple[int, int],
    *,
    generator: torch.Generator,
    grid: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    spread: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw arrivals and departures of a hop.

    Args:
        law: one of `ANGLE_LAWS`.
        batch_size, num_paths: how many.
        axes: axes of the arrays at arrival and at departure, 1 or 2.
        generator: source of randomness; the answer is on its device.
        grid: grid points of the arrival's and the departure's axes, for the laws on a grid.
        spread: standard deviation of a cluster's angles [rad].

    Returns:
        ``(arrivals, departures)``, float64 (batch_size, num_paths, axes) in [-1, 1).
    """
    size, one = (batch_size, num_paths), (batch_size, 1)
    if law == "uniform":
        arrival, departure = (isotropic_cosines(size, count, generator) for count in axes)
    elif law == "cluster":
        centre, departure = (isotropic_cosines(one, count, generator) for count in axes)
        offsets = laplace_offsets((*size, 2), spread, generator)
        arrival = turned_cosines(centre.expand(*size, axes[0]), offsets[..., 0], offsets[..., 1])
    else:
        assert grid is not None
        start, other = (_draw_index(one if law == "block" else size, points, generator) for points in grid)
        if law == "block":
            step = torch.zeros(num_paths, axes[0], dtype=torch.int64, device=start.device)
            step[:, -1] = torch.arange(num_paths, device=start.device)
            start = (start + step) % torch.tensor(grid[0], device=start.device)
        arrival, departure = grid_cosines(start, grid[0]), grid_cosines(other, grid[1])
    return wrap_cosine(arrival), wrap_cosine(departure).expand(*size, axes[1]).contiguous()


def _draw_index(count: tuple[int, ...], points: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Independent uniform grid indices, int64 (*count, axes)."""
    draw = uniform((*count, len(points)), generator=generator, dtype=torch.float64)
    return (draw * torch.tensor(points, dtype=torch.float64, device=draw.device)).to(torch.int64)
