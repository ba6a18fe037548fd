"""The source ``irs``: a terminal, a reflecting surface and a base station, with the directions of their paths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field

from wichan.channels.base import ChannelModel
from wichan.channels.irs import IRSCascade
from wichan.channels.irs_geometry import LINKS
from wichan.errors import InvalidValueError
from wichan.simulate.conditions import Law
from wichan.simulate.link import named
from wichan.simulate.schema import CarrierFrequency, Count, Model, PositiveReal, Real
from wichan.simulate.sources import ChannelSource, Condition

_GAIN = {"minimum": -400.0, "maximum": 400.0}
MAX_ELEMENTS = 65_536


def _numbers(value: Any) -> Any:
    # Strings and truth values would pass as numbers inside a list or a mapping.
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
    for item in values:
        if isinstance(item, (list, tuple)):
            _numbers(item)
        elif isinstance(item, (bool, str)):
            raise ValueError(f"={value!r} must hold numbers")
    return value


Elements = Annotated[Count, Field(le=MAX_ELEMENTS)]
Points = Annotated[Count, Field(le=100_000)]


def _array(value: Any) -> Any:
    pair = list(value) if isinstance(value, (list, tuple)) else [value]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= MAX_ELEMENTS for n in pair)
    if not whole or len(pair) > 2 or not pair:
        raise ValueError(f"={value!r} must be an integer from 1 to {MAX_ELEMENTS}, or a pair of them [rows, columns]")
    return pair if isinstance(value, (list, tuple)) else value


def _points(value: Any) -> Any:
    """Points on every axis: a number, a pair, or a mapping of an end to one of both; sizes are checked by who uses them."""
    for item in value.values() if isinstance(value, Mapping) else [value]:
        pair = list(item) if isinstance(item, (list, tuple)) else [item]
        if not pair or not all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 100_000 for n in pair):
            raise ValueError(f"={value!r} must hold integers from 1 to 100000")
    return value


Array = Annotated[int | list[int], BeforeValidator(_array)]
GridPoints = Annotated[int | list[int] | dict[str, int | list[int]], BeforeValidator(_points)]
Distance = Annotated[PositiveReal | Annotated[list[PositiveReal], Field(min_length=2, max_length=2)], BeforeValidator(_numbers)]


class IRSParameters(Model):
    """``channel:`` of a link through a reflecting surface; sizes are a number (linear) or [rows, columns] (planar)."""

    num_ms_ant: Array = 6
    num_irs: Array = 256
    num_bs_ant: Array = 16
    num_paths: Annotated[Count, Field(le=1024)] = 3
    direct: bool = False
    angles: Literal["uniform", "cluster", "grid", "block"] = "uniform"
    grid_size: GridPoints | None = None
    angle_spread_deg: Annotated[Real, Field(ge=0, le=180)] = 5.0
    hop_gain_db: Annotated[list[Real], BeforeValidator(_numbers), Field(min_length=2, max_length=2)] = [0.0, 0.0]
    direct_gain_db: Real = 0.0
    max_delay: Annotated[Real, Field(ge=0, le=1e-3)] = 0.0
    max_doppler: Annotated[Real, Field(ge=0, le=1e7)] = 0.0
    failure_rate: Annotated[Real, Field(ge=0, le=1)] = 0.0
    ms_distance: Distance | None = None
    bs_distance: Distance | None = None
    carrier_frequency: CarrierFrequency | None = None

    def build(self) -> IRSCascade:
        """Return the model."""
        settings = self.model_dump()
        if self.grid_size is not None and self.angles in ("uniform", "cluster"):
            raise InvalidValueError(
                f"grid_size={self.grid_size} does not apply: angles={self.angles!r} has no grid; "
                "--set channel.grid_size=null takes it away"
            )
        settings["angle_spread"] = math.radians(settings.pop("angle_spread_deg"))
        return IRSCascade(**settings)


class IRSSource(ChannelSource):
    """`wichan.channels.IRSCascade`: columns say where the paths of every link come and go.

    Conditions: gains of the links, the largest delay, and the terminal's Doppler. In recipes of another kind than ``irs`` the
    surface reflects with all phases zero.
    """

    parameters_schema = IRSParameters
    has_profile = False
    conditions = {
        "ms_irs_gain_db": Condition("dB", "power gain of the hop from the terminal to the surface", _GAIN),
        "irs_bs_gain_db": Condition("dB", "power gain of the hop from the surface to the base station", _GAIN),
        "direct_gain_db": Condition("dB", "power gain of the direct link", _GAIN),
        "max_delay": Condition("s", "largest delay of a path", {"minimum": 0.0, "maximum": 1e-3}),
        "max_doppler": Condition("Hz", "maximum Doppler shift of the terminal", {"minimum": 0.0, "maximum": 1e7}),
    }

    def __init__(self, parameters: IRSParameters, profiles: Sequence[str], conditions: Mapping[str, Law]) -> None:
        super().__init__(parameters, profiles, conditions)
        model: Any = self.models[""]
        self.links = model.links
        self.draw_columns = {name: text for name, (text, _) in self._columns(model).items()}
        self._axes = {name: axes for name, (_, axes) in self._columns(model).items()}

    def build(self, profile: str) -> ChannelModel:
        """Build the model."""
        model: IRSCascade = named("channel", self.parameters.build)
        return model

    def _columns(self, model: Any) -> dict[str, tuple[Condition, dict[str, int]]]:
        """Columns of the paths, with their axes."""
        paths, found = {"num_paths": int(self.parameters.num_paths)}, {}
        for link in model.links:
            for end, side in zip(LINKS[link], ("arrival", "departure"), strict=True):
                text = f"direction cosines of the paths at the {end.upper()}, {link.replace('_', '-')} link"
                axes = {**paths, "num_axes": len(getattr(model, f"{end}_shape"))}
                found[f"{link}_{side}"] = (Condition("1", text), axes)
        for link in model.links:
            found[f"{link}_delay"] = (Condition("s", f"delays of the paths, {link.replace('_', '-')} link"), paths)
        for link in model.distances:
            found[f"{link}_distance"] = (Condition("m", f"distance of the paths, {link.replace('_', '-')} link"), paths)
        return found

    def draw_axes(self, name: str) -> dict[str, int]:
        """Paths, and for directions the axes of the array."""
        return self._axes[name]

    def columns_of(self, draw: Any) -> dict[str, torch.Tensor]:
        """Directions, delays and distances of a draw, float32."""
        columns = dict(draw.columns)
        for link in self.links:
            count = columns[f"{link}_arrival"].shape[:2]
            columns[f"{link}_delay"] = getattr(draw, link).delay.to(torch.float32).expand(count).clone()
        return {name: columns[name] for name in self.draw_columns}

    def arguments(self, columns: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Conditions that ``model.sample`` takes."""
        return {name: columns[name] for name in self.conditions if name in columns}

    def max_doppler(self, columns: Mapping[str, float]) -> float:
        """The condition, or else the setting of the channel."""
        return float(columns.get("max_doppler", self.parameters.max_doppler))
