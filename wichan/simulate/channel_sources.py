"""The sources of channels that wichan ships: tapped and clustered delay lines, Rayleigh and Rician blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from wichan.channels import CDL, TDL, Panel, RayleighBlock, RicianBlock
from wichan.channels.arrays import AntennaArray
from wichan.channels.base import ChannelModel
from wichan.channels.profiles import tdl_profile
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import InvalidValueError
from wichan.simulate.conditions import Law
from wichan.simulate.schema import CarrierFrequency, Count, Model, PositiveReal, Real
from wichan.simulate.sources import ChannelSource, Condition

Antennas = Annotated[Count, Field(le=4096)]
Level = Literal["low", "medium", "high"] | None

_DELAY_SPREAD = Condition("s", "RMS delay spread", {"minimum": 0.0, "maximum": 1e-3})
_MAX_DOPPLER = Condition("Hz", "maximum Doppler shift", {"minimum": 0.0, "maximum": 1e7})
SPEED = Condition("m/s", "speed of the terminal", {"minimum": 0.0, "maximum": 1e5})


class TDLParameters(Model):
    """``channel:`` of a tapped delay line."""

    num_rx_ant: Antennas = 1
    num_tx_ant: Antennas = 1
    correlation: Level = None
    num_sinusoids: Annotated[Count, Field(ge=8, le=1000)] = 20
    carrier_frequency: CarrierFrequency | None = None


class TDLSource(ChannelSource):
    """TR 38.901 tapped delay lines: conditions ``delay_spread`` and ``max_doppler`` (or ``speed`` and a carrier)."""

    parameters_schema = TDLParameters
    model_class: ClassVar[Callable[..., ChannelModel]] = TDL
    conditions = {"delay_spread": _DELAY_SPREAD, "max_doppler": _MAX_DOPPLER, "speed": SPEED}

    def __init__(self, parameters: TDLParameters, profiles: Sequence[str], conditions: Mapping[str, Law]) -> None:
        self._by_speed = "speed" in conditions
        if self._by_speed and "max_doppler" in conditions:
            raise InvalidValueError("conditions.speed excludes conditions.max_doppler; give one of them")
        if self._by_speed and parameters.carrier_frequency is None:
            raise InvalidValueError("channel.carrier_frequency is missing; conditions.speed needs it")
        super().__init__(parameters, profiles, conditions)

    def build(self, profile: str) -> ChannelModel:
        """Build the model; every sample brings a delay spread of its own, so the one given here does not matter."""
        fixed = tdl_profile(profile)[1] is not None
        if fixed and "delay_spread" in self.laws:
            raise InvalidValueError(
                f"conditions.delay_spread does not apply: profile {profile!r} has fixed delays; "
                "--set conditions.delay_spread=null takes it away"
            )
        spread = None if fixed else self.require("delay_spread", f"profile {profile!r} is scaled by it").high
        p = self.parameters
        return type(self).model_class(
            profile,
            delay_spread=spread,
            num_rx_ant=p.num_rx_ant,
            num_tx_ant=p.num_tx_ant,
            correlation=p.correlation,
            num_sinusoids=p.num_sinusoids,
        )

    @property
    def derived(self) -> dict[str, Condition]:
        """``max_doppler``, where the recipe gives a speed or nothing."""
        return {} if "max_doppler" in self.laws else {"max_doppler": _MAX_DOPPLER}

    def derive(self, drawn: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Doppler from speed and carrier; a recipe with neither stands still."""
        if "max_doppler" in self.laws:
            return {}
        if not self._by_speed:
            return {"max_doppler": torch.zeros_like(next(iter(drawn.values())))}
        return {"max_doppler": drawn["speed"] * (self.parameters.carrier_frequency / SPEED_OF_LIGHT)}

    def max_doppler(self, columns: Mapping[str, float]) -> float:
        """The Doppler itself, or from the speed."""
        if not self._by_speed:
            return float(columns.get("max_doppler", 0.0))
        return float(columns["speed"]) * float(self.parameters.carrier_frequency) / SPEED_OF_LIGHT

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``delay_spread`` (where the profile is scalable) and ``max_doppler``."""
        return {name: columns[name] for name in ("delay_spread", "max_doppler") if name in columns}


class ArrayParameters(Model):
    """An antenna array: a panel of ``rows`` x ``columns`` positions."""

    rows: Antennas = 1
    columns: Antennas = 1
    polarization: Literal["V", "H", "VH", "cross"] = "V"
    pattern: Literal["isotropic", "38.901"] = "isotropic"
    spacing: PositiveReal = 0.5

    def build(self) -> AntennaArray:
        """Return the array."""
        return Panel(self.rows, self.columns, spacing=self.spacing, polarization=self.polarization, pattern=self.pattern)


class CDLParameters(Model):
    """``channel:`` of a clustered delay line."""

    carrier_frequency: CarrierFrequency
    direction: Literal["uplink", "downlink"] = "uplink"
    rx_array: ArrayParameters = ArrayParameters()
    tx_array: ArrayParameters = ArrayParameters()


class CDLSource(ChannelSource):
    """TR 38.901 clustered delay lines: conditions ``delay_spread`` and ``speed``."""

    parameters_schema = CDLParameters
    conditions = {"delay_spread": _DELAY_SPREAD, "speed": SPEED}
    model_class: ClassVar[Callable[..., ChannelModel]] = CDL

    def build(self, profile: str) -> ChannelModel:
        """Build the model; spread and speed given here are placeholders that every sample overrides."""
        p = self.parameters
        return type(self).model_class(
            profile,
            delay_spread=self.require("delay_spread", "a CDL profile is scaled by it").high,
            speed=self.require("speed", "the terminal's speed (m/s)").high,
            carrier_frequency=p.carrier_frequency,
            rx_array=p.rx_array.build(),
            tx_array=p.tx_array.build(),
            direction=p.direction,
        )

    def max_doppler(self, columns: Mapping[str, float]) -> float:
        """Speed times carrier over the speed of light."""
        return float(columns["speed"]) * self.parameters.carrier_frequency / SPEED_OF_LIGHT


class RayleighParameters(Model):
    """``channel:`` of flat Rayleigh fading."""

    num_rx_ant: Antennas = 1
    num_tx_ant: Antennas = 1
    correlation: Level = None


class RayleighSource(ChannelSource):
    """Flat block fading, no conditions."""

    parameters_schema: ClassVar[type[Model]] = RayleighParameters
    has_profile = False

    def build(self, profile: str) -> ChannelModel:
        """Build the model."""
        p = self.parameters
        return RayleighBlock(p.num_rx_ant, p.num_tx_ant, correlation=p.correlation)


class RicianParameters(RayleighParameters):
    """``channel:`` of flat Rician fading."""

    k_factor_db: Annotated[Real, Field(ge=-200, le=200)]


class RicianSource(RayleighSource):
    """Flat block fading with a specular path, no conditions."""

    parameters_schema = RicianParameters

    def build(self, profile: str) -> ChannelModel:
        """Build the model."""
        p = self.parameters
        return RicianBlock(p.num_rx_ant, p.num_tx_ant, k_factor_db=p.k_factor_db, correlation=p.correlation)
