"""Sionna's channel models as sources of recipes: ``source: sionna:TDL``, ``sionna:CDL``, ``sionna:UMi``, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from wichan.channels.base import ChannelModel
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import InvalidValueError, check_choice
from wichan.integrations.sionna.delay_lines import SionnaCDL, SionnaTDL
from wichan.integrations.sionna.require import require_sionna, sionna_versions
from wichan.integrations.sionna.system_level import SystemLevel
from wichan.integrations.sionna.topology import STATES, Drop
from wichan.simulate.channel_sources import SPEED, ArrayParameters, CDLParameters, CDLSource, TDLParameters, TDLSource
from wichan.simulate.schema import CarrierFrequency, Model, PositiveReal, Real
from wichan.simulate.sources import ChannelSource, Condition


class _NeedsSionna(ChannelSource):
    def ready(self) -> None:
        """Say in one line what is missing, before anything is written."""
        require_sionna("a source sionna:...")

    def versions(self) -> dict[str, str]:
        """Sionna's version: another one may draw other bits."""
        return dict(sionna_versions())


class SionnaTDLSource(_NeedsSionna, TDLSource):
    """Sionna's tapped delay lines, with the settings and conditions of ``source: tdl``."""

    parameters_schema = TDLParameters
    model_class = SionnaTDL


class SionnaCDLSource(_NeedsSionna, CDLSource):
    """Sionna's clustered delay lines, with the settings and conditions of ``source: cdl``."""

    parameters_schema = CDLParameters
    model_class = SionnaCDL


_Height = Annotated[Real, Field(gt=0)]


class SystemLevelParameters(Model):
    """``channel:`` of a system-level scenario; what is left out is the scenario's own value."""

    carrier_frequency: CarrierFrequency
    direction: Literal["uplink", "downlink"] = "uplink"
    bs_array: ArrayParameters = ArrayParameters(pattern="38.901")
    ut_array: ArrayParameters = ArrayParameters()
    o2i_model: Literal["low", "high"] = "low"
    enable_pathloss: bool = False
    enable_shadow_fading: bool = False
    min_bs_ut_dist: PositiveReal | None = None
    isd: PositiveReal | None = None
    bs_height: _Height | None = None
    min_ut_height: _Height | None = None
    max_ut_height: _Height | None = None
    indoor_probability: Annotated[Real, Field(ge=0, le=1)] | None = None


class SystemLevelSource(_NeedsSionna):
    """One terminal dropped into a sector for each sample; condition ``speed``; the profile is the kind of link.

    Profiles: ``drop`` (indoors or outdoors, in line of sight or not, as TR 38.901 has it), ``LOS``, ``NLOS``, ``O2I``.
    """

    scenario: ClassVar[str]
    parameters_schema = SystemLevelParameters
    conditions = {"speed": SPEED}
    draw_columns = {
        "los": Condition("1", "1 in line of sight, else 0"),
        "indoor": Condition("1", "1 for a terminal in a building, else 0"),
        "distance": Condition("m", "horizontal distance between station and terminal"),
        "path_loss_db": Condition("dB", "path loss with walls and cars, in h only if channel.enable_pathloss"),
        "shadow_fading_db": Condition("dB", "shadowing (positive: more power), in h only if channel.enable_shadow_fading"),
        "delay_spread": Condition("s", "RMS delay spread drawn for the link"),
    }

    def build(self, profile: str) -> ChannelModel:
        """Build the model; every sample brings a speed of its own."""
        p = self.parameters
        state = check_choice("profile", profile, STATES)
        if p.indoor_probability is not None and state != "drop":
            raise InvalidValueError(f"channel.indoor_probability does not apply: profile {state!r} is decided already")
        names = ("min_bs_ut_dist", "isd", "bs_height", "min_ut_height", "max_ut_height", "indoor_probability")
        return SystemLevel(
            Drop(self.scenario, state, **{name: getattr(p, name) for name in names}),
            carrier_frequency=p.carrier_frequency,
            speed=self.require("speed", "the terminal's speed (m/s)").high,
            direction=p.direction,
            bs_array=p.bs_array.build(),
            ut_array=p.ut_array.build(),
            o2i_model=p.o2i_model,
            enable_pathloss=p.enable_pathloss,
            enable_shadow_fading=p.enable_shadow_fading,
        )

    def max_doppler(self, columns: Mapping[str, float]) -> float:
        """Speed times carrier over the speed of light."""
        return float(columns["speed"]) * float(self.parameters.carrier_frequency) / SPEED_OF_LIGHT

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``speed``."""
        return {"speed": columns["speed"]} if "speed" in columns else {}


class UMiSource(SystemLevelSource):
    """Urban micro cell, street canyon."""

    scenario = "UMi"


class UMaSource(SystemLevelSource):
    """Urban macro cell."""

    scenario = "UMa"


class RMaSource(SystemLevelSource):
    """Rural macro cell."""

    scenario = "RMa"
