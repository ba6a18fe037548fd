"""Mean path gain over distance, in dB: what a hop's absolute gain is made of."""

from __future__ import annotations

import math
from typing import TypeVar

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_finite, check_real, check_tensor

SPEED_OF_LIGHT = 299_792_458.0

Distance = TypeVar("Distance", float, torch.Tensor)


def free_space_gain_db(distance: Distance, carrier_frequency: float) -> Distance:
    r"""Free-space gain :math:`20\log_{10}(\lambda / (4\pi d))` between isotropic antennas [dB].

    Args:
        distance: [m], a number or a real tensor of any shape, greater than 0.
        carrier_frequency: [Hz].

    Returns:
        The gain [dB], a float or a tensor like ``distance``, differentiable.

    Raises:
        InvalidValueError: a distance or carrier that is not above 0.

    Example:
        >>> round(free_space_gain_db(1.0, 3.5e9), 2)
        -43.33
    """
    wavelength = SPEED_OF_LIGHT / check_real("carrier_frequency", carrier_frequency, positive=True)
    return _decades(distance, wavelength / (4 * math.pi), -20.0)


def log_distance_gain_db(
    distance: Distance, exponent: float, reference_db: float = -30.0, *, reference_distance: float = 1.0
) -> Distance:
    r"""Log-distance law :math:`G_0 - 10\,\alpha \log_{10}(d/d_0)` [dB].

    Args:
        distance: [m], a number or a real tensor of any shape, greater than 0.
        exponent: path-loss exponent :math:`\alpha`, at least 0 (2 in free space, 3 to 4 past obstacles).
        reference_db: gain :math:`G_0` at the reference distance [dB]; -30 dB at 1 m is that of [Wu2019]_.
        reference_distance: :math:`d_0` [m].

    Returns:
        The gain [dB], a float or a tensor like ``distance``, differentiable.

    Raises:
        InvalidValueError: a distance that is not above 0, a negative exponent.

    Example:
        >>> log_distance_gain_db(100.0, 2.2)
        -74.0
    """
    exponent = check_real("exponent", exponent, minimum=0.0)
    reference = check_real("reference_distance", reference_distance, positive=True)
    return check_real("reference_db", reference_db) + _decades(distance, reference, -10 * exponent)


def _decades(distance: Distance, unit: float, slope: float) -> Distance:
    """Slope times log10 of the distance in a unit."""
    if isinstance(distance, torch.Tensor):
        check_finite("distance", check_tensor("distance", distance, kind="real"))
        if not torch.compiler.is_compiling() and distance.numel() and float(distance.detach().min()) <= 0:
            raise InvalidValueError(f"distance={float(distance.detach().min()):g} must be greater than 0")
        return slope * (distance / unit).log10()
    if isinstance(distance, (list, tuple)):
        raise InvalidTypeError(f"distance must be a number or a torch.Tensor, got {type(distance).__name__}")
    return slope * math.log10(check_real("distance", distance, positive=True) / unit)
