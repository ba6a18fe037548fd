"""The Rician K factor: exact from models, by the method of moments from channels."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.analysis.sources import check_channel
from wichan.channels.base import ChannelModel
from wichan.channels.cdl import CDL
from wichan.channels.cdl_covariance import cluster_power
from wichan.channels.profiles import ClusterTable, TapTable
from wichan.channels.rayleigh import RayleighBlock
from wichan.channels.tdl import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_int


def k_factor(source: Any, *, batch_dims: int = 0) -> torch.Tensor:
    r"""Rician K of a narrow-band channel: specular power over *all* scattered power (linear).

    From channels by moments of the power :math:`G = |h|^2` [Greenstein1999]_: with the specular power V^2,

    .. math:: V^2 = \sqrt{E[G]^2 - \mathrm{var}(G)}, \qquad K = \frac{V^2}{E[G] - V^2},

    which is exact for a Rician law as the number of independent fades grows. A root of less than 0 counts as 0: Rayleigh
    channels give small positive values, about (4/n)^(1/4) for n fades. (3GPP tables state K of the first tap or cluster
    alone; that is ``TDL.k_factor``, ``CDL.k_factor`` and ``TapTable.k_factor``.)

    Args:
        source: channels, complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers) (any axes); or a `TDL`, `CDL`
            (as its antennas see it), `RayleighBlock`, `RicianBlock` or `TapTable`: exact.
        batch_dims: leading axes of a channel to keep; moments run over all others.

    Returns:
        float64, () or (\*kept,); infinity without any scattered power.

    Raises:
        InvalidTypeError: another kind of source. ShapeError: fewer than two values to take moments of.

    Example:
        >>> from wichan.channels import RicianBlock
        >>> round(float(k_factor(RicianBlock(k_factor_db=6.0206))), 3)
        4.0
    """
    if not isinstance(source, torch.Tensor):
        direct, scattered = specular_and_scattered(source)
        return torch.tensor(direct / scattered if scattered > 0 else math.inf, dtype=torch.float64)
    h = check_channel(source)
    check_int("batch_dims", batch_dims, minimum=0, maximum=h.dim())
    power = torch.view_as_real(h.resolve_conj()).to(torch.float64).square().sum(-1).reshape(*h.shape[:batch_dims], -1)
    if power.shape[-1] < 2:
        raise ShapeError(f"h has shape {tuple(h.shape)}; moments need at least 2 values beyond the axes that are kept")
    mean, variance = power.mean(-1), power.var(-1, correction=0)
    square = mean.square() - variance
    safe = torch.where(square > 0, square, torch.ones_like(square))
    specular = torch.where(square > 0, safe.sqrt(), torch.zeros_like(square))
    return specular / (mean - specular)


def specular_and_scattered(source: Any) -> tuple[float, float]:
    """Mean specular and mean scattered power of a model's channel or of a table."""
    if isinstance(source, CDL):
        scattered, specular = cluster_power(source)
        return specular, float(scattered.sum())
    if isinstance(source, TDL):
        source = source.profile
    if isinstance(source, (TapTable, ClusterTable)):
        return source.los_power, float(source.power.sum())
    if isinstance(source, RayleighBlock):
        return source.los_power, 1 - source.los_power
    if isinstance(source, ChannelModel):
        raise InvalidValueError(f"{type(source).__name__} states no specular power; give drawn channels instead")
    raise InvalidTypeError(f"source must be a channel, a model or a tap table, got {type(source).__name__}")
