"""Angular spread by the circular definition of TR 38.901."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.analysis.delays import circular_spread
from wichan.analysis.lines import check_lines
from wichan.channels.cdl import CDL
from wichan.channels.profiles import ANGLES
from wichan.errors import InvalidTypeError, InvalidValueError, check_choice


def angular_spread(source: Any, angles: torch.Tensor | None = None, *, angle: str | None = None) -> torch.Tensor:
    r"""Circular RMS angular spread [rad], TR 38.901 annex A.1.

    .. math:: \mathrm{AS} = \sqrt{-2 \ln \Big| \frac{\sum P e^{j\varphi}}{\sum P} \Big|}

    It does not depend on where angles wrap, and for small spreads it is the ordinary RMS spread.

    Args:
        source: powers, real, (\*batch, num_paths), with ``angles`` beside them; or a `CDL` with ``angle=``: all rays of its
            table and the specular one, before antenna patterns.
        angles: [rad], (num_paths,) or (\*batch, num_paths).
        angle: ``"aod"``, ``"aoa"``, ``"zod"`` or ``"zoa"``, in the sense of the link (arrival at its receiver).

    Returns:
        float64, (\*batch,).

    Example:
        >>> spread = angular_spread(torch.ones(2), torch.tensor([0.1, -0.1]) + torch.pi)
        >>> round(float(spread), 4)
        0.1001
    """
    return circular_spread(_moment(source, angles, angle))


def mean_angle(source: Any, angles: torch.Tensor | None = None, *, angle: str | None = None) -> torch.Tensor:
    r"""Circular mean angle [rad] in (-pi, pi], the direction of :math:`\sum P e^{j\varphi}`; arguments as `angular_spread`."""
    return _moment(source, angles, angle).angle()


def _moment(source: Any, angles: torch.Tensor | None, angle: str | None) -> torch.Tensor:
    if isinstance(source, CDL):
        if angle is None:
            raise InvalidValueError(f"angle is missing; give one of {', '.join(ANGLES)}")
        source, angles = _cdl_angles(source, check_choice("angle", angle, ANGLES))
    elif not isinstance(source, torch.Tensor):
        raise InvalidTypeError(f"source must be powers (torch.Tensor) or a CDL, got {type(source).__name__}")
    elif angles is None:
        raise InvalidValueError("angles is missing; powers need the angles of their paths")
    power, position = check_lines(source, angles, "angles")
    share = power / power.sum(-1, keepdim=True)
    return torch.complex((share * position.cos()).sum(-1), (share * position.sin()).sum(-1))


def _cdl_angles(model: CDL, angle: str) -> tuple[torch.Tensor, torch.Tensor]:
    rays = model.angles.angle[angle]
    power = (model.profile.power / rays.shape[1])[:, None].expand_as(rays).flatten()
    flat = rays.flatten()
    if model.angles.los is not None:
        power = torch.cat([power, power.new_tensor([model.profile.los_power])])
        flat = torch.cat([flat, model.angles.los[angle].reshape(1)])
    return power, torch.remainder(flat + math.pi, 2 * math.pi) - math.pi
