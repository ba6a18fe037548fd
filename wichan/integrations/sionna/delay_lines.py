"""Sionna's TDL and CDL with wichan's per-sample conditions; wichan's own models give their closed-form statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from wichan.channels import CDL, TDL
from wichan.channels.arrays import ULA, AntennaArray
from wichan.channels.base import ChannelModel
from wichan.channels.conditions import per_sample
from wichan.channels.covariance_terms import KroneckerTerm
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import InvalidValueError, WichanError
from wichan.grid import OFDMGrid
from wichan.integrations.sionna.channels import SionnaDraw, SionnaModel
from wichan.integrations.sionna.panels import panel_array
from wichan.integrations.sionna.require import require_sionna
from wichan.integrations.sionna.rng import isolated_rng
from wichan.random import derive_seed


class _DelayLine(SionnaModel):
    """A model of Sionna with a twin in wichan: the same distribution, so the twin's theory is this model's."""

    has_closed_form = True
    twin: TDL | CDL
    known_conditions: tuple[str, ...] = ("delay_spread",)

    @property
    def profile(self) -> Any:
        """The table of delays and powers."""
        return self.twin.profile

    def delays(self, delay_spread: Any = None) -> torch.Tensor:
        """Delays [s] of the twin."""
        return self.twin.delays(delay_spread)

    def mean_power(self) -> float:
        """E|h|^2 averaged over antennas, in closed form."""
        return self.twin.mean_power()

    def covariance_terms(self, grid: OFDMGrid, **conditions: Any) -> list[KroneckerTerm]:
        """Closed form, from wichan's own model of the same tables."""
        model: ChannelModel = self.twin
        return model.covariance_terms(grid, **conditions)

    def _scale(self, value: Any, own: float, name: str, batch_size: int) -> torch.Tensor:
        """A condition of every sample, float64 (batch_size,)."""
        return per_sample(name, own if value is None else value, batch_size).expand(batch_size)


class SionnaTDL(_DelayLine):
    """Sionna's tapped delay line: conditions ``delay_spread`` and ``max_doppler``, a value for each sample.

    Sionna's own class takes one delay spread and one range of speeds for a whole batch. Its delays are drawn for a spread of
    one second here and scaled, which is exact, and each sample is given its own Doppler.

    Args:
        profile: as for `wichan.channels.TDL`, without tables of your own.
        delay_spread: RMS delay spread [s] of a scalable profile.
        max_doppler: maximum Doppler shift [Hz], default 0.
        num_rx_ant, num_tx_ant: antennas.
        correlation: ``"low"``, ``"medium"`` or ``"high"`` of TS 38.104.
        num_sinusoids: sinusoids a tap.

    Raises:
        InvalidValueError: a value that `wichan.channels.TDL` refuses, or a correlation with a specular ray.
        MissingDependencyError: when channels are drawn without Sionna.

    Example:
        >>> import pytest; _ = pytest.importorskip("sionna")
        >>> model = SionnaTDL("A", delay_spread=100e-9, max_doppler=100.0)
        >>> h = model.frequency_response(OFDMGrid(14, 24, 30e3), 8, generator=torch.Generator().manual_seed(1))
        >>> h.shape
        torch.Size([8, 1, 1, 14, 24])
    """

    known_conditions = ("delay_spread", "max_doppler")

    def __init__(
        self,
        profile: str,
        *,
        delay_spread: float | None = None,
        max_doppler: float = 0.0,
        num_rx_ant: int = 1,
        num_tx_ant: int = 1,
        correlation: str | None = None,
        num_sinusoids: int = 20,
    ) -> None:
        sizes: dict[str, Any] = {"num_rx_ant": num_rx_ant, "num_tx_ant": num_tx_ant, "num_sinusoids": num_sinusoids}
        self.twin = TDL(profile, delay_spread=delay_spread, max_doppler=max_doppler, correlation=correlation, **sizes)
        if correlation is not None and self.twin.profile.los_power:
            raise InvalidValueError(
                f"correlation={correlation!r} does not apply to {self.twin.profile.name}: Sionna sends the specular ray "
                "through the correlation filter too, which makes antennas unequal; wichan.channels.TDL (source: tdl) does not"
            )
        self.num_rx_ant, self.num_tx_ant = num_rx_ant, num_tx_ant
        self._sizes, self._correlation = sizes, correlation
        self._model: Any = None

    def _sionna(self) -> Any:
        if self._model is None:
            from wichan.channels.correlation import mimo_correlation

            tr38901 = require_sionna("SionnaTDL").phy.channel.tr38901
            matrices: dict[str, Any] = {}
            if self._correlation is not None:
                pair = mimo_correlation(self._correlation, self.num_rx_ant, self.num_tx_ant)
                matrices = dict(zip(("rx_corr_mat", "tx_corr_mat"), pair, strict=True))
            model = tr38901.TDL(
                self.twin.profile.name.removeprefix("TDL").lstrip("-"),
                1.0 if self.twin.profile.scalable else None,
                SPEED_OF_LIGHT,
                **self._sizes,
                **matrices,
                precision="single",
                device="cpu",
            )
            if not (hasattr(model, "_min_doppler") and hasattr(model, "_max_doppler")):
                raise WichanError("this version of Sionna keeps a TDL's Doppler elsewhere; SionnaTDL works with 2.1 and 2.2")
            self._model = model
        return self._model

    def draw(self, seed: int, batch_size: int, conditions: Mapping[str, Any]) -> SionnaDraw:
        """Return the draw of ``seed``."""
        doppler = self._scale(conditions.get("max_doppler"), self.twin.max_doppler, "max_doppler", batch_size)
        rate = (2 * math.pi * doppler).to(torch.float32).reshape(-1, 1, 1, 1, 1, 1, 1, 1)
        self.twin.delays(conditions.get("delay_spread"))  # refuses a spread for a profile with fixed delays
        # Sionna's delays are those of a spread of one second, or the profile's own.
        own = self.twin.delay_spread if self.twin.profile.scalable else 1.0
        spread = self._scale(conditions.get("delay_spread"), own, "delay_spread", batch_size)

        def paths(steps: int, sampling: float) -> tuple[torch.Tensor, torch.Tensor]:
            model = self._sionna()
            with isolated_rng(seed), torch.no_grad():
                # Sionna draws a Doppler for each sample between these two; equal tensors give each sample its own.
                model._min_doppler = model._max_doppler = rate
                a, tau = model(batch_size, steps, sampling)
            return a, tau.double() * spread[:, None, None, None]

        return SionnaDraw(paths)


