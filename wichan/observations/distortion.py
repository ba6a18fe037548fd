"""What a frequency-domain channel model leaves out: inter-carrier and inter-symbol interference in closed form.

Multiplying each resource element by one number assumes that the channel stands still during a symbol and that every delay
fits into the cyclic prefix. The error of that assumption acts like noise. Both powers here are relative to the received
signal power (1), for a fully loaded grid with equal power on every element: with pilots alone, or at the edge of the band,
the real interference is lower, so these are safe bounds for a warning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_finite, check_real
from wichan.grid import OFDMGrid

SPECTRA = ("jakes", "uniform")
LARGE_Z = 4000.0  # 2 pi max_doppler / subcarrier_spacing from which the closed limit is exact to 2e-9


def _one_minus_correlation(z: np.ndarray, spectrum: str) -> np.ndarray:
    """1 - E[h(t) h*(t + s)] at z = 2 pi max_doppler s."""
    if spectrum == "uniform":
        return 1 - np.sinc(z / np.pi)
    from scipy.special import j0

    return 1 - j0(z)


def doppler_distortion(
    max_doppler: float, subcarrier_spacing: float, *, spectrum: str = "jakes", approximate: bool = False
) -> float:
    r"""Inter-carrier interference power of a channel that changes during a symbol.

    .. math:: P = 1 - \int_{-1}^{1} (1 - |x|)\, \rho(f_D T_u x)\, dx,\qquad
        \rho = J_0(2\pi f_D T_u x) \text{ (Jakes)},\quad \mathrm{sinc}(2 f_D T_u x) \text{ (uniform)}

    with the useful duration :math:`T_u` = 1/subcarrier_spacing. For small Doppler it is
    :math:`(\pi f_D T_u)^2/6` (Jakes) or :math:`(\pi f_D T_u)^2/9` (uniform), which is also an upper bound; for
    large :math:`z = 2\pi f_D T_u` it is :math:`1 - 2/z` or :math:`1 - \pi/z + 2/z^2`.

    Args:
        max_doppler: [Hz], at least 0.
        subcarrier_spacing: [Hz], greater than 0.
        spectrum: "jakes" (rays from all around in a plane) or "uniform" (flat between the extremes: rays from a sphere).
        approximate: return the small-Doppler form.

    Returns:
        Power relative to the signal, 0 to 1.

    Source: M. Russell, G. L. Stueber, "Interchannel interference analysis of OFDM in a mobile environment", VTC 1995;
    Y. Li, L. J. Cimini, "Bounds on the interchannel interference of OFDM in time-varying impairments", IEEE Trans. Commun.
    49(3), 2001.
    """
    doppler = check_real("max_doppler", max_doppler, minimum=0.0)
    spacing = check_real("subcarrier_spacing", subcarrier_spacing, positive=True)
    check_choice("spectrum", spectrum, SPECTRA)
    z = 2 * math.pi * doppler / spacing
    second_order = z**2 / (24 if spectrum == "jakes" else 36)
    # Below 1e-3 the neglected terms are under 1e-7 of the result, while 1 - J0 would start to lose digits.
    if approximate or z < 1e-3:
        return second_order
    if z > LARGE_Z:  # the next terms are below 2 z^-2.5 (Jakes) and 2 z^-3 (uniform)
        return 1 - 2 / z if spectrum == "jakes" else 1 - math.pi / z + 2 / z**2
    # 48 Gauss nodes on each stretch of about six periods, so that fast fading costs no large eigenproblem.
    nodes, weights = np.polynomial.legendre.leggauss(48)
    panels = 1 + int(z / 40)
    x = ((nodes + 1) / 2 + np.arange(panels)[:, None]) / panels
    return float(np.sum(weights * (1 - x) * _one_minus_correlation(z * x, spectrum)) / panels)


def late_path_distortion(powers: Any, delays: Any, *, cyclic_prefix: float, useful_duration: float) -> float:
    r"""Inter-symbol and inter-carrier interference power of paths that arrive after the cyclic prefix.

    A path that is late by :math:`\epsilon = (\tau - T_{cp})/T_u` puts the previous symbol into a part
    :math:`\epsilon` of the window (power :math:`\epsilon`) and breaks the orthogonality of its own symbol (power
    :math:`\epsilon(1 - \epsilon)`):

    .. math:: P = \sum_l p_l \big(1 - (1 - \min(\epsilon_l, 1))^2\big),\qquad \epsilon_l \ge 0

    Args:
        powers: power of each path, real, at least 0; scaled to sum 1.
        delays: delay of each path [s] after the start of the receiver's window (the first path, as a rule), at least 0.
        cyclic_prefix: [s], at least 0.
        useful_duration: [s], 1/subcarrier_spacing.

    Returns:
        Power relative to the signal, 0 to 1; 0 when all delays are within the cyclic prefix.
    """
    weights = np.asarray(torch.as_tensor(powers).cpu(), dtype=np.float64).ravel()
    late = np.asarray(torch.as_tensor(delays).cpu(), dtype=np.float64).ravel()
    if weights.shape != late.shape or not weights.size:
        raise ShapeError(f"powers has {weights.size} and delays has {late.size} values; both need as many, at least 1")
    for name, values in (("powers", weights), ("delays", late)):
        check_finite(name, torch.from_numpy(values))
        if values.min() < 0:
            raise InvalidValueError(f"{name} holds {values.min():g}; all must be at least 0")
    if weights.sum() <= 0:
        raise InvalidValueError("powers are all zero; at least one path must have power")
    prefix = check_real("cyclic_prefix", cyclic_prefix, minimum=0.0)
    useful = check_real("useful_duration", useful_duration, positive=True)
    excess = np.clip((late - prefix) / useful, 0.0, 1.0)
    return float(np.sum(weights * excess * (2 - excess)) / weights.sum())


@dataclass(frozen=True)
class Distortion:
    """Interference that a frequency-domain model leaves out, relative to the signal power.

    Args:
        doppler: inter-carrier interference of channels that change during a symbol.
        late_paths: inter-symbol and inter-carrier interference of delays beyond the cyclic prefix.
    """

    doppler: float
    late_paths: float

    @property
    def total(self) -> float:
        """Sum of both powers."""
        return self.doppler + self.late_paths

    @property
    def total_db(self) -> float:
        """Total in dB below the signal (minus infinity where nothing is left out)."""
        return 10 * math.log10(self.total) if self.total > 0 else -math.inf

    def matters(self, no: float, *, signal_power: float = 1.0, margin_db: float = 10.0) -> bool:
        """Whether the interference comes within ``margin_db`` of a noise variance ``no``."""
        noise = check_real("no", no, minimum=0.0)
        power = self.total * check_real("signal_power", signal_power, positive=True)
        return power > 0 and power * 10 ** (margin_db / 10) >= noise


def model_distortion(
    grid: OFDMGrid, *, max_doppler: float = 0.0, powers: Any = (1.0,), delays: Any = (0.0,), spectrum: str = "jakes"
) -> Distortion:
    """Everything that a channel on ``grid`` leaves out; delays count from the first path with power."""
    weights, lags = torch.as_tensor(powers, dtype=torch.float64), torch.as_tensor(delays, dtype=torch.float64)
    if weights.shape == lags.shape and bool((weights > 0).any()):
        lags = (lags - lags[weights > 0].min()).clamp_min(0.0)  # the receiver's window follows the first path
    return Distortion(
        doppler=doppler_distortion(max_doppler, grid.subcarrier_spacing, spectrum=spectrum),
        late_paths=late_path_distortion(
            weights, lags, cyclic_prefix=grid.cyclic_prefix, useful_duration=1 / grid.subcarrier_spacing
        ),
    )
