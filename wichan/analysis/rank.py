"""How many dimensions a channel really has: effective rank and condition number."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.analysis.sources import AXES, axis_columns
from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_finite, check_int, check_tensor
from wichan.linalg import compress_factor


def effective_rank(source: Any, *, axes: tuple[int, int] = (-2, -1), axis: str | None = None) -> torch.Tensor:
    r"""Effective rank: the exponential of the entropy of the normalised singular values [Roy2007]_.

    .. math:: \mathrm{erank}(A) = \exp\Big(-\sum_i p_i \ln p_i\Big), \qquad p_i = \sigma_i / \sum_j \sigma_j

    It lies between 1 and the rank, and equals the rank where all singular values are equal. Those of a covariance are its
    eigenvalues.

    Args:
        source: matrices, real or complex, (\*batch, m, n); or channels with ``axes``; or a `ChannelCovariance`.
        axes: the two axes that make the matrix: ``(-4, -3)`` for the antennas of a channel
            (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers).
        axis: for a covariance: ``"space"``, ``"time"`` or ``"frequency"`` for the rank of one marginal; default: of all.

    Returns:
        float64, (\*batch,) with the two axes removed; 0 for a matrix of zeros.

    Raises:
        InvalidValueError, ShapeError: NaN or infinity, fewer than two axes.

    Cost: singular values of each matrix, or the thin factor of the covariance.

    Example:
        >>> [round(float(effective_rank(a)), 6) for a in (torch.eye(3), torch.ones(2, 5))]
        [3.0, 1.0]
    """
    if isinstance(source, ChannelCovariance):
        values = _eigenvalues(source, axis)
    elif axis is not None:
        raise InvalidValueError(f"axis={axis!r} is for a ChannelCovariance; matrices take axes=")
    else:
        values = torch.linalg.svdvals(_matrices(source, axes))
    total = values.sum(-1, keepdim=True)
    share = values / torch.where(total > 0, total, torch.ones_like(total))
    entropy = -torch.where(share > 0, share * torch.where(share > 0, share, torch.ones_like(share)).log(), share).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), torch.zeros_like(entropy))


def condition_number(h: torch.Tensor, *, axes: tuple[int, int] = (-2, -1)) -> torch.Tensor:
    r"""Condition number, largest over smallest singular value; 1 for an orthogonal channel, infinity for a singular one.

    Args:
        h: matrices, real or complex, (\*batch, m, n), or channels with ``axes=(-4, -3)``.
        axes: the two axes that make the matrix.

    Returns:
        float64, (\*batch,) with the two axes removed.

    Example:
        >>> float(condition_number(torch.diag(torch.tensor([4.0, 2.0, 1.0]))))
        4.0
    """
    values = torch.linalg.svdvals(_matrices(h, axes))
    smallest = values[..., -1]
    safe = torch.where(smallest > 0, smallest, torch.ones_like(smallest))
    return torch.where(smallest > 0, values[..., 0] / safe, torch.full_like(smallest, math.inf))


def _matrices(source: Any, axes: tuple[int, int]) -> torch.Tensor:
    check_tensor("source", source)
    if not (source.is_complex() or source.is_floating_point()):
        raise InvalidTypeError(f"source has dtype {source.dtype}; allowed are single and double precision, real or complex")
    if len(axes) != 2:
        raise ShapeError(f"axes={axes} must be two axes")
    first, second = (check_int("axes", a, minimum=-source.dim(), maximum=source.dim() - 1) % max(source.dim(), 1) for a in axes)
    if source.dim() < 2 or first == second or 0 in source.shape:
        raise ShapeError(f"source has shape {tuple(source.shape)}; it needs two different axes {axes}, none empty")
    check_finite("source", source)
    wide = source.to(torch.complex128 if source.is_complex() else torch.float64)
    return wide.movedim((first, second), (-2, -1))


def _eigenvalues(covariance: ChannelCovariance, axis: str | None) -> torch.Tensor:
    if axis is None:
        factor = covariance.factor()
    else:
        check_choice("axis", axis, AXES)
        parts = axis_columns(covariance, axis)
        factor = compress_factor(torch.cat([p.expand(*covariance.batch_shape, -1, -1) for p in parts], dim=-1))
    return torch.view_as_real(factor).square().sum((-3, -1))
