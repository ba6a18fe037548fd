"""Tapped delay lines of TR 38.901 and TS 38.101-4 with sum-of-sinusoids fading."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.conditions import check_delay_spread, check_max_doppler, per_sample, refuse_unknown
from wichan.channels.correlation import correlation_roots
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.profiles import TapTable, check_profile_value, tdl_profile
from wichan.channels.rays import Rays
from wichan.channels.special import bessel_j0
from wichan.channels.synthesis import delay_phasors, phasors
from wichan.errors import InvalidValueError, check_int, check_real
from wichan.grid import OFDMGrid
from wichan.linalg import thin_factor, toeplitz
from wichan.random import uniform

SPEED_OF_LIGHT = 299_792_458.0
LOS_COSINE = 0.7  # TR 38.901 section 7.7.2: the LoS Doppler of TDL-D/E is 0.7 of the maximum

_CONDITIONS = ("delay_spread", "max_doppler")


class TDL(ChannelModel):
    r"""Tapped delay line with Jakes fading on every tap.

    Each tap of each antenna pair is a sum of sinusoids with random angles and phases,

    .. math:: h_\ell(t) = \sqrt{P_\ell / M} \sum_{m=1}^{M} e^{j(2\pi f_D t \cos\alpha_{m} + \phi_{m})}, \qquad
        \alpha_m = \frac{2\pi m + \theta_m}{M},\ \theta_m \sim U(-\pi, \pi),

    whose autocorrelation is :math:`P_\ell J_0(2\pi f_D \tau)` exactly, for any M [Xiao2006]_. TDL-D and -E add a
    specular ray at 0.7 of the maximum Doppler with a random phase, equal at all antennas.

    Args:
        profile: ``"A"`` to ``"E"`` (scalable), ``"A30"``, ``"B100"``, ``"C300"``, ``"A10"``, ``"C60"``, ``"D10"``,
            ``"D30"`` (fixed, also written ``"TDLA30"``), or a `TapTable`.
        delay_spread: RMS delay spread [s] that scales the delays; not for fixed profiles and tables in seconds.
        max_doppler: maximum Doppler shift [Hz]; or give ``carrier_frequency`` [Hz] and ``speed`` [m/s]. Default 0.
        num_rx_ant, num_tx_ant: antennas.
        correlation: ``"low"``, ``"medium"`` or ``"high"`` of TS 38.104 (base station receives; for a downlink pass both
            matrices of ``mimo_correlation(level, num_rx_ant, num_tx_ant, "downlink")``).
        rx_correlation, tx_correlation: correlation matrices, (num_rx_ant, num_rx_ant) and (num_tx_ant, num_tx_ant),
            of the scattered part.
        num_sinusoids: sinusoids a tap, at least 8 (fading becomes Gaussian as it grows).

    Raises:
        InvalidValueError: an unknown profile, a negative spread or Doppler, both or neither way to give the Doppler.

    Sources: TR 38.901 section 7.7.2; TS 38.101-4 annex B.2.1; TS 38.104 annex G.2; [Xiao2006]_.
    """

    def __init__(
        self,
        profile: str | TapTable,
        *,
        delay_spread: float | None = None,
        max_doppler: float | None = None,
        carrier_frequency: float | None = None,
        speed: float | None = None,
        num_rx_ant: int = 1,
        num_tx_ant: int = 1,
        correlation: str | None = None,
        rx_correlation: torch.Tensor | None = None,
        tx_correlation: torch.Tensor | None = None,
        num_sinusoids: int = 20,
    ) -> None:
        table, fixed = tdl_profile(profile) if isinstance(profile, str) else (check_profile_value(profile), None)
        self.profile = table
        self.delay_spread = _check_delay_spread(table, fixed, delay_spread)
        self.max_doppler = _check_doppler(max_doppler, carrier_frequency, speed)
        self.num_rx_ant = check_int("num_rx_ant", num_rx_ant, minimum=1)
        self.num_tx_ant = check_int("num_tx_ant", num_tx_ant, minimum=1)
        self.num_sinusoids = check_int("num_sinusoids", num_sinusoids, minimum=8)
        roots = correlation_roots(num_rx_ant, num_tx_ant, correlation, rx_correlation, tx_correlation)
        self._rx_root, self._tx_root = roots
        self._is_correlated = any(value is not None for value in (correlation, rx_correlation, tx_correlation))

    @property
    def k_factor(self) -> float:
        """Rician K of the first tap (linear), as TR 38.901 counts it; `wichan.analysis.k_factor` counts all scattered power."""
        return self.profile.k_factor

    def mean_power(self) -> float:
        """E|h|^2 = 1: profiles are normalised."""
        return 1.0

    def delays(self, delay_spread: Any = None) -> torch.Tensor:
        """Tap delays [s], float64, (num_taps,) or (batch_size, num_taps) for a spread per sample."""
        if not self.profile.scalable:
            if delay_spread is not None:
                raise InvalidValueError(f"delay_spread does not apply to the fixed profile {self.profile.name}")
            return self.profile.delay
        spread = per_sample("delay_spread", self.delay_spread if delay_spread is None else delay_spread)
        return self.profile.delay * spread.unsqueeze(-1)

    def sample(
        self, batch_size: int, *, generator: torch.Generator, delay_spread: Any = None, max_doppler: Any = None, **unknown: Any
    ) -> Rays:
        """Draw channels; ``delay_spread`` and ``max_doppler`` may be tensors (batch_size,) that override the model's."""
        refuse_unknown(unknown, _CONDITIONS)
        check_int("batch_size", batch_size, minimum=1)
        if isinstance(delay_spread, torch.Tensor):
            per_sample("delay_spread", delay_spread, batch_size)
        doppler = per_sample("max_doppler", self.max_doppler if max_doppler is None else max_doppler, batch_size)
        taps, waves = self.profile.delay.numel(), self.num_sinusoids
        pairs = (self.num_rx_ant, self.num_tx_ant)
        offset = uniform((batch_size, taps, waves), -math.pi, math.pi, generator=generator)
        phase = uniform((batch_size, taps, waves, *pairs), -math.pi, math.pi, generator=generator)
        centre = torch.arange(waves, dtype=offset.dtype, device=offset.device) * (2 * math.pi)
        shift = ((offset + centre) / waves).cos_() * doppler.to(offset).reshape(-1, 1, 1)
        amplitude = (self.profile.power / waves).sqrt().to(phase).reshape(-1, 1, 1, 1)
        gain = self._correlate(torch.complex(phase.cos(), phase.sin()) * amplitude)
        if self.profile.los_power:
            gain, shift = self._add_specular(gain, shift, doppler, generator)
        return Rays(gain=gain, delay=self.delays(delay_spread).to(gain.device), doppler=shift)

    def _correlate(self, gain: torch.Tensor) -> torch.Tensor:
        return self._rx_root.to(gain) @ gain @ self._tx_root.to(gain).mT if self._is_correlated else gain

    def _add_specular(
        self, gain: torch.Tensor, shift: torch.Tensor, doppler: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append one ray to every tap: the specular one in the first tap, silent ones elsewhere."""
        batch, taps = shift.shape[:2]
        phase = uniform((batch, 1, 1), -math.pi, math.pi, generator=generator)
        ray = gain.new_zeros(batch, taps, 1, *gain.shape[-2:])
        ray[:, 0, 0] = math.sqrt(self.profile.los_power) * torch.complex(phase.cos(), phase.sin())
        rate = shift.new_zeros(batch, taps, 1)
        rate[:, 0, 0] = doppler.to(shift) * LOS_COSINE
        return torch.cat([gain, ray], dim=2), torch.cat([shift, rate], dim=2)

    def covariance_terms(
        self, grid: OFDMGrid, *, delay_spread: Any = None, max_doppler: Any = None, **unknown: Any
    ) -> list[KroneckerTerm]:
        r"""Correlation x :math:`J_0(2\pi f_D \Delta t)` x delay spectrum, and a term of rank one for the specular ray."""
        refuse_unknown(unknown, _CONDITIONS)
        doppler = per_sample("max_doppler", self.max_doppler if max_doppler is None else max_doppler)
        delays = self.delays(delay_spread)
        jakes = toeplitz(bessel_j0(2 * math.pi * doppler[..., None] * grid.times))
        time = thin_factor(jakes.to(torch.complex128), 1e-12)
        steering = delay_phasors(delays, grid.frequencies, torch.complex128).mT
        frequency = steering * self.profile.power.sqrt().to(torch.complex128)
        terms = [KroneckerTerm(space=torch.kron(self._rx_root, self._tx_root), time=time, frequency=frequency)]
        if self.profile.los_power:
            specular = phasors(LOS_COSINE * doppler, grid.times, torch.complex128).unsqueeze(-1)
            ones = torch.ones(self.num_rx_ant * self.num_tx_ant, 1, dtype=torch.complex128)
            first = steering[..., :1] * math.sqrt(self.profile.los_power)
            terms.append(KroneckerTerm(space=ones, time=specular, frequency=first))
        return terms


def _check_delay_spread(table: TapTable, fixed: float | None, delay_spread: float | None) -> float:
    if table.scalable:
        if delay_spread is None:
            raise InvalidValueError(f"delay_spread=None is missing; profile {table.name} is scaled by it (s, at least 0)")
        own_spread = table.rms_delay_spread()
        if abs(own_spread - 1) > 0.05:  # the 3GPP tables are rounded to within 2 %
            raise InvalidValueError(
                f"profile {table.name} has an RMS delay spread of {own_spread:.4g}; it must be 1 in a scalable table"
            )
        return check_delay_spread(delay_spread)
    own = fixed if fixed is not None else table.rms_delay_spread()
    if delay_spread is not None and not math.isclose(delay_spread, own, rel_tol=1e-6):
        raise InvalidValueError(f"delay_spread={delay_spread:g} does not apply: {table.name} has fixed delays ({own:g} s)")
    return own


def _check_doppler(max_doppler: float | None, carrier_frequency: float | None, speed: float | None) -> float:
    if max_doppler is not None:
        if carrier_frequency is not None or speed is not None:
            raise InvalidValueError(f"max_doppler={max_doppler:g} excludes carrier_frequency and speed; give one or the other")
        return check_max_doppler(max_doppler)
    if carrier_frequency is None and speed is None:
        return 0.0
    if carrier_frequency is None or speed is None:
        raise InvalidValueError("carrier_frequency and speed must be given together (or max_doppler alone)")
    carrier = check_real("carrier_frequency", carrier_frequency, positive=True)
    return check_real("speed", speed, minimum=0.0) * carrier / SPEED_OF_LIGHT
