"""Flat block fading: Rayleigh and Rician, with Kronecker correlation."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.channels.base import ChannelModel
from wichan.channels.conditions import refuse_unknown
from wichan.channels.correlation import correlation_roots
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.rays import Rays
from wichan.errors import InvalidValueError, check_int, check_real, check_shape, check_tensor
from wichan.grid import OFDMGrid
from wichan.random import complex_normal, uniform

_CONDITIONS = ("(this model has none)",)


class RayleighBlock(ChannelModel):
    r"""Channel constant over the grid, :math:`H = R_{rx}^{1/2} W R_{tx}^{T/2}` with i.i.d. CN(0, 1) entries in W.

    Args:
        num_rx_ant, num_tx_ant: antennas.
        correlation: ``"low"``, ``"medium"`` or ``"high"`` of TS 38.104 (base station receives).
        rx_correlation, tx_correlation: correlation matrices with unit diagonal.
    """

    los_power = 0.0

    def __init__(
        self,
        num_rx_ant: int = 1,
        num_tx_ant: int = 1,
        *,
        correlation: str | None = None,
        rx_correlation: torch.Tensor | None = None,
        tx_correlation: torch.Tensor | None = None,
    ) -> None:
        self.num_rx_ant = check_int("num_rx_ant", num_rx_ant, minimum=1)
        self.num_tx_ant = check_int("num_tx_ant", num_tx_ant, minimum=1)
        roots = correlation_roots(num_rx_ant, num_tx_ant, correlation, rx_correlation, tx_correlation)
        self._rx_root, self._tx_root = roots

    def mean_power(self) -> float:
        """E|h|^2 = 1."""
        return 1.0

    def sample(self, batch_size: int, *, generator: torch.Generator, **unknown: Any) -> Rays:
        """Draw ``batch_size`` independent channels: one cluster at delay 0 without Doppler."""
        refuse_unknown(unknown, _CONDITIONS)
        check_int("batch_size", batch_size, minimum=1)
        gain = complex_normal((batch_size, 1, 1, self.num_rx_ant, self.num_tx_ant), 1 - self.los_power, generator=generator)
        gain = self._rx_root.to(gain) @ gain @ self._tx_root.to(gain).mT
        still = torch.zeros(batch_size, 1, 1, device=gain.device)
        return Rays(gain=gain + self._specular(batch_size, generator), delay=torch.zeros(1, device=gain.device), doppler=still)

    def _specular(self, batch_size: int, generator: torch.Generator) -> torch.Tensor | float:
        return 0.0

    def covariance_terms(self, grid: OFDMGrid, **unknown: Any) -> list[KroneckerTerm]:
        """Correlation in space, all ones in time and frequency."""
        refuse_unknown(unknown, _CONDITIONS)
        flat_time = torch.ones(grid.num_ofdm_symbols, 1, dtype=torch.complex128)
        flat_frequency = torch.ones(grid.num_subcarriers, 1, dtype=torch.complex128)
        space = torch.kron(self._rx_root, self._tx_root) * math.sqrt(1 - self.los_power)
        terms = [KroneckerTerm(space=space, time=flat_time, frequency=flat_frequency)]
        wave = self._wave()
        if wave is not None:
            terms.append(KroneckerTerm(space=wave.reshape(-1, 1), time=flat_time, frequency=flat_frequency))
        return terms

    def _wave(self) -> torch.Tensor | None:
        return None


class RicianBlock(RayleighBlock):
    r"""Block fading with a plane wave of random phase: :math:`H = \sqrt{K/(K+1)} e^{j\phi} a b^T + H_{Rayleigh}/\sqrt{K+1}`.

    Args:
        num_rx_ant, num_tx_ant: antennas.
        k_factor_db: Rician K [dB], specular over scattered power.
        rx_steering, tx_steering: unit-modulus responses of the plane wave, (num_rx_ant,) and (num_tx_ant,); default ones.
        correlation, rx_correlation, tx_correlation: of the scattered part, as in `RayleighBlock`.
    """

    def __init__(
        self,
        num_rx_ant: int = 1,
        num_tx_ant: int = 1,
        *,
        k_factor_db: float,
        rx_steering: torch.Tensor | None = None,
        tx_steering: torch.Tensor | None = None,
        correlation: str | None = None,
        rx_correlation: torch.Tensor | None = None,
        tx_correlation: torch.Tensor | None = None,
    ) -> None:
        super().__init__(
            num_rx_ant, num_tx_ant, correlation=correlation, rx_correlation=rx_correlation, tx_correlation=tx_correlation
        )
        k_factor = 10 ** (check_real("k_factor_db", k_factor_db) / 10)
        self.k_factor = k_factor
        self.los_power = k_factor / (1 + k_factor)
        self._rx_steering = _steering("rx_steering", rx_steering, num_rx_ant)
        self._tx_steering = _steering("tx_steering", tx_steering, num_tx_ant)

    def _specular(self, batch_size: int, generator: torch.Generator) -> torch.Tensor:
        phase = uniform((batch_size, 1, 1, 1, 1), -math.pi, math.pi, generator=generator)
        wave = self._wave().reshape(self.num_rx_ant, self.num_tx_ant)
        return torch.complex(phase.cos(), phase.sin()) * wave.to(device=phase.device, dtype=torch.complex64)

    def _wave(self) -> torch.Tensor:
        return math.sqrt(self.los_power) * torch.outer(self._rx_steering, self._tx_steering)


def _steering(field: str, value: torch.Tensor | None, num_ant: int) -> torch.Tensor:
    if value is None:
        return torch.ones(num_ant, dtype=torch.complex128)
    vector = check_shape(field, check_tensor(field, value, kind="complex"), (num_ant,)).to(torch.complex128)
    if not torch.allclose(vector.abs(), torch.ones(num_ant, dtype=torch.float64), atol=1e-5):
        raise InvalidValueError(f"{field} must have entries of modulus 1 (a plane wave)")
    return vector