class SionnaCDL(_DelayLine):
    """Sionna's clustered delay line: conditions ``delay_spread`` and ``speed``, a value for each sample.

    The terminal moves in a direction with uniform azimuth and uniform zenith angle, as Sionna draws it. The specular ray of
    CDL-D and -E has Sionna's fixed phase, so those channels have a mean.

    Args:
        profile: ``"A"`` to ``"E"``.
        delay_spread: RMS delay spread [s].
        carrier_frequency: [Hz].
        speed: of the terminal [m/s].
        rx_array, tx_array: `Panel` each; default one isotropic vertical element.
        direction: ``"uplink"`` or ``"downlink"``.

    Raises:
        MissingDependencyError: when channels are drawn without Sionna.

    Example:
        >>> import pytest; _ = pytest.importorskip("sionna")
        >>> model = SionnaCDL("C", delay_spread=100e-9, carrier_frequency=3.5e9, speed=10.0)
        >>> h = model.frequency_response(OFDMGrid(14, 24, 30e3), 8, generator=torch.Generator().manual_seed(1))
        >>> h.shape
        torch.Size([8, 1, 1, 14, 24])
    """

    known_conditions = ("delay_spread", "speed")

    def __init__(
        self,
        profile: str,
        *,
        delay_spread: float,
        carrier_frequency: float,
        speed: float,
        rx_array: AntennaArray | None = None,
        tx_array: AntennaArray | None = None,
        direction: str = "uplink",
    ) -> None:
        rx, tx = rx_array or ULA(1), tx_array or ULA(1)
        self.twin = CDL(
            profile,
            delay_spread=delay_spread,
            carrier_frequency=carrier_frequency,
            speed=speed,
            rx_array=rx,
            tx_array=tx,
            direction=direction,
            los_phase=0.0,
        )
        self.speed = float(speed)
        self.num_rx_ant, self.num_tx_ant = rx.num_ant, tx.num_ant
        self._arrays = {"rx_array": rx, "tx_array": tx}
        self._panels: dict[str, Any] = {}

    def _sionna(self, velocity: torch.Tensor) -> Any:
        carrier = self.twin.carrier_frequency
        if not self._panels:
            made = {name: panel_array(array, carrier, field=name) for name, array in self._arrays.items()}
            uplink = self.twin.direction == "uplink"
            station, terminal = ("rx_array", "tx_array") if uplink else ("tx_array", "rx_array")
            self._panels = {"bs_array": made[station], "ut_array": made[terminal]}
        return require_sionna("SionnaCDL").phy.channel.tr38901.CDL(
            self.twin.profile.name.removeprefix("CDL").lstrip("-"),
            1.0,
            carrier,
            **self._panels,
            direction=self.twin.direction,
            ut_velocity=velocity,
            precision="single",
            device="cpu",
        )

    def draw(self, seed: int, batch_size: int, conditions: Mapping[str, Any]) -> SionnaDraw:
        """Return the draw of ``seed``."""
        speed = self._scale(conditions.get("speed"), self.speed, "speed", batch_size)
        spread = self._scale(conditions.get("delay_spread"), self.twin.delay_spread, "delay_spread", batch_size)
        generator = torch.Generator().manual_seed(derive_seed(seed, "velocity"))
        azimuth, zenith = torch.rand(2, batch_size, generator=generator, dtype=torch.float64) * math.pi
        azimuth = 2 * azimuth
        heading = [zenith.sin() * azimuth.cos(), zenith.sin() * azimuth.sin(), zenith.cos()]
        model = self._sionna((torch.stack(heading, dim=-1) * speed[:, None]).to(torch.float32))

        def paths(steps: int, sampling: float) -> tuple[torch.Tensor, torch.Tensor]:
            with isolated_rng(seed), torch.no_grad():
                a, tau = model(batch_size, steps, sampling)
            return a, tau.double() * spread[:, None, None, None]

        return SionnaDraw(paths)
