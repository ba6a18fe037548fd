"""Recipes of kind ``csi-rrg``: past uplink CSI of a 32-port base station, and the uplink and downlink CSI that follow."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PlainValidator

from wichan.channels import CDL, Panel
from wichan.channels.profiles import cdl_profile
from wichan.channels.synthesis import cluster_coefficients, combine_clusters, delay_phasors
from wichan.channels.tdl import SPEED_OF_LIGHT
from wichan.errors import InvalidValueError
from wichan.grid import OFDMGrid
from wichan.simulate.interference import Interference, interference_at, worst_of
from wichan.simulate.sampler import BlockKey, BlockSampler
from wichan.simulate.schema import CarrierFrequency, Count, Label, Model, PositiveReal, Real, Recipe, Split
from wichan.store import Column

Letter = Literal["A", "B", "C", "D", "E"]
Edges = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]


def _phase(value: object) -> float | str:
    if value == "random":
        return "random"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"={value!r:.60} must be random or a number (radians)")
    return float(value)


Phase = Annotated[float | str, PlainValidator(_phase)]


@dataclass(frozen=True)
class ScenarioCell:
    """One cell of the benchmark: a CDL letter, an RMS delay spread [s] and a speed [m/s]."""

    profile: str
    delay_spread: float
    speed: float

    @property
    def name(self) -> str:
        """The benchmark's folder name, such as ``cm_A_ds_030_ms_010``."""
        return f"cm_{self.profile}_ds_{_digits(self.delay_spread * 1e9)}_ms_{_digits(self.speed)}"


def _digits(value: float) -> str:
    whole = round(value)
    return f"{whole:03d}" if abs(value - whole) < 1e-6 else f"{value:g}"


class ScenarioSplit(Split):
    """A split: the product of profiles, delay spreads [s] and speeds [m/s]."""

    profiles: Annotated[list[Letter], Field(min_length=1)]
    delay_spreads: Annotated[list[Annotated[Real, Field(ge=0, le=1e-3)]], Field(min_length=1, max_length=1000)]
    speeds: Annotated[list[Annotated[Real, Field(ge=0, le=1e4)]], Field(min_length=1, max_length=1000)]

    @functools.cached_property
    def cells(self) -> dict[str, ScenarioCell]:
        """Name -> cell, profile slowest, speed fastest."""
        product = itertools.product(self.profiles, self.delay_spreads, self.speeds)
        return {cell.name: cell for cell in (ScenarioCell(*values) for values in product)}


class PanelSection(Model):
    """``array:`` the base station's panel, dual cross-polarised with the TR 38.901 element."""

    rows: Annotated[Count, Field(le=64)] = 4
    columns: Annotated[Count, Field(le=64)] = 4


class CSIRRGRecipe(Recipe):
    """A recipe of kind ``csi-rrg``."""

    carrier_frequency: CarrierFrequency = 2.4e9
    subcarrier_spacing: PositiveReal = 30e3
    num_bins: Annotated[Count, Field(le=65536)] = 750
    uplink_bins: Edges = [0, 300]
    downlink_bins: Edges = [450, 750]
    csi_period: PositiveReal = 2.352e-3
    symbol_duration: PositiveReal = 33.6e-6
    num_history: Annotated[Count, Field(le=4096)] = 16
    num_horizon: Annotated[Count, Field(le=4096)] = 4
    array: PanelSection = PanelSection()
    doppler_angles: Literal["arrival", "departure"] = "arrival"
    los_phase: Phase = "random"
    splits: Annotated[dict[Label, ScenarioSplit], Field(min_length=1)]

    def cell_names(self, split: str) -> tuple[str, ...]:
        """Names of all cells of a split."""
        return tuple(self.splits[split].cells)

    def scenario(self, split: str, cell: str) -> ScenarioCell:
        """The cell of that name."""
        return self.splits[split].cells[cell]

    def check(self) -> None:
        """Cells exist, bins lie in the band, a sample has a sensible size."""
        for name in ("uplink_bins", "downlink_bins"):
            first, end = getattr(self, name)
            if not first < end <= self.num_bins:
                raise InvalidValueError(
                    f"{name}={[first, end]} must be [first, end] with first < end <= num_bins={self.num_bins}"
                )
        super().check()
        CSIRRGSampler(self).block_size  # noqa: B018 (raises if a sample is too large)


