"""Recipes of kind ``irs``: training of a link through a reflecting surface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from wichan.errors import InvalidValueError
from wichan.grid import OFDMGrid
from wichan.observations.irs import IRSTraining
from wichan.observations.irs_dictionary import IRSDictionary, check_grid_points
from wichan.simulate.interference import Interference
from wichan.simulate.irs_source import GridPoints
from wichan.simulate.link import named
from wichan.simulate.ofdm import GridSection, OFDMRecipe, OFDMSampler
from wichan.simulate.schema import Count, Model, PositiveReal, Real, Whole
from wichan.simulate.sources import ChannelSource
from wichan.store import Column

_AXES = ("num_rx_ant", "num_tx_ant", "num_patterns", "num_subcarriers")
MAX_PATTERNS = 1 << 24  # reflection phases, 256 MiB in double precision
_GAINS = ("ms_irs_gain_db", "irs_bs_gain_db", "direct_gain_db")


class SubcarrierSection(GridSection):
    """``grid:`` the subcarriers; reflection patterns stand where other kinds have OFDM symbols."""

    num_ofdm_symbols: Literal[1] = 1
    num_subcarriers: Annotated[Count, Field(le=100_000)] = 1
    subcarrier_spacing: PositiveReal = 15e3


class TrainingSection(Model):
    """``training:`` pilots and reflection patterns, as `wichan.observations.IRSTraining`; ``seed`` fixes the random ones."""

    num_pilots: Annotated[Count, Field(le=4096)] = 3
    num_patterns: Annotated[Count, Field(le=65_536)] = 6
    patterns: Literal["random", "dft", "hadamard"] = "random"
    pilots: Literal["qpsk", "dft"] = "qpsk"
    pattern_duration: Annotated[Real, Field(ge=0, le=1e3)] = 0.0
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 0


class DictionarySection(Model):
    """``dictionary:`` the grid that sparse estimators look for paths on; it has no part in the samples."""

    grid: GridPoints = 18
    direct: bool | None = None
    delays: Count | None = None


class SBLSection(Model):
    """``sbl:`` how an evaluation runs sparse Bayesian learning; it has no part in the samples."""

    max_iter: Count = 150
    tol: Annotated[Real, Field(ge=0)] = 1e-4
    couple: list[Literal["irs", "ms", "bs", "delay"]] = ["irs", "bs"]
    coupling: Annotated[Real, Field(ge=0, le=1)] = 0.8


class IRSRecipe(OFDMRecipe):
    """A recipe of kind ``irs``: pilots of a terminal under reflection patterns of a surface."""

    grid: SubcarrierSection = SubcarrierSection()
    source: Literal["irs"] = "irs"
    pilots: dict[str, Any] = Field(default={}, max_length=0)
    training: TrainingSection = TrainingSection()
    dictionary: DictionarySection = DictionarySection()
    sbl: SBLSection = SBLSection()
    snr_convention: Literal["per-realisation", "dense"] = "per-realisation"  # type: ignore[assignment]

    def build_observation(self, grid: OFDMGrid, source: ChannelSource) -> IRSTraining:
        """Build pilots and patterns for the link."""
        model: Any = source.models[""]
        entries = self.training.num_patterns * model.num_irs_elements
        if entries > MAX_PATTERNS:
            raise InvalidValueError(
                f"training.num_patterns={self.training.num_patterns} with {model.num_irs_elements} elements asks for {entries} "
                f"phases; at most {MAX_PATTERNS} are allowed"
            )
        named("dictionary", lambda: check_grid_points(self.dictionary.grid, model))
        if self.dictionary.delays is not None and grid.num_subcarriers == 1:
            raise InvalidValueError(
                f"dictionary.delays={self.dictionary.delays} does not apply: there is one subcarrier (grid.num_subcarriers)"
            )
        settings = self.training.model_dump()
        frequencies = grid.frequencies if grid.num_subcarriers > 1 else None
        observation: IRSTraining = named("training", lambda: IRSTraining(model, frequencies=frequencies, **settings))
        return observation

    def build_dictionary(self, observation: IRSTraining) -> IRSDictionary:
        """Build the dictionary that the section ``dictionary`` asks for."""
        settings = self.dictionary.model_dump()
        dictionary: IRSDictionary = named("dictionary", lambda: observation.dictionary(**settings))
        return dictionary

    def check(self) -> None:
        """Build everything once; refuses the mean SNR where samples have mean powers of their own."""
        super().check()
        IRSSampler(self).block_size  # noqa: B018 (raises if a sample is too large)
        varying = [name for name in _GAINS if name in self.conditions and self.conditions[name] is not None]
        if self.snr_convention == "dense" and varying:
            raise InvalidValueError(
                f"snr_convention='dense' does not apply: conditions.{varying[0]} gives every sample a mean power of its own; "
                "use per-realisation"
            )


class IRSSampler(OFDMSampler):
    """Blocks of ``h``, ``y``, ``no``, ``snr_db``, conditions, and the directions of all paths; over a band their delays too."""

    schema = IRSRecipe  # type: ignore[assignment]
    recipe: IRSRecipe

    def _describe(self) -> tuple[Column, ...]:
        _, *others = super()._describe()
        if self.link.grid.num_subcarriers == 1:  # one subcarrier cannot tell delays from phases
            others = [column for column in others if not column.name.endswith("_delay")]
        shape = self.observation.channel_shape
        return Column("h", "complex64", shape, _AXES, description="cascade under every training pattern"), *others

    def _received(self) -> Column:
        text = "received pilots, in the order pattern, pilot, antenna, subcarrier"
        return Column("y", "complex64", (self.observation.num_measurements,), ("num_measurements",), description=text)

    def _synthesise(
        self, profile: str, count: int, generator: torch.Generator, columns: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        source: Any = self.link.source
        model: Any = self.link.models[profile]
        draw = model.sample(count, generator=generator, **source.arguments(columns)).to(self.device)
        h = self.observation.channel(draw)
        return h if self.recipe.normalize is None else h.mul_(self.link.amplitude[profile]), source.columns_of(draw)

    def interference(self) -> tuple[Interference, ...]:
        """None: the channel under a pattern is flat over each subcarrier and stands still."""
        return ()
