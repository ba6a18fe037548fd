"""Read samples out of one shard with plain system calls, after HDF5 has said where they lie.

HDF5 opens a shard once, to check what it is and to give the addresses of its chunks; the samples themselves are then
read by `preadv`, which has no state to share between processes, no lock between threads, and answers a damaged file
with an error where memory maps and HDF5 could crash.
"""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wichan.errors import StoreError
from wichan.store.layout import ABOUT_BYTES, chunk_table, open_hdf5
from wichan.store.records import Column, Shard

_OPEN_FILES = 64
_WHOLE_BYTES = 64 << 10  # up to this size a chunk is read whole, even for a single sample


@dataclass(frozen=True)
class Placement:
    """Where one column lies in a shard: the file offset of each chunk, and the samples in a chunk."""

    offsets: tuple[int, ...]
    rows: int


class OpenShard:
    """A shard's file descriptor and chunk addresses; the descriptor is closed when the last user lets go of it."""

    def __init__(self, folder: Path, shard: Shard, columns: Sequence[Column], identity: str) -> None:
        path = folder / shard.name
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror or error}; run `wichan verify`") from None
        self._path = path
        size = os.fstat(self._file).st_size
        if size != shard.bytes:
            raise StoreError(f"{path} has {size} bytes, the manifest says {shard.bytes}: cut short or foreign")
        self._places = _placements(path, shard, columns, identity)

    def __del__(self) -> None:
        if (file := getattr(self, "_file", None)) is not None:
            os.close(file)

    def read(self, column: Column, rows: np.ndarray, out: np.ndarray) -> None:
        """Read samples of one column.

        Args:
            column: the column.
            rows: sorted indices within the shard, int64, shape (n,).
            out: contiguous array of shape (n, *column.shape) and the dtype on disk; filled.

        Raises:
            StoreError: the file ends early or cannot be read.
        """
        place = self._places[column.name]
        chunks = rows // place.rows
        edges = np.flatnonzero(np.diff(chunks, prepend=-1, append=-1))
        for low, high in zip(edges[:-1], edges[1:], strict=True):
            chunk = int(chunks[low])
            self._read_chunk(column, place, chunk, rows[low:high] - chunk * place.rows, out[low:high])

    def _read_chunk(self, column: Column, place: Placement, chunk: int, rows: np.ndarray, out: np.ndarray) -> None:
        start, first, span = place.offsets[chunk], int(rows[0]), int(rows[-1] - rows[0] + 1)
        item = column.nbytes
        if len(rows) == span and (span == 1 or bool((np.diff(rows) == 1).all())):
            self._fill(_bytes(out), start + first * item)
        elif span * item <= _WHOLE_BYTES or len(rows) * 4 >= span:
            whole = np.empty((span, *column.shape), column.storage)
            self._fill(_bytes(whole), start + first * item)
            np.take(whole, rows - first, axis=0, out=out)
        else:
            for position, row in enumerate(rows.tolist()):
                self._fill(_bytes(out[position : position + 1]), start + row * item)

    def _fill(self, view: memoryview, offset: int) -> None:
        while view.nbytes:
            try:
                count = os.preadv(self._file, [view], offset)
            except OSError as error:
                raise StoreError(f"cannot read {self._path}: {error.strerror or error}") from None
            if count == 0:
                raise StoreError(f"{self._path} ends early: it was cut short while it was open")
            view, offset = view[count:], offset + count


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


def _placements(path: Path, shard: Shard, columns: Sequence[Column], identity: str) -> dict[str, Placement]:
    """Open a shard by HDF5, check that it is the one the manifest means, and return the places of its columns."""
    try:
        with open_hdf5(path) as file:
            about = _own(file, "about")
            if about.shape != () or about.dtype != np.dtype(f"S{ABOUT_BYTES}"):
                raise ValueError("it does not say which data set it belongs to")
            _check_about(path, shard, about[()], identity)
            return {column.name: _placement(_own(file, column.name), column, shard) for column in columns}
    except StoreError:
        raise
    # h5py raises many kinds of errors on a damaged file; whatever it was, the file is not what was written.
    except Exception as error:
        detail = " ".join(str(error).split())
        raise StoreError(f"{path} is damaged or foreign: {detail:.160}") from None


def _own(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose bytes lie in this very file: links to other files are not followed."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
        raise ValueError(f"it holds no dataset {name!r}")
    dataset = file[name]
    if dataset.external or dataset.is_virtual or dataset.id.get_create_plist().get_nfilters():
        raise ValueError(f"dataset {name!r} is stored elsewhere or packed")
    return dataset


def _check_about(path: Path, shard: Shard, text: bytes, identity: str) -> None:
    facts = json.loads(text.rstrip(b"\0").decode())
    if facts["dataset"] != identity:
        raise StoreError(f"{path} is foreign: it was written for another data set (recipe, seed or versions differ)")
    for key in ("split", "cell", "index", "first", "count"):
        if facts[key] != getattr(shard, key):
            raise StoreError(f"{path} is foreign: it says {key}={facts[key]!r:.60}, the manifest {getattr(shard, key)!r:.60}")


def _placement(dataset: h5py.Dataset, column: Column, shard: Shard) -> Placement:
    shape = (shard.count, *column.shape)
    if dataset.shape != shape or dataset.dtype != column.storage:
        raise ValueError(f"{column.name} is {dataset.dtype} {dataset.shape}, not {column.dtype} {shape}")
    codes = h5py.check_enum_dtype(dataset.dtype) or {}
    if column.categories and codes != {name: code for code, name in enumerate(column.categories)}:
        raise ValueError(f"{column.name} has the categories {', '.join(codes):.60}")
    if dataset.chunks is None or dataset.chunks[1:] != column.shape:
        raise ValueError(f"{column.name} is not stored in plain chunks of whole samples")
    rows = dataset.chunks[0]
    table = chunk_table(dataset.id)
    if [row for row, _, _ in table] != list(range(0, shard.count, rows)):
        raise ValueError(f"{column.name} lacks chunks")
    size = rows * column.nbytes
    if any(nbytes != size or offset < 0 or offset + size > shard.bytes for _, offset, nbytes in table):
        raise ValueError(f"a chunk of {column.name} lies outside the file")
    return Placement(tuple(offset for _, offset, _ in table), rows)


class ShardCache:
    """The shards that are open in this process, at most 64 at a time.

    A pickled or forked copy starts empty, so every DataLoader worker opens files of its own.
    """

    def __init__(self, folder: Path, columns: Sequence[Column], identity: str) -> None:
        self._folder = folder
        self._columns = tuple(columns)
        self._identity = identity
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._shards: OrderedDict[int, OpenShard] = OrderedDict()

    def get(self, shard: Shard) -> OpenShard:
        """Return an open shard, opening it if need be."""
        if self._process != os.getpid():
            self._reset()
        with self._guard:
            found = self._shards.get(shard.index)
            if found is not None:
                self._shards.move_to_end(shard.index)
                return found
        opened = OpenShard(self._folder, shard, self._columns, self._identity)
        with self._guard:
            self._shards[shard.index] = opened
            while len(self._shards) > _OPEN_FILES:
                self._shards.popitem(last=False)
        return opened

    def close(self) -> None:
        """Close all shards (they open again when needed)."""
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_guard", "_shards")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()
