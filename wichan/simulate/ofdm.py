"""Recipes of kind ``ofdm``: channels on an OFDM grid and what a receiver sees of them through pilots."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field

from wichan.errors import InvalidValueError
from wichan.grid import OFDMGrid
from wichan.observations import no_from_snr_db
from wichan.random import make_generator
from wichan.simulate.conditions import Law, parse_law
from wichan.simulate.interference import Interference, delay_profile, interference_at, to_db, worst_of
from wichan.simulate.link import build_link, build_pilots, source_class
from wichan.simulate.sampler import MAX_SAMPLE_BYTES, BlockKey, BlockSampler
from wichan.simulate.schema import Count, Label, Model, PositiveReal, Recipe, Split, unknown_key
from wichan.simulate.sources import ChannelSource, Condition
from wichan.store import Column

MAX_FROZEN = 10_000
# Conventions that need E|h|^2; the others measure each channel.
_BY_MEAN_POWER = ("pilot", "grid-measured", "quantised", "dense")
_AXES = ("num_rx_ant", "num_tx_ant", "num_ofdm_symbols", "num_subcarriers")
# Channels and the columns that came out of their draw.
_Channels = tuple[torch.Tensor, dict[str, torch.Tensor]]
_SNR = Condition("dB", "signal-to-noise ratio, see snr_convention", {"minimum": -200.0, "maximum": 200.0})


class GridSection(Model):
    """``grid:`` the OFDM lattice, as `wichan.OFDMGrid`."""

    num_ofdm_symbols: Annotated[Count, Field(le=100_000)]
    num_subcarriers: Annotated[Count, Field(le=100_000)]
    subcarrier_spacing: PositiveReal
    symbol_duration: PositiveReal | None = None

    def build(self) -> OFDMGrid:
        """Return the grid."""
        return OFDMGrid(**self.model_dump())


class OFDMSplit(Split):
    """A split; ``cells`` name settings that override conditions (or the profile), one cell each."""

    cells: dict[Label, dict[str, Any]] | None = None


def _optional_name(value: Any) -> Any:
    return None if value in ("none", "None") else value


class OFDMRecipe(Recipe):
    """A recipe of kind ``ofdm``."""

    grid: GridSection
    source: str = "tdl"
    profile: Any = None
    channel: dict[str, Any] = {}
    pilots: dict[str, Any]
    conditions: dict[str, Any]
    snr_convention: Literal["pilot", "grid-measured", "per-realisation", "grid-measured-realised"] = "pilot"
    normalize: Annotated[Literal["ensemble"] | None, BeforeValidator(_optional_name)] = None
    independent_fading: bool = True
    splits: Annotated[dict[Label, OFDMSplit], Field(min_length=1)]

    def cell_names(self, split: str) -> tuple[str, ...]:
        """The named cells of a split, or ``("main",)``."""
        return tuple(self.splits[split].cells or ("main",))

    def laws(self, split: str, cell: str) -> dict[str, Law]:
        """Laws of every condition in one cell; ``profile`` is among them where the source has profiles."""
        override = (self.splits[split].cells or {}).get(cell, {})
        known = {"snr_db": _SNR, **source_class(self.source).conditions}
        settings = {f"conditions.{k}": (k, v) for k, v in self.conditions.items() if k not in override}
        settings |= {f"splits.{split}.cells.{cell}.{k}": (k, v) for k, v in override.items() if k != "profile"}
        laws = {}
        for path, (name, value) in settings.items():
            if value is None:  # null takes a condition away: a fixed profile has no delay spread, another source no Doppler
                continue
            if name not in known:
                raise unknown_key(path.rpartition(".")[0], name, known)
            laws[name] = parse_law(value, path, **known[name].limits)
        if "snr_db" not in laws:
            raise InvalidValueError("conditions.snr_db is missing; the recipe must give it")
        if source_class(self.source).has_profile:
            laws["profile"] = parse_law(override.get("profile", self.profile), "profile", words=True)
        elif self.profile is not None:
            raise InvalidValueError(f"profile={self.profile!r} does not apply: source {self.source!r} has no profiles")
        return laws

    def build_observation(self, grid: OFDMGrid, source: ChannelSource) -> Any:
        """Build what a receiver sees of the source's channels."""
        return build_pilots(grid, self.pilots, source.num_tx_ant)

    def check(self) -> None:
        """Build everything once, so that a bad value is found before any sample is computed."""
        super().check()
        links = self.grid.num_ofdm_symbols * self.grid.num_subcarriers
        if links * 8 > MAX_SAMPLE_BYTES:
            raise InvalidValueError(f"grid has {links} elements; at most {MAX_SAMPLE_BYTES // 8} are allowed")
        OFDMSampler(self).block_size  # noqa: B018 (raises if a sample is too large)
        if not self.independent_fading:
            for split, cell in self.selected_cells():
                self._check_frozen(self.laws(split, cell))

    def _check_frozen(self, laws: Mapping[str, Law]) -> None:
        # Frozen channels are kept in memory, and continuous conditions would freeze nothing.
        counts = {name: law.num_values for name, law in laws.items() if name != "snr_db"}
        if math.prod(counts.values()) > MAX_FROZEN:
            worst = max(counts, key=lambda name: counts[name])
            raise InvalidValueError(
                f"independent_fading=False needs at most {MAX_FROZEN} different conditions; use {{choice: [...]}} for {worst}"
            )


