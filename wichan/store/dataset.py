"""Read a data set folder as a PyTorch data set."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, WichanWarning, unknown_name
from wichan.store.files import file_size
from wichan.store.manifest import Manifest, load_manifest
from wichan.store.reader import ShardCache
from wichan.store.records import Column, Shard

_ITERATED_BYTES = 8 << 20
Sample = dict[str, torch.Tensor]


class WichanDataset(torch.utils.data.Dataset[Sample]):
    """The samples of a data set folder, in manifest order; made by `open`.

    ``ds[i]`` is one sample as a dict of tensors, ``ds[a:b]``, ``ds[[3, 1, 2]]`` and ``ds.batch(indices)`` are many
    samples stacked along a new first axis. It can be pickled, and used by any number of DataLoader workers and threads:
    every process opens its files by itself, when it first needs them.

    Attributes:
        manifest: the `Manifest` of the folder.
        columns: the columns that are read, by name.
        categories: names of the codes of each category column.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: Sequence[Shard], columns: Sequence[Column]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.columns = {column.name: column for column in columns}
        self.categories = {column.name: column.categories for column in columns if column.categories}
        self._shards = tuple(shards)
        self._ends = np.cumsum([shard.count for shard in self._shards], dtype=np.int64)
        self._cache = ShardCache(folder, columns, manifest.identity())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: Any) -> Sample:
        if isinstance(index, slice):
            return self.batch(range(*index.indices(len(self))))
        if isinstance(index, (Sequence, np.ndarray)) or (isinstance(index, torch.Tensor) and index.dim()):
            return self.batch(index)
        try:
            position = operator.index(index)
        except TypeError:
            raise InvalidTypeError(f"index must be an integer, a slice or a list, got {type(index).__name__}") from None
        if not -len(self) <= position < len(self):
            raise IndexError(f"index {position} is outside a data set of {len(self)} samples")
        return {name: values[0] for name, values in self.batch([position]).items()}

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return samples for a DataLoader: read together, handed out one by one."""
        values = self.batch(indices)
        rows = {name: tensor.unbind(0) for name, tensor in values.items()}
        return [dict(zip(rows, sample, strict=True)) for sample in zip(*rows.values(), strict=True)]

    def __iter__(self) -> Iterator[Sample]:
        step = max(_ITERATED_BYTES // max(sum(column.nbytes for column in self.columns.values()), 1), 1)
        for start in range(0, len(self), step):
            yield from self.__getitems__(range(start, min(start + step, len(self))))

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> Sample:
        """Return many samples, stacked in the order of ``indices``.

        Files are read in ascending order, runs of neighbours at once, whatever the order asked for.

        Args:
            indices: integers in -len ... len-1, any order, repeats allowed.

        Returns:
            column name -> tensor (num_indices, *column.shape); a category column as int64 codes.

        Raises:
            IndexError: an index outside. StoreError: a shard is missing, cut short, foreign or unreadable.
        """
        wanted = self._positions(indices)
        order = np.argsort(wanted, kind="stable") if np.any(np.diff(wanted) < 0) else None
        ascending = wanted if order is None else wanted[order]
        stored = {name: np.empty((len(wanted), *column.shape), column.storage) for name, column in self.columns.items()}
        which = np.searchsorted(self._ends, ascending, side="right")
        edges = np.flatnonzero(np.diff(which, prepend=-1, append=-1)) if len(which) else np.zeros(1, np.int64)
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            shard = self._shards[int(which[low])]
            rows = ascending[low:high] - (self._ends[which[low]] - shard.count)
            opened = self._cache.get(shard)
            for name, column in self.columns.items():
                opened.read(column, rows, stored[name][low:high])
        back = None if order is None else np.argsort(order, kind="stable")
        return {name: _tensor(self.columns[name], array, back) for name, array in stored.items()}

    def _positions(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
        array = np.asarray(indices)
        if array.size == 0:
            return np.zeros(0, np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InvalidTypeError(f"indices must be a flat list of integers, got {array.dtype} of shape {array.shape}")
        low, high = int(array.min()), int(array.max())
        if low < -len(self) or high >= len(self):
            raise IndexError(f"index {high if high >= len(self) else low} is outside a data set of {len(self)} samples")
        array = array.astype(np.int64)
        return np.where(array < 0, array + len(self), array)

    def cell_of(self, index: int) -> tuple[str, str, int]:
        """Return ``(split, cell, position in the cell)`` of sample ``index``."""
        position = int(self._positions([index])[0])
        which = int(np.searchsorted(self._ends, position, side="right"))
        shard = self._shards[which]
        return shard.split, shard.cell, shard.first + position - int(self._ends[which]) + shard.count

    def close(self) -> None:
        """Close the files of this process; reading opens them again."""
        self._cache.close()

    def __repr__(self) -> str:
        return f"WichanDataset({str(self.folder)!r}, {len(self)} samples, columns {', '.join(self.columns)})"


def _tensor(column: Column, array: np.ndarray, back: np.ndarray | None) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    if column.dtype == "category":
        tensor = torch.from_numpy(array.astype(np.int64))
    return tensor if back is None else tensor[torch.from_numpy(back)]


def open(
    path: str | Path,
    *,
    split: str | None = None,
    cells: str | Sequence[str] | None = None,
    columns: str | Sequence[str] | None = None,
    verify: bool = False,
    allow_incomplete: bool = False,
) -> WichanDataset:
    """Open a data set folder for reading.

    Only shards that the manifest lists are read; ``data.h5`` is not needed. Nothing in the folder is executed.

    Args:
        path: the folder.
        split: read this split only.
        cells: read these cells only.
        columns: read these columns only.
        verify: check the SHA-256 of every selected shard first (about 0.6 s a gigabyte).
        allow_incomplete: do not warn that the data set is unfinished, and leave out listed shards that are missing or cut
            short (with a warning) instead of raising.

    Raises:
        StoreError: not a data set, damaged, of a newer format, or listed shards are missing.
        UnknownNameError: no such split, cell or column.

    Example:
        >>> open("no-such-folder")
        Traceback (most recent call last):
        wichan.errors.StoreError: no-such-folder does not exist
    """
    folder = Path(path)
    manifest = load_manifest(folder)
    chosen = _chosen_columns(manifest, columns)
    selected = _selected(manifest, split, cells)
    if not manifest.complete and not allow_incomplete:
        warnings.warn(
            f"{folder} is incomplete: {manifest.num_samples} of {manifest.num_planned} samples are there",
            WichanWarning,
            stacklevel=2,
        )
    shards = _present(folder, selected, allow_incomplete)
    if verify:
        from wichan.store.verification import check_shards

        check_shards(folder, shards)
    return WichanDataset(folder, manifest, shards, chosen)


def _chosen_columns(manifest: Manifest, names: str | Sequence[str] | None) -> list[Column]:
    known = {column.name: column for column in manifest.header.columns}
    if names is None:
        return list(known.values())
    wanted = [names] if isinstance(names, str) else list(names)
    if not wanted:
        raise InvalidValueError(f"columns is empty; choose from {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise unknown_name("column", name, known)
    return [known[name] for name in dict.fromkeys(wanted)]


def _selected(manifest: Manifest, split: str | None, cells: str | Sequence[str] | None) -> list[Shard]:
    planned = manifest.cells
    if split is not None:
        planned = tuple(cell for cell in planned if cell.split == split)
        if not planned:
            raise unknown_name("split", split, dict.fromkeys(cell.split for cell in manifest.cells))
    if cells is not None:
        names = [cells] if isinstance(cells, str) else list(cells)
        for name in names:
            if all(cell.cell != name for cell in planned):
                raise unknown_name("cell", name, dict.fromkeys(cell.cell for cell in planned))
        planned = tuple(cell for cell in planned if cell.cell in set(names))
    keys = {(cell.split, cell.cell) for cell in planned}
    return [shard for shard in manifest.shards if (shard.split, shard.cell) in keys]


def _present(folder: Path, shards: list[Shard], allow_missing: bool) -> list[Shard]:
    kept = [shard for shard in shards if file_size(folder / shard.name) == shard.bytes]
    if len(kept) == len(shards):
        return shards
    listed = set(kept)
    bad = next(shard for shard in shards if shard not in listed)
    size = file_size(folder / bad.name)
    state = "missing" if size is None else f"{size} bytes instead of {bad.bytes}"
    lost = len(shards) - len(kept)
    message = f"{folder}: {lost} of {len(shards)} listed shards missing or cut short, the first is {bad.name} ({state})"
    if not allow_missing:
        raise StoreError(f"{message}; run the same `wichan simulate` again, or pass allow_incomplete=True")
    warnings.warn(f"{message}; they are left out", WichanWarning, stacklevel=3)
    return kept
