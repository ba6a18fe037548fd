"""The source ``spatial``: flat channels that are Gaussian given the angles and powers that come with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import Field

from wichan.channels.base import ChannelModel
from wichan.channels.spatial import SpatialGaussian
from wichan.simulate.channel_sources import Antennas
from wichan.simulate.conditions import Law
from wichan.simulate.schema import Count, Model, Real
from wichan.simulate.sources import ChannelSource, Condition

Spread = Annotated[Real, Field(ge=0.01, le=180)]

_DRAWN = {
    "angles": Condition("rad", "azimuth of the clusters at the receiver, 0 is broadside"),
    "powers": Condition("1", "powers of the clusters, with sum 1"),
    "elevations": Condition("rad", "elevation of the clusters at the receiver"),
    "tx_angles": Condition("rad", "azimuth of the clusters at the transmitter"),
}


class SpatialParameters(Model):
    """``channel:`` of the conditionally Gaussian spatial model; angles in degrees."""

    num_rx_ant: Antennas = 1
    num_tx_ant: Antennas = 1
    num_clusters: Annotated[Count, Field(le=64)] = 1
    rx_spread_deg: Spread = 2.0
    tx_spread_deg: Spread = 35.0
    num_rows: Antennas | None = None
    elevation_spread_deg: Spread = 1.0
    max_angle_deg: Annotated[Real, Field(gt=0, le=180)] = 90.0
    max_elevation_deg: Annotated[Real, Field(gt=0, le=90)] = 30.0


class SpatialSource(ChannelSource):
    """`wichan.channels.SpatialGaussian`: no conditions, but columns that say which covariance a channel was drawn from."""

    parameters_schema = SpatialParameters
    has_profile = False

    def __init__(self, parameters: SpatialParameters, profiles: Sequence[str], conditions: Mapping[str, Law]) -> None:
        super().__init__(parameters, profiles, conditions)
        absent = set() if parameters.num_rows is not None else {"elevations"}
        absent |= set() if parameters.num_tx_ant > 1 else {"tx_angles"}
        self.draw_columns = {name: item for name, item in _DRAWN.items() if name not in absent}

    def build(self, profile: str) -> ChannelModel:
        """Build the model."""
        p = self.parameters
        return SpatialGaussian(
            p.num_rx_ant,
            p.num_clusters,
            num_tx_ant=p.num_tx_ant,
            rx_spread=math.radians(p.rx_spread_deg),
            tx_spread=math.radians(p.tx_spread_deg),
            num_rows=p.num_rows,
            elevation_spread=math.radians(p.elevation_spread_deg),
            max_angle=math.radians(p.max_angle_deg),
            max_elevation=math.radians(p.max_elevation_deg),
        )

    def draw_axes(self, name: str) -> dict[str, int]:
        """Every column holds one number a cluster."""
        return {"num_clusters": int(self.parameters.num_clusters)}

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Angles and powers, where the columns hold all of them: then ``model.covariance`` is that of each sample."""
        names = tuple(self.draw_columns)
        return {name: columns[name] for name in names} if all(name in columns for name in names) else {}