class OFDMSampler(BlockSampler):
    """Blocks of ``h``, ``y``, ``no``, ``snr_db``, ``profile`` and the source's conditions."""

    schema = OFDMRecipe
    recipe: OFDMRecipe

    def __init__(self, recipe: OFDMRecipe, *, device: str | torch.device = "cpu") -> None:
        super().__init__(recipe, device=device)
        self.link = build_link(recipe)
        self.observation = self.link.observation.to(self.device)
        self.snr_convention = recipe.snr_convention
        self._profiles = tuple(self.link.models)
        if recipe.normalize is not None:
            self.normalization = {"mode": recipe.normalize, "amplitude": dict(self.link.amplitude)}
        if recipe.snr_convention in _BY_MEAN_POWER and not all(model.has_mean_power for model in self.link.models.values()):
            raise InvalidValueError(
                f"snr_convention={recipe.snr_convention!r} does not apply: with path loss or shadow fading in the channel a "
                "few near terminals carry the mean power; use per-realisation or grid-measured-realised"
            )
        self._frozen: dict[tuple[str, bytes], _Channels] = {}
        self.columns = self._describe()

    @functools.cached_property
    def _mean_power(self) -> torch.Tensor:
        """E|h|^2 of every profile, float32: asked for late, since not every model has it in closed form."""
        models, amplitude = self.link.models, self.link.amplitude
        powers = [model.mean_power() * amplitude[name] ** 2 for name, model in models.items()]
        return torch.tensor(powers, dtype=torch.float32)

    def ready(self) -> None:
        """Whatever the source needs is there."""
        self.link.source.ready()

    def versions(self) -> dict[str, str]:
        """What else fixes the source's bits."""
        return self.link.source.versions()

    def _describe(self) -> tuple[Column, ...]:
        symbols, subcarriers = self.link.grid.shape
        rx, tx = self.link.source.num_rx_ant, self.link.source.num_tx_ant
        laws = next(iter(self.link.cells.values()))
        known = {"snr_db": _SNR, **self.link.source.conditions, **self.link.source.derived}
        names = [*(name for name in known if name in laws), *self.link.source.derived]
        columns = [
            Column("h", "complex64", (rx, tx, symbols, subcarriers), _AXES, description="channel"),
            self._received(),
            Column("no", "float32", description="noise variance per complex sample"),
            *(Column(name, "float32", unit=known[name].unit, description=known[name].description) for name in names),
        ]
        for name, item in self.link.source.draw_columns.items():
            sizes = self.link.source.draw_axes(name)
            shape, axes = tuple(sizes.values()), tuple(sizes)
            columns.append(Column(name, "float32", shape, axes, unit=item.unit, description=item.description))
        if "profile" in laws:
            columns.append(Column("profile", "category", categories=self._profiles, description="delay profile"))
        return tuple(columns)

    def _received(self) -> Column:
        """The column of the observation."""
        shape = (self.link.source.num_rx_ant, *self.link.grid.shape)
        return Column("y", "complex64", shape, (_AXES[0], *_AXES[2:]), description="received grid")

    def conditions(self, key: BlockKey) -> dict[str, torch.Tensor]:
        """Draw the conditions of a block: float32 (block_size,), ``profile`` as int64 codes."""
        laws, drawn = self.link.laws(key.split, key.cell), {}
        for name, law in laws.items():
            u = torch.rand(self.block_size, dtype=torch.float64, generator=key.generator("condition", name))
            drawn[name] = law.draw(u)
        if "profile" in laws:
            codes = torch.tensor([self._profiles.index(name) for name in laws["profile"].categories])
            drawn["profile"] = codes[drawn["profile"].to(torch.int64)]
        drawn |= self.link.source.derive(drawn)
        return {name: value if name == "profile" else value.to(torch.float32) for name, value in drawn.items()}

    def sample(self, key: BlockKey, *, device_noise: bool = False) -> dict[str, torch.Tensor]:
        """Compute a block; the noise comes from the CPU unless ``device_noise``."""
        drawn = self.conditions(key)
        h, found = self._channels(key, drawn)
        no = self._noise_variance(drawn, h)
        noise = key.generator("noise", device=self.device if device_noise else "cpu")
        values = {"h": h, "y": self.observation.observe(h, no, generator=noise), "no": no, **drawn, **found}
        return {column.name: values[column.name] for column in self.columns}

    def _noise_variance(self, drawn: Mapping[str, torch.Tensor], h: torch.Tensor) -> torch.Tensor:
        convention, observation = self.recipe.snr_convention, self.observation
        snr_db = drawn["snr_db"].to(self.device)
        if convention in _BY_MEAN_POWER:
            code = drawn.get("profile", torch.zeros(self.block_size, dtype=torch.int64))
            return no_from_snr_db(snr_db, convention, observation) * self._mean_power[code].to(self.device)
        return no_from_snr_db(snr_db, convention, observation, h=h)

    def _channels(self, key: BlockKey, drawn: Mapping[str, torch.Tensor]) -> _Channels:
        if not self.recipe.independent_fading:
            return self._frozen_channels(key, drawn)
        if len(self._profiles) == 1:
            name = self._profiles[0]
            return self._synthesise(name, self.block_size, key.generator("rays", name), drawn)
        h: torch.Tensor | None = None
        found: dict[str, torch.Tensor] = {}
        for code, name in enumerate(self._profiles):
            index = torch.nonzero(drawn["profile"] == code).flatten()
            if not index.numel():
                continue
            picked = {k: v[index] for k, v in drawn.items()}
            part, columns = self._synthesise(name, index.numel(), key.generator("rays", name), picked)
            if h is None:
                h = part.new_empty(self.block_size, *part.shape[1:])
                found = {k: v.new_empty(self.block_size, *v.shape[1:]) for k, v in columns.items()}
            h[index.to(h.device)] = part
            for k, v in columns.items():
                found[k][index] = v
        assert h is not None  # every sample has a profile
        return h, found

    def _synthesise(
        self, profile: str, count: int, generator: torch.Generator, columns: Mapping[str, torch.Tensor]
    ) -> _Channels:
        arguments = self.link.source.arguments(columns)
        model = self.link.models[profile]
        draw: Any = model.sample(count, generator=generator, **arguments).to(self.device)
        h = model.response(draw, self.link.grid.times, self.link.grid.frequencies)
        found = self.link.source.columns_of(draw)
        return h if self.recipe.normalize is None else h.mul_(self.link.amplitude[profile]), found

    def _frozen_channels(self, key: BlockKey, drawn: Mapping[str, torch.Tensor]) -> _Channels:
        """One fading realisation per (profile, conditions), the same in every split, cell and block."""
        names = sorted(self.link.source.arguments(drawn))
        rows = torch.stack([drawn[name] for name in names], dim=1) if names else torch.zeros(self.block_size, 0)
        codes = drawn.get("profile", torch.zeros(self.block_size, dtype=torch.int64)).tolist()
        channels = []
        for i, row in enumerate(rows.tolist()):
            place = (self._profiles[codes[i]], struct.pack(f"<{len(row)}f", *row))
            if place not in self._frozen:
                tag = (self.recipe.name, self.recipe.recipe_version, "frozen", place[0], place[1].hex())
                generator = make_generator(key.seed, *tag)
                picked = {name: value[i : i + 1] for name, value in drawn.items()}
                h, found = self._synthesise(place[0], 1, generator, picked)
                self._frozen[place] = h[0], {name: value[0] for name, value in found.items()}
            channels.append(self._frozen[place])
        columns = {name: torch.stack([found[name] for _, found in channels]) for name in self.link.source.draw_columns}
        return torch.stack([h for h, _ in channels]), columns

    def interference(self) -> tuple[Interference, ...]:
        """What the frequency-domain model leaves out, at the worst conditions of every split."""
        worst = []
        for split in self.recipe.split_names():
            cells = self.recipe.cell_names(split)
            worst.append(worst_of([item for cell in cells for item in self._interference(split, cell)]))
        return tuple(worst)

    def _interference(self, split: str, cell: str) -> list[Interference]:
        laws = self.link.laws(split, cell)
        top = {name: law.high for name, law in laws.items() if name != "profile"}
        spread = top.get("delay_spread")
        # Noise relative to the signal on a pilot; the grid-measured conventions spread the pilots' power over the grid.
        is_spread = self.recipe.snr_convention.startswith("grid")
        gain = self.observation.num_pilots / self.link.grid.num_resource_elements if is_spread else 1.0
        profiles = laws["profile"].categories if "profile" in laws else ("",)
        return [
            interference_at(
                self.link.grid,
                delay_profile(self.link.models[name], spread),
                split=split,
                cell=cell,
                profile=name,
                max_doppler=self.link.source.max_doppler(top),
                delay_spread=spread,
                noise_db=-top["snr_db"] + to_db(gain),
            )
            for name in profiles
        ]
