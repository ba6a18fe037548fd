"""Line spectra: powers at delays or at Doppler shifts, as rays, tap tables and channel models have them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.cdl import CDL
from wichan.channels.cdl_covariance import cluster_power
from wichan.channels.profiles import ClusterTable, TapTable
from wichan.channels.rayleigh import RayleighBlock
from wichan.channels.rays import Rays
from wichan.channels.tdl import TDL
from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_tensor

_CHUNK = 1 << 22


class Lines(NamedTuple):
    r"""Powers at positions on one axis (delays [s] or Doppler shifts [Hz]), float64, both (\*batch, num_lines)."""

    power: torch.Tensor
    position: torch.Tensor

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Power-weighted mean and RMS spread, (*batch,)."""
        total = self.power.sum(-1)
        share = self.power / torch.where(total > 0, total, torch.ones_like(total)).unsqueeze(-1)
        mean = (share * self.position).sum(-1)
        variance = (share * (self.position - mean.unsqueeze(-1)).square()).sum(-1)
        # The slope of a root at 0 is infinite: a single line has spread 0 and gradient 0 instead of NaN.
        safe = torch.where(variance > 0, variance, torch.ones_like(variance))
        return mean, torch.where(variance > 0, safe.sqrt(), torch.zeros_like(variance))

    def correlation(self, lag: torch.Tensor) -> torch.Tensor:
        r"""Modulus of :math:`\sum P e^{j 2\pi x \Delta} / \sum P` at lags (\*batch, num_lags)."""
        centre = self.moments()[0].unsqueeze(-1)
        share = self.power / self.power.sum(-1, keepdim=True)
        phase = 2 * math.pi * (self.position - centre).unsqueeze(-1) * lag.unsqueeze(-2)
        return (torch.polar(share, torch.zeros_like(share)).unsqueeze(-2) @ torch.polar(torch.ones_like(phase), phase)).abs()[
            ..., 0, :
        ]

    def crossing(self, level: float) -> torch.Tensor:
        r"""First lag at which the correlation falls to ``level``, (\*batch,); infinity where it never does."""
        power, position = self.power.detach(), self.position.detach()
        batch = power.shape[:-1]
        flat = Lines(
            power.expand(*batch, -1).reshape(-1, power.shape[-1]), position.expand_as(power).reshape(-1, power.shape[-1])
        )
        step = max(_CHUNK // (_SCAN * power.shape[-1]), 1)
        parts = [Lines(p, x)._first(level) for p, x in zip(flat.power.split(step), flat.position.split(step), strict=True)]
        return torch.cat(parts).reshape(batch)

    def _first(self, level: float) -> torch.Tensor:
        spread = self.moments()[1]
        unit = torch.where(spread > 0, spread, torch.ones_like(spread)).reciprocal().unsqueeze(-1)
        scan = torch.linspace(0, _REACH, _SCAN, dtype=torch.float64, device=unit.device)
        below = self.correlation(unit * scan) <= level
        first = below.to(torch.int8).argmax(-1).clamp(min=1)
        low, high = (unit.squeeze(-1) * scan[index] for index in (first - 1, first))
        for _ in range(45):  # bisection to double precision
            middle = (low + high) / 2
            under = self.correlation(middle.unsqueeze(-1)).squeeze(-1) <= level
            low, high = torch.where(under, low, middle), torch.where(under, middle, high)
        return torch.where(below.any(-1) & (spread > 0), high, torch.full_like(high, math.inf))


_SCAN, _REACH = 2048, 16.0  # lags looked at, and how far, in units of 1/spread


def check_lines(power: Any, position: Any, name: str) -> Lines:
    """Check powers and positions given by hand."""
    check_tensor("powers", power, kind="real")
    check_tensor(name, position, kind="real")
    try:
        shape = torch.broadcast_shapes(power.shape, position.shape)
    except RuntimeError:
        raise ShapeError(
            f"powers has shape {tuple(power.shape)}, {name} {tuple(position.shape)}; they must broadcast"
        ) from None
    if not shape or 0 in shape:
        raise ShapeError(f"powers has shape {tuple(power.shape)}; its last axis must hold at least one path")
    if not torch.compiler.is_compiling():
        if not bool((torch.isfinite(power) & (power >= 0)).all()):
            raise InvalidValueError("powers holds values that are NaN, infinite or below 0; all must be at least 0")
        if not bool((power.sum(-1) > 0).all()):
            raise InvalidValueError("powers are all zero for a channel; at least one path must have power")
    return Lines(power.to(torch.float64).expand(shape), position.to(torch.float64).expand(shape))


def ray_powers(rays: Rays) -> torch.Tensor:
    r"""Power of every ray, summed over antenna pairs, float64 (\*batch, num_clusters, num_rays)."""
    power = rays.gain.abs().square().sum((-2, -1)).to(torch.float64)
    for response in (rays.rx_response, rays.tx_response):
        if response is not None:
            power = power * response.abs().square().sum(-1)
    return power


def delay_lines(source: Any) -> Lines:
    """Powers over delay of rays, a tap table or a channel model.

    A CDL is weighed as its antennas see it: clusters behind the panel count less.
    """
    if isinstance(source, Rays):
        return check_lines(ray_powers(source).sum(-1), source.delay.to(torch.float64), "delays")
    if isinstance(source, (TapTable, ClusterTable)):
        return Lines(with_los(source.power, source.los_power), source.delay)
    if isinstance(source, TDL):
        return Lines(with_los(source.profile.power, source.profile.los_power), source.delays())
    if isinstance(source, CDL):
        return Lines(with_los(*cluster_power(source)), source.delays())
    if isinstance(source, RayleighBlock):
        return Lines(torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    raise _no_lines(source, "delays")


def doppler_lines(source: Any) -> Lines:
    """Powers over Doppler shift of rays."""
    if isinstance(source, Rays):
        return check_lines(ray_powers(source).flatten(-2), source.doppler.flatten(-2).to(torch.float64), "dopplers")
    raise _no_lines(source, "dopplers")


def with_los(power: torch.Tensor, los_power: float) -> torch.Tensor:
    """Add the specular power to the first tap."""
    return torch.cat([power[:1] + los_power, power[1:]])


def _no_lines(source: Any, name: str) -> InvalidTypeError:
    if isinstance(source, ChannelModel):
        ways = "its covariance, model.covariance(grid), or drawn rays, model.sample(...)"
        return InvalidTypeError(f"{type(source).__name__} has no list of {name}; give {ways}")
    known = f"Rays, a model, a tap table, a channel, a ChannelCovariance, or powers with {name}="
    return InvalidTypeError(f"source must be {known}, got {type(source).__name__}")
