"""Where the benchmark's channels come from: computed block by block, or read from a data set."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from wichan.errors import InvalidValueError, StoreError, UnknownNameError
from wichan.evaluation.benchmarks.scenarios import Cell
from wichan.prediction.base import DUPLEX_MODES

if TYPE_CHECKING:
    from wichan.channels import CDL
    from wichan.channels.rays import Rays
    from wichan.simulate.csi_rrg import CSIRRGRecipe
    from wichan.store.dataset import WichanDataset

#: Duplex mode -> column of the future that is to be predicted.
TARGETS = dict(zip(DUPLEX_MODES, ("h_u_pred", "h_d_pred"), strict=True))
#: What a recipe override may not touch: the benchmark chooses these itself.
_FIXED = ("name", "recipe_version", "kind", "seed", "split", "cell", "splits")


@dataclass(frozen=True, eq=False)
class Block:
    """Samples of one cell.

    Attributes:
        history: complex64, (num_samples, 32, 1, 16, 300).
        target: complex64, (num_samples, 32, 1, 4, 300).
        rays: their rays; None where they were not asked for.
        scale: factor that was applied to the model's channel, (num_samples,).
    """

    history: torch.Tensor
    target: torch.Tensor
    rays: Rays | None = None
    scale: torch.Tensor | None = None


class ChannelSource(Protocol):
    """Gives the samples of a cell in blocks.

    Attributes:
        recipe: what the channels were made by.
        block_size: samples in a block.
    """

    recipe: CSIRRGRecipe
    block_size: int

    def check(self, split: str, cell: str, count: int) -> None:
        """Raise unless the cell has that many samples; asked of all cells before the work."""

    def block(self, split: str, cell: Cell, index: int, duplex: str, *, rays: bool = False) -> Block:
        """Return block ``index`` of a cell, whole or as far as there are samples; with its ``rays`` if asked."""

    def model(self, split: str, cell: Cell) -> CDL:
        """The channel model of a cell."""

    def describe(self) -> dict[str, Any]:
        """What decides the values, plain JSON."""


def checked_recipe(overrides: Mapping[str, Any] | None) -> CSIRRGRecipe:
    """The recipe ``csi-rrg`` with some settings changed.

    Raises:
        InvalidValueError, UnknownNameError: a setting that the recipe does not have, or that the benchmark chooses itself.
    """
    from wichan.simulate import load_recipe

    for key in overrides or {}:
        if key.partition(".")[0] in _FIXED:
            raise InvalidValueError(f"overrides sets {key!r}, which the benchmark chooses itself (cells, seed, num_samples)")
    return cast("CSIRRGRecipe", load_recipe("csi-rrg", dict(overrides or {}) | {"split": "all"}))


def changed_settings(recipe: CSIRRGRecipe) -> dict[str, Any]:
    """What a recipe has otherwise than ``csi-rrg``, as overrides: a fit is to see channels like those of a data set."""
    general = (*_FIXED, "title", "aliases")
    published, found = (one.model_dump(exclude=set(general)) for one in (checked_recipe(None), recipe))
    return {key: value for key, value in found.items() if value != published[key]}


class LiveChannels:
    """Channels computed when they are asked for: those of the data set of the same seed, bit for bit.

    Args:
        overrides: changed settings of the recipe ``csi-rrg``.
        seed: seed of the channels.
        device: where channels are computed and stay.
    """

    def __init__(self, overrides: Mapping[str, Any] | None, seed: int, device: torch.device) -> None:
        from wichan.simulate.csi_rrg import CSIRRGSampler

        self.recipe = checked_recipe(overrides)
        self.seed = seed
        self._overrides = dict(overrides or {})
        self._sampler = CSIRRGSampler(self.recipe, device=device)
        self.block_size = self._sampler.block_size

    def check(self, split: str, cell: str, count: int) -> None:
        """Nothing to check: any cell has any number of samples."""

    def block(self, split: str, cell: Cell, index: int, duplex: str, *, rays: bool = False) -> Block:
        """Compute a block."""
        key = self._sampler.key(self.seed, split, cell.name, index)
        values = self._sampler.sample(key)
        history, target, scale = values["h_u_hist"], values[TARGETS[duplex]], values["scale"]
        if not rays:
            return Block(history, target, scale=scale)
        drawn = self.model(split, cell).sample(
            self.block_size, generator=key.generator("rays")
        )  # drawn again: the sampler keeps no rays
        return Block(history, target, drawn, scale)

    def model(self, split: str, cell: Cell) -> CDL:
        """The channel model of a cell."""
        return self._sampler.model(self.recipe.scenario(split, cell.name))

    def describe(self) -> dict[str, Any]:
        """Recipe, seed and changed settings."""
        return {"source": "computed", "recipe_version": self.recipe.recipe_version, "overrides": self._overrides}


class StoredChannels:
    """Channels of a data set folder.

    Args:
        folder: a finished data set of the recipe ``csi-rrg``.
        device: where channels shall lie.

    Raises:
        StoreError: no data set, an unfinished one. InvalidValueError: a data set of another recipe.
    """

    def __init__(self, folder: str | Path, device: torch.device) -> None:
        from wichan.simulate.recipe import recipe_from_dict
        from wichan.store.manifest import load_manifest

        self.folder = Path(folder)
        manifest = load_manifest(self.folder)
        header = manifest.header
        if header.recipe.get("kind") != "csi-rrg":
            raise InvalidValueError(f"data={self.folder} holds the recipe {header.recipe_name!r}; the benchmark needs csi-rrg")
        if not manifest.complete:
            have, want = manifest.num_samples, manifest.num_planned
            again = "run the same `wichan simulate` again"
            raise StoreError(f"data={self.folder} is unfinished: {have:,} of {want:,} samples are there; {again}")
        self.recipe = cast("CSIRRGRecipe", recipe_from_dict(header.recipe))
        self.block_size = header.block_size
        self._device = device
        self._identity = manifest.identity()
        self._counts = {(cell.split, cell.cell): cell.count for cell in manifest.cells}
        self._open: dict[tuple[str, str, str], WichanDataset] = {}
        self._guard = threading.Lock()

    def check(self, split: str, cell: str, count: int) -> None:
        """Raise unless the data set holds the cell with that many samples.

        Raises:
            UnknownNameError, InvalidValueError: no such cell, or fewer samples.
        """
        have = self._counts.get((split, cell))
        if have is None:
            known = [name for part, name in self._counts if part == split]
            if not known:
                parts = ", ".join(dict.fromkeys(part for part, _ in self._counts))
                raise InvalidValueError(f"data={self.folder} has no split {split!r} (it has {parts})")
            shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
            raise UnknownNameError(
                f"data={self.folder} has no cell {cell!r} in split {split!r}; choose with cells (it has: {shown})"
            )
        if have < count:
            raise InvalidValueError(
                f"data={self.folder} has {have} samples of cell {cell!r}; {count} are asked for (num_samples)"
            )

    def block(self, split: str, cell: Cell, index: int, duplex: str, *, rays: bool = False) -> Block:
        """Read a block.

        Raises:
            InvalidValueError: its rays, which a data set does not hold.
        """
        if rays:
            raise InvalidValueError("data holds no rays; a predictor that is told the geometry needs computed channels")
        first = index * self.block_size
        rows = range(first, min(first + self.block_size, self._counts[split, cell.name]))
        values = self._data(split, cell.name, duplex).batch(rows)
        history, target, scale = (values[name].to(self._device) for name in ("h_u_hist", TARGETS[duplex], "scale"))
        return Block(history, target, scale=scale)

    def _data(self, split: str, cell: str, duplex: str) -> WichanDataset:
        from wichan.store.dataset import open as open_dataset

        with self._guard:
            found = self._open.get((split, cell, duplex))
            if found is None:
                columns = ["h_u_hist", TARGETS[duplex], "scale"]
                found = open_dataset(self.folder, split=split, cells=cell, columns=columns)
                self._open[split, cell, duplex] = found
            while len(self._open) > 8:
                self._open.pop(next(iter(self._open)))  # closed when its last reader lets go of it
        return found

    def model(self, split: str, cell: Cell) -> CDL:
        """The channel model of a cell."""
        from wichan.simulate.csi_rrg import CSIRRGSampler

        return CSIRRGSampler(self.recipe).model(self.recipe.scenario(split, cell.name))

    def describe(self) -> dict[str, Any]:
        """Identity of the data set."""
        return {"source": "data set", "identity": self._identity}
