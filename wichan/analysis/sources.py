"""What the functions of this room read: channels with axes in seconds and hertz, and covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int, check_tensor
from wichan.grid import OFDMGrid, check_grid

Transform = Callable[[torch.Tensor], torch.Tensor]
WINDOWS = ("rectangular", "hann")
CHUNK_BYTES = 32 << 20
AXES = ("space", "time", "frequency")


def lattice(name: str, points: Any, grid: OFDMGrid | None, count: int) -> torch.Tensor:
    """Return evenly spaced rising points, float64 (count,).

    Args:
        name: ``"times"`` or ``"frequencies"``.
        points: the points themselves, or ``None``: those of ``grid``.
        grid: the OFDM lattice, or ``None``.
        count: how many the channel has.

    Raises:
        InvalidValueError: neither is given, or the points are not evenly spaced.
        ShapeError: another number of points.
    """
    if points is None:
        if grid is None:
            raise InvalidValueError(f"{name} is missing; give grid= or {name}=")
        points = getattr(check_grid(grid), name)
    points = check_tensor(name, points, kind="real").to(dtype=torch.float64, device="cpu")
    if tuple(points.shape) != (count,):
        raise ShapeError(f"{name} has shape {tuple(points.shape)}; the channel asks for ({count},)")
    if count > 1:
        gaps = points.diff()
        # A thousandth of a step: what float32 instants of a long recording still keep.
        if not bool((gaps > 0).all()) or float((gaps - gaps.mean()).abs().max()) > 1e-3 * float(gaps.mean()):
            raise InvalidValueError(f"{name} must rise in equal steps")
    return points


def step_of(name: str, points: torch.Tensor) -> float:
    """Distance of neighbouring points; one point has none."""
    if points.numel() < 2:
        raise InvalidValueError(f"{name} has one point; at least 2 are needed here")
    return float(points[-1] - points[0]) / (points.numel() - 1)


def window_of(name: str | None, size: int) -> torch.Tensor:
    r"""Window of mean power 1, float64 (size,): :math:`\sum_n w_n^2 = \mathrm{size}`."""
    if check_choice("window", "rectangular" if name is None else name, WINDOWS) == "rectangular":
        return torch.ones(size, dtype=torch.float64)
    window = torch.hann_window(size + 2, periodic=False, dtype=torch.float64)[1:-1]  # without the two zeros
    return window * (size / window.square().sum()).sqrt()


def check_channel(h: Any, minimum_axes: int = 1) -> torch.Tensor:
    """Return a complex channel with at least that many axes, none empty."""
    check_tensor("h", h, kind="complex")
    if h.dim() < minimum_axes or 0 in h.shape:
        raise ShapeError(f"h has shape {tuple(h.shape)}; it needs at least {minimum_axes} axes, none empty")
    return torch.as_tensor(h)


def is_covariance(source: Any) -> bool:
    """Whether ``source`` is a covariance; a channel is the other allowed thing, and anything else is refused."""
    if isinstance(source, ChannelCovariance):
        return True
    if not isinstance(source, torch.Tensor):
        raise InvalidTypeError(f"source must be a channel (torch.Tensor) or a ChannelCovariance, got {type(source).__name__}")
    return False


def grid_of(source: Any, grid: OFDMGrid | None) -> OFDMGrid | None:
    """The grid given, or else the one that a covariance was computed for."""
    return source.grid if grid is None and isinstance(source, ChannelCovariance) else grid


def rows_of(h: torch.Tensor, batch_dims: int) -> torch.Tensor:
    r"""Bring a channel to (kept, rows, n): the first ``batch_dims`` axes are kept, those between are averaged over."""
    check_int("batch_dims", batch_dims, minimum=0, maximum=h.dim() - 1)
    return h.reshape(math.prod(h.shape[:batch_dims]), -1, h.shape[-1])


def parts_of(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Cut (kept, rows, n) so that a padded complex128 copy of ``size`` columns stays small."""
    yield from rows.split(max(CHUNK_BYTES // (16 * size * max(rows.shape[0], 1)), 1), dim=1)


def axis_columns(covariance: ChannelCovariance, axis: str) -> list[torch.Tensor]:
    r"""Columns whose outer products sum to the covariance along one axis, averaged over the other two.

    Returns:
        complex128 tensors (\*batch, n, r), one for each term.
    """
    which = AXES.index(check_choice("axis", axis, AXES))
    others = math.prod(covariance.sizes) / covariance.sizes[which]
    return [term.marginals()[which] / math.sqrt(others) for term in covariance.terms]


def _powers(matrix: torch.Tensor, transform: Transform | None) -> torch.Tensor:
    r"""Mean or transformed power of thin columns, (\*batch, n, r) -> (\*batch, n'); n' = 1 without a transform."""
    if transform is None:
        return torch.view_as_real(matrix).square().sum(dim=(-3, -2, -1)).unsqueeze(-1) / matrix.shape[-2]
    return torch.view_as_real(transform(matrix.mT).resolve_conj()).square().sum(dim=(-3, -1))


def expected_power(
    covariance: ChannelCovariance,
    *,
    space: Transform | None = None,
    time: Transform | None = None,
    frequency: Transform | None = None,
) -> torch.Tensor:
    r"""Mean power of a linearly transformed channel, :math:`E|(A \otimes B \otimes C) h|^2`, from its covariance.

    Args:
        covariance: second moment; several conditions are averaged over.
        space, time, frequency: linear map of one axis, applied to the last axis of a complex128 tensor; ``None`` means
            that the power is averaged over that axis.

    Returns:
        float64, (n_space, n_time, n_frequency); axes without a map have length 1.

    Cost: one transform of every thin column.
    """
    total: Any = 0.0
    for term in covariance.terms:
        if isinstance(term, KroneckerTerm):
            s, t, f = (
                _powers(factor, transform).expand(*term.batch_shape, -1).reshape(math.prod(term.batch_shape), -1)
                for factor, transform in zip(term.factors, (space, time, frequency), strict=True)
            )
            total = total + torch.einsum("ba,bt,bf->atf", s, t, f) / s.shape[0]
            continue
        level = term.factor.mT.unflatten(-1, term.sizes)  # (*batch, r, space, time, frequency)
        maps = ((-3, space), (-2, time), (-1, frequency))
        for axis, transform in maps:
            if transform is not None:
                level = transform(level.movedim(axis, -1)).movedim(-1, axis)
        power = torch.view_as_real(level.resolve_conj()).square().sum(-1)
        for axis, transform in maps:
            if transform is None:
                power = power.mean(axis, keepdim=True)
        total = total + power.sum(-4).reshape(-1, *power.shape[-3:]).mean(0)
    return torch.as_tensor(total)