class CSIRRGSampler(BlockSampler):
    r"""Blocks of ``h_u_hist``, ``h_u_pred``, ``h_d_pred``, ``scale`` and the cell's conditions.

    Channels are sampled at the CSI instants only, the downlink at its target instants only. A sample is divided by the
    RMS over all antennas, instants and ``num_bins`` bins, gap included; with cluster coefficients c and
    :math:`\Phi = QR` (bins x clusters) that energy is :math:`\sum \|\Phi c\|^2 = \sum \|R c\|^2`, so the bins that are
    not stored are never formed.

    Cost of a sample with A antennas, K clusters, T + P instants, F bins a band:
    8 A K ((T + P)(20 + K + F) + P F) FLOP, 0.05 GFLOP as published.
    """

    schema = CSIRRGRecipe
    nominal_block = 20
    recipe: CSIRRGRecipe
    normalization = "sample: mean |h|^2 over antennas, instants and all bins is 1; scale is the factor applied"

    def __init__(self, recipe: CSIRRGRecipe, *, device: str | torch.device = "cpu") -> None:
        super().__init__(recipe, device=device)
        self.array = Panel(recipe.array.rows, recipe.array.columns, polarization="cross", pattern="38.901")
        self.times = torch.arange(recipe.num_history + recipe.num_horizon, dtype=torch.float64) * recipe.csi_period
        index = torch.arange(recipe.num_bins, dtype=torch.float64) - recipe.num_bins // 2
        self.frequencies = index * recipe.subcarrier_spacing
        letters = dict.fromkeys(letter for split in recipe.splits.values() for letter in split.profiles)
        self._profiles = tuple(sorted(letters))
        self.columns = self._describe()
        # One cell's model and phasors take a millisecond to build and serve all of its blocks.
        self._cell = functools.lru_cache(maxsize=32)(self._build_cell)

    def _describe(self) -> tuple[Column, ...]:
        r = self.recipe
        axes = ("num_rx_ant", "num_tx_ant", "num_snapshots", "num_subcarriers")
        uplink, downlink = (end - first for first, end in (r.uplink_bins, r.downlink_bins))
        ports = self.array.num_ant
        return (
            Column("h_u_hist", "complex64", (ports, 1, r.num_history, uplink), axes, description="uplink history"),
            Column("h_u_pred", "complex64", (ports, 1, r.num_horizon, uplink), axes, description="uplink future"),
            Column("h_d_pred", "complex64", (ports, 1, r.num_horizon, downlink), axes, description="downlink future"),
            Column("scale", "float32", description="factor that was applied to the model's channel"),
            Column("delay_spread", "float32", unit="s", description="RMS delay spread"),
            Column("speed", "float32", unit="m/s", description="speed of the terminal"),
            Column("profile", "category", categories=self._profiles, description="CDL profile"),
        )

    def model(self, cell: ScenarioCell) -> CDL:
        """The channel model of a cell: uplink, one omnidirectional vertical element at the terminal.

        The terminal moves, so Doppler shifts should follow the angles of departure; the published files take those of
        arrival, as Sionna 1.1 did whichever end moved.
        """
        return CDL(
            cell.profile,
            delay_spread=cell.delay_spread,
            carrier_frequency=self.recipe.carrier_frequency,
            speed=cell.speed,
            rx_array=self.array,
            direction="uplink",
            moving="rx" if self.recipe.doppler_angles == "arrival" else "tx",
            los_phase=self.recipe.los_phase,
        )

    def _build_cell(self, cell: ScenarioCell) -> _Cell:
        model = self.model(cell)
        wide = delay_phasors(model.delays(), self.frequencies, torch.complex128)
        root = torch.linalg.qr(wide.mT, mode="r").R
        uplink, downlink = (wide[:, slice(*edges)] for edges in (self.recipe.uplink_bins, self.recipe.downlink_bins))
        return _Cell(model, *(t.to(torch.complex64).contiguous().to(self.device) for t in (uplink, downlink, root)))

    def sample(self, key: BlockKey, *, device_noise: bool = False) -> dict[str, torch.Tensor]:
        """Compute a block; there is no noise in it."""
        scenario = self.recipe.scenario(key.split, key.cell)
        cell, count = self._cell(scenario), self.block_size
        rays = cell.model.sample(count, generator=key.generator("rays")).to(self.device)
        coefficients = cluster_coefficients(rays, self.times)
        scale = self._scale(cell, coefficients)
        coefficients = coefficients * scale[:, None, None, None]
        past = self.recipe.num_history
        history, future = coefficients[..., :past], coefficients[..., past:].contiguous()
        code = torch.full((count,), self._profiles.index(scenario.profile))
        return {
            "h_u_hist": combine_clusters(history, cell.uplink).unsqueeze(2),
            "h_u_pred": combine_clusters(future, cell.uplink).unsqueeze(2),
            "h_d_pred": combine_clusters(future, cell.downlink).unsqueeze(2),
            "scale": scale,
            "delay_spread": torch.full((count,), scenario.delay_spread, dtype=torch.float32),
            "speed": torch.full((count,), scenario.speed, dtype=torch.float32),
            "profile": code,
        }

    def _scale(self, cell: _Cell, coefficients: torch.Tensor) -> torch.Tensor:
        """1 / RMS over antennas, instants and all bins, float32 (count,)."""
        count, clusters, ports, instants = coefficients.shape
        reduced = cell.root @ coefficients.reshape(count, clusters, -1)
        energy = torch.view_as_real(reduced).flatten(1).square().sum(-1)
        return (energy / (ports * instants * self.recipe.num_bins)).rsqrt()

    def interference(self) -> tuple[Interference, ...]:
        """What the model leaves out, in the worst cell of every split (the benchmark has no noise of its own)."""
        r = self.recipe
        grid = OFDMGrid(1, r.num_bins, r.subcarrier_spacing, r.symbol_duration)
        worst = []
        for name, split in r.splits.items():
            # Both kinds of interference grow with speed and delay spread.
            cells = [ScenarioCell(letter, max(split.delay_spreads), max(split.speeds)) for letter in split.profiles]
            worst.append(worst_of([self._interference(name, cell, grid) for cell in cells]))
        return tuple(worst)

    def _interference(self, split: str, cell: ScenarioCell, grid: OFDMGrid) -> Interference:
        table = cdl_profile(cell.profile)
        powers = table.power.clone()
        powers[0] += table.los_power
        return interference_at(
            grid,
            (powers, table.delay * cell.delay_spread),
            split=split,
            cell=cell.name,
            profile=cell.profile,
            max_doppler=cell.speed * self.recipe.carrier_frequency / SPEED_OF_LIGHT,
            delay_spread=cell.delay_spread,
            noise_db=None,
        )


@dataclass(frozen=True, eq=False)
class _Cell:
    """What all blocks of a cell share: model, phasors (num_clusters, bins), triangular root of the phasors' Gram matrix."""

    model: CDL
    uplink: torch.Tensor
    downlink: torch.Tensor
    root: torch.Tensor
