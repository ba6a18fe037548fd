"""Least-squares estimates at the pilots: which received elements give one, where it sits, and how to interpolate from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

from wichan.errors import InvalidValueError
from wichan.observations.ofdm import OFDMPilots


class Grouping(Protocol):
    """What despreading needs to know of a set of points: the fields of `PilotPoints` of the same name."""

    index: torch.Tensor
    valid: torch.Tensor
    antennas: torch.Tensor
    offsets: torch.Tensor


@dataclass
class PilotPoints:
    """Places where one transmit antenna's channel is known up to noise.

    A point is one pilot element, or the centre of the group of elements that tells antennas sharing them apart. Points are
    sorted by time, then by frequency.

    Attributes:
        index: int64, (num_points, group_size), positions in the pilot vector (repeated where a group is smaller).
        valid: bool, (num_points, group_size), false on repetitions.
        antennas: int64, (num_points, num_sharing), antennas in the group, this one first, -1 where fewer share.
        time, frequency: float64, (num_points,), centre in symbols and subcarriers.
        offsets: float64, (num_points, group_size, 2), symbol and subcarrier of each element from the centre.
    """

    index: torch.Tensor
    valid: torch.Tensor
    antennas: torch.Tensor
    time: torch.Tensor
    frequency: torch.Tensor
    offsets: torch.Tensor


def _neighbour_labels(active: torch.Tensor, symbols: list[int]) -> list[int]:
    """Label pilot elements so that neighbours in frequency with the same m antennas form groups of m."""
    labels = [0] * len(symbols)
    waiting: dict[tuple[int, tuple[bool, ...]], list[int]] = {}
    for element, (symbol, sending) in enumerate(zip(symbols, active.T.tolist(), strict=True)):
        waiting.setdefault((symbol, tuple(sending)), []).append(element)
    count = 0
    for (symbol, sending), elements in waiting.items():
        size = sum(sending)
        if len(elements) < size:
            raise InvalidValueError(
                f"pilots: {size} antennas share {len(elements)} element(s) of symbol {symbol}; LS cannot tell them apart"
            )
        for position, element in enumerate(elements):
            labels[element] = count + min(position // size, len(elements) // size - 1)
        count += len(elements) // size
    return labels


def pilot_points(obs: OFDMPilots) -> list[PilotPoints]:
    """Return the points of every transmit antenna of ``obs``.

    Raises:
        InvalidValueError: antennas share elements in a way that no group of them can be told apart.
    """
    values = obs.pilot_values().detach().cpu()
    active = values != 0
    flat = obs.pilot_index.cpu()
    num_subcarriers = obs.grid.num_subcarriers
    place = torch.stack([flat // num_subcarriers, flat % num_subcarriers], dim=-1).to(torch.float64)
    if obs.groups is None:
        labels = _neighbour_labels(active, place[:, 0].int().tolist())
    else:
        labels = obs.groups.flatten().cpu()[flat].tolist()
    groups: dict[int, list[int]] = {}
    for element, label in enumerate(labels):
        groups.setdefault(label, []).append(element)
    points: list[list[tuple[list[int], list[int]]]] = [[] for _ in range(obs.num_tx_ant)]
    for elements in groups.values():
        sharing = active[:, elements].any(dim=-1).nonzero().flatten().tolist()
        for antenna in sharing:
            points[antenna].append((elements, [antenna, *(other for other in sharing if other != antenna)]))
    result = [_packed(mine, place) for mine in points]
    for antenna, mine in enumerate(result):
        _check_separable(antenna, mine, values)
    return result


def _packed(points: list[tuple[list[int], list[int]]], place: torch.Tensor) -> PilotPoints:
    centres = torch.stack([place[elements].mean(dim=0) for elements, _ in points])
    order = sorted(range(len(points)), key=lambda i: tuple(centres[i].tolist()))
    centres, points = centres[order], [points[i] for i in order]
    size = max(len(elements) for elements, _ in points)
    sharing = max(len(antennas) for _, antennas in points)
    index = torch.tensor([elements + elements[:1] * (size - len(elements)) for elements, _ in points])
    valid = torch.tensor([[i < len(elements) for i in range(size)] for elements, _ in points])
    antennas = torch.tensor([antennas + [-1] * (sharing - len(antennas)) for _, antennas in points])
    return PilotPoints(index, valid, antennas, centres[:, 0], centres[:, 1], place[index] - centres[:, None])


def _group_pilots(points: Grouping, values: torch.Tensor) -> torch.Tensor:
    """Pilots of all sharing antennas on a point's elements, (num_points, num_sharing, group_size)."""
    picked = values[points.antennas.clamp_min(0)[:, :, None], points.index[:, None, :]]
    return picked * ((points.antennas >= 0)[:, :, None] & points.valid[:, None, :])


def _check_separable(antenna: int, points: PilotPoints, values: torch.Tensor) -> None:
    spot = torch.stack([points.time, points.frequency], dim=-1)
    if len(spot) > 1 and bool((spot.diff(dim=0) == 0).all(dim=-1).any()):
        raise InvalidValueError(f"pilots: two groups of antenna {antenna} have the same centre; LS cannot place them")
    if points.antennas.shape[1] == 1:
        return
    spectrum = torch.linalg.svdvals(_group_pilots(points, values).to(torch.complex128))
    needed = (points.antennas >= 0).sum(dim=1, keepdim=True) - 1
    if bool((spectrum.gather(1, needed) < 1e-6 * spectrum[:, :1]).any()):
        raise InvalidValueError(
            f"pilots of antenna {antenna} cannot be told apart from those that share its elements; give `groups` to the pattern"
        )


