"""What a recipe can name: kinds of samples and sources of channels, each one line in a lazy table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from wichan.channels.base import ChannelModel
from wichan.errors import InvalidValueError
from wichan.registry import Registry
from wichan.simulate.conditions import Law
from wichan.simulate.schema import Model

KINDS = Registry(
    "kind",
    {
        "ofdm": "wichan.simulate.ofdm:OFDMSampler",
        "quantized": "wichan.simulate.quantized:QuantizedSampler",
        "irs": "wichan.simulate.irs:IRSSampler",
        "csi-rrg": "wichan.simulate.csi_rrg:CSIRRGSampler",
    },
)

SOURCES = Registry(
    "source",
    {
        "tdl": "wichan.simulate.channel_sources:TDLSource",
        "cdl": "wichan.simulate.channel_sources:CDLSource",
        "rayleigh": "wichan.simulate.channel_sources:RayleighSource",
        "rician": "wichan.simulate.channel_sources:RicianSource",
        "spatial": "wichan.simulate.spatial_source:SpatialSource",
        "irs": "wichan.simulate.irs_source:IRSSource",
        "sionna:TDL": "wichan.integrations.sionna.source:SionnaTDLSource",
        "sionna:CDL": "wichan.integrations.sionna.source:SionnaCDLSource",
        "sionna:UMi": "wichan.integrations.sionna.source:UMiSource",
        "sionna:UMa": "wichan.integrations.sionna.source:UMaSource",
        "sionna:RMa": "wichan.integrations.sionna.source:RMaSource",
    },
)


@dataclass(frozen=True)
class Condition:
    """A parameter that a source lets a recipe draw per sample: its unit, meaning, and limits (see `parse_law`)."""

    unit: str
    description: str
    limits: Mapping[str, Any] = field(default_factory=dict)


class ChannelSource(ABC):
    """Builds channel models for a recipe and says which conditions it understands.

    Args:
        parameters: the recipe's ``channel:`` section, checked against ``parameters_schema``.
        profiles: profile names that the recipe may draw; ``("",)`` for a source without profiles.
        conditions: laws of the recipe's conditions, parsed; all samples share constants.

    Raises:
        InvalidValueError: a condition is missing or does not fit the profiles.
    """

    parameters_schema: ClassVar[type[Model]]
    conditions: ClassVar[Mapping[str, Condition]] = {}
    has_profile: ClassVar[bool] = True
    #: Columns that come out of a draw (a distance, a line of sight): keys of the draw's ``columns``.
    draw_columns: Mapping[str, Condition] = {}

    def __init__(self, parameters: Any, profiles: Sequence[str], conditions: Mapping[str, Law]) -> None:
        self.parameters = parameters
        self.laws = dict(conditions)
        self.models: dict[str, ChannelModel] = {profile: self.build(profile) for profile in profiles}
        sizes = {(model.num_rx_ant, model.num_tx_ant) for model in self.models.values()}
        if len(sizes) != 1:
            raise InvalidValueError(f"profile: models have different antenna numbers {sorted(sizes)}; all need the same")
        self.num_rx_ant, self.num_tx_ant = sizes.pop()

    @abstractmethod
    def build(self, profile: str) -> ChannelModel:
        """Return the channel model of ``profile``; conditions are given per sample when it is used."""

    def draw_axes(self, name: str) -> dict[str, int]:
        """Axes of one sample in the draw column ``name`` with their sizes; none for a number."""
        return {}

    def columns_of(self, draw: Any) -> dict[str, torch.Tensor]:
        """The draw columns of a draw."""
        return {name: draw.columns[name] for name in self.draw_columns}

    @property
    def derived(self) -> dict[str, Condition]:
        """Columns that follow from the conditions (a Doppler from a speed), beyond the conditions themselves."""
        return {}

    def derive(self, drawn: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Compute the derived columns of samples with the conditions ``drawn``, each (n,)."""
        return {}

    def ready(self) -> None:
        """Raise what would keep the source from drawing (a package that is missing); asked before a run starts."""
        return

    def versions(self) -> dict[str, str]:
        """Versions of further packages that fix the bits of the draws."""
        return {}

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Pick what ``model.sample`` and ``model.covariance`` take from a batch's condition columns."""
        return {name: columns[name] for name in self.conditions if name in columns}

    def max_doppler(self, columns: Mapping[str, float]) -> float:
        """Largest Doppler shift [Hz] at given conditions (for the interference that the model leaves out)."""
        return float(columns.get("max_doppler", 0.0))

    def require(self, name: str, why: str) -> Law:
        """Return the law of a condition that must be there."""
        if name not in self.laws:
            raise InvalidValueError(f"conditions.{name} is missing; {why}")
        return self.laws[name]
