"""The parts behind a recipe of kind ``ofdm``: grid, pilots and channel models, for simulation and for genie estimators."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wichan.channels.base import ChannelModel
from wichan.errors import InvalidTypeError, InvalidValueError, WichanError, check_choice
from wichan.grid import OFDMGrid
from wichan.observations import OFDMPilots
from wichan.observations.dmrs import dmrs_pattern
from wichan.observations.pilots import PilotPattern, block_pattern, comb_pattern, kronecker_pattern
from wichan.simulate.conditions import Law
from wichan.simulate.schema import unknown_key, validate
from wichan.simulate.sources import SOURCES, ChannelSource

if TYPE_CHECKING:
    from wichan.simulate.ofdm import OFDMRecipe


def source_class(name: str) -> type[ChannelSource]:
    """Look up a source of channels by name."""
    cls: type[ChannelSource] = SOURCES[name]
    return cls


@dataclass(frozen=True, eq=False)
class Link:
    """What a recipe of kind ``ofdm``, ``quantized`` or ``irs`` is made of, for simulation and estimators that know the model.

    Attributes:
        grid: the OFDM lattice.
        observation: what the receiver sees: `OFDMPilots`, `QuantizedPilots` for a recipe of kind ``quantized``,
            `IRSTraining` for one of kind ``irs``.
        source: builds models; ``source.arguments(columns)`` picks what ``model.covariance(grid, ...)`` takes.
        models: profile name -> channel model.
        amplitude: profile name -> factor applied to the model's channels (1 unless the recipe normalises).
        cells: (split, cell) -> condition name -> law.
    """

    grid: OFDMGrid
    observation: Any
    source: ChannelSource
    models: Mapping[str, ChannelModel]
    amplitude: Mapping[str, float]
    cells: Mapping[tuple[str, str], Mapping[str, Law]]

    def laws(self, split: str, cell: str) -> Mapping[str, Law]:
        """Laws of all conditions of one cell, ``snr_db`` and ``profile`` among them."""
        return self.cells[split, cell]


def build_link(recipe: OFDMRecipe) -> Link:
    """Build grid, pilots and channel models of a recipe (also of one read back from a data set's manifest)."""
    names = [(split, cell) for split in recipe.split_names() for cell in recipe.cell_names(split)]
    cells = {name: recipe.laws(*name) for name in names}
    first = cells[names[0]]
    for (split, cell), laws in cells.items():
        if set(laws) != set(first):
            odd = sorted(set(laws) ^ set(first))[0]
            raise InvalidValueError(f"splits.{split}.cells.{cell}: {odd} must be a condition of every cell or of none")
    cls = source_class(recipe.source)
    # null takes a setting away, as among the conditions: another source may not know it.
    settings = {name: value for name, value in recipe.channel.items() if value is not None}
    parameters = validate(cls.parameters_schema, settings, "channel")
    profiles = tuple(dict.fromkeys(name for laws in cells.values() if "profile" in laws for name in laws["profile"].values))
    source = cls(parameters, profiles or ("",), {k: v for k, v in first.items() if k not in ("profile", "snr_db")})
    amplitude = {n: 1.0 if recipe.normalize is None else m.mean_power() ** -0.5 for n, m in source.models.items()}
    grid = named("grid", recipe.grid.build)
    return Link(grid, recipe.build_observation(grid, source), source, source.models, amplitude, cells)


_PATTERNS: dict[str, Callable[..., PilotPattern]] = {
    "comb": comb_pattern,
    "block": block_pattern,
    "kronecker": kronecker_pattern,
    "dmrs": dmrs_pattern,
}


def build_pilots(grid: OFDMGrid, settings: Mapping[str, Any], num_tx_ant: int) -> OFDMPilots:
    """Build the pilots of a recipe's ``pilots:`` section: ``pattern`` and the arguments of that pattern's function."""
    options = dict(settings)
    default = "comb" if num_tx_ant == 1 else "kronecker"
    make = _PATTERNS[check_choice("pilots.pattern", options.pop("pattern", default), _PATTERNS)]
    known = inspect.signature(make).parameters
    allowed = [name for name in known if name not in ("grid", "num_tx_ant")]
    for name in options:
        if name not in allowed:
            raise unknown_key("pilots", name, ("pattern", *allowed))
    if "num_tx_ant" in known:
        options["num_tx_ant"] = num_tx_ant
    if "symbols" in allowed and "symbols" not in options:
        raise InvalidValueError("pilots.symbols is missing; the recipe must give it")
    pattern = named("pilots", lambda: make(grid, **options))
    if pattern.num_tx_ant != num_tx_ant:
        raise InvalidValueError(f"pilots serve {pattern.num_tx_ant} transmit antennas; the channel has {num_tx_ant}")
    return OFDMPilots(grid, pattern=pattern)


def named(section: str, build: Callable[[], Any]) -> Any:
    """Build a part; its errors get the section's name in front."""
    try:
        return build()
    except WichanError as error:
        raise type(error)(f"{section}.{error}") from None
    except (TypeError, IndexError) as error:
        raise InvalidTypeError(f"{section} holds a value of a wrong type: {error}") from None