def despread_weights(points: Grouping, values: torch.Tensor) -> torch.Tensor:
    """Weights of the least-squares estimate h = sum_k w_k y_k of this antenna, complex, (num_points, group_size).

    One element: 1/p. A group: the antenna's row of the pseudo-inverse of the pilots, which for orthogonal codes is
    conj(p)/sum|p|^2. Differentiable in ``values`` (num_tx_ant, num_pilots).
    """
    pilots = _group_pilots(points, values)
    if pilots.shape[1:] == (1, 1):
        return pilots[:, 0].reciprocal()
    return torch.linalg.pinv(pilots.mT)[:, 0]


def leakage(points: Grouping, values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """How much of another antenna's slope reaches this antenna's estimate, complex, (num_sharing - 1, 2, num_points).

    To first order the estimate holds sum_k w_k p_b(k) (k - centre) times the slope of antenna b, in time and in frequency.
    """
    others = _group_pilots(points, values)[:, 1:]
    return torch.einsum("nk,nbk,nkx->bxn", weights, others, points.offsets.to(weights.dtype))


@dataclass(frozen=True)
class AxisRule:
    """Interpolation along one axis: two known positions and a weight for each target.

    Attributes:
        left, right: int64, (num_targets,), known positions; equal where only one is used.
        weight: float64, (num_targets,), of ``right``; outside 0 to 1 when extrapolating.
        reach: float64, (num_targets,): factor of the divided difference in the error, (x - x0)(x - x1) for a line through
            two points and x - x0 for the nearest one; 0 where a single position says nothing about the error.
    """

    left: torch.Tensor
    right: torch.Tensor
    weight: torch.Tensor
    reach: torch.Tensor


def axis_rule(known: torch.Tensor, num_targets: int, interpolation: str) -> AxisRule:
    """Return the rule from ``known`` positions (ascending) to 0, 1, ..., num_targets - 1."""
    known = known.contiguous()
    x = torch.arange(num_targets, dtype=torch.float64)
    zeros = torch.zeros_like(x)
    if known.numel() == 1:
        return AxisRule(zeros.long(), zeros.long(), zeros, zeros)
    if interpolation == "nearest":
        nearest = (x[:, None] - known).abs().argmin(dim=1)
        return AxisRule(nearest, nearest, zeros, x - known[nearest])
    left = (torch.searchsorted(known, x, right=True) - 1).clamp(0, known.numel() - 2)
    low, high = known[left], known[left + 1]
    return AxisRule(left, left + 1, (x - low) / (high - low), (x - low) * (x - high))


@dataclass(frozen=True)
class GridRule:
    """Interpolation from an antenna's points to the grid: along frequency in each pilot row, then along time.

    Attributes:
        left, right: int64, (num_rows * num_subcarriers,), points between which an element of a pilot row lies.
        weight, reach: float64, (num_rows * num_subcarriers,), as in `AxisRule`.
        time_weights: float64, (num_ofdm_symbols, num_rows).
        time_reach: float64, (num_ofdm_symbols,).
        row_time: float64, (num_rows,), time of each row in symbols.
        row_start: first point of each row, and the number of points at the end.
    """

    left: torch.Tensor
    right: torch.Tensor
    weight: torch.Tensor
    reach: torch.Tensor
    time_weights: torch.Tensor
    time_reach: torch.Tensor
    row_time: torch.Tensor
    row_start: list[int]


def grid_rule(points: PilotPoints, num_ofdm_symbols: int, num_subcarriers: int, interpolation: str) -> GridRule:
    """Return the rule for one antenna. Rows may have different subcarriers (a staggered comb)."""
    row_time, counts = torch.unique_consecutive(points.time, return_counts=True)
    start = [0, *counts.cumsum(0).tolist()]
    rows = [axis_rule(points.frequency[a:b], num_subcarriers, interpolation) for a, b in zip(start, start[1:], strict=False)]
    time = axis_rule(row_time, num_ofdm_symbols, interpolation)
    time_weights = torch.zeros(num_ofdm_symbols, len(rows), dtype=torch.float64)
    symbol = torch.arange(num_ofdm_symbols)
    time_weights.index_put_((symbol, time.left), 1 - time.weight, accumulate=True)
    time_weights.index_put_((symbol, time.right), time.weight, accumulate=True)
    return GridRule(
        left=torch.cat([rule.left + a for rule, a in zip(rows, start, strict=False)]),
        right=torch.cat([rule.right + a for rule, a in zip(rows, start, strict=False)]),
        weight=torch.cat([rule.weight for rule in rows]),
        reach=torch.cat([rule.reach for rule in rows]),
        time_weights=time_weights,
        time_reach=time.reach,
        row_time=row_time,
        row_start=start,
    )


def divided_differences(known: torch.Tensor, order: int) -> torch.Tensor:
    """Coefficients of the divided differences of neighbouring positions, float64, (num_known - order, order + 1).

    Row i, times samples i to i + order, gives h[x_i, x_i+1] (the slope) for order 1 and h[x_i, x_i+1, x_i+2] (half the
    curvature) for order 2: by Lagrange, coefficient j is prod_{m != j} 1/(x_j - x_m).
    """
    if known.numel() <= order:
        return known.new_zeros(0, order + 1)
    window = known.unfold(0, order + 1, 1)
    gaps = window[:, :, None] - window[:, None, :] + torch.eye(order + 1, dtype=known.dtype)
    return gaps.prod(dim=-1).reciprocal()
