"""``data.h5``: one file that shows all shards as whole columns, for programs that want a single HDF5 file."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import h5py
import numpy as np

from wichan.store.layout import describe, new_file, storage_type
from wichan.store.manifest import Manifest
from wichan.store.records import Column, Shard

_INDEX_CHUNK = 1 << 16
_ABOUT = b"A view of the shards beside this file. wichan.store.open reads the shards themselves."


def build_virtual(manifest: Manifest) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of ``data.h5`` and its entry for the manifest.

    Every column is an HDF5 virtual data set over the shards in manifest order; where a shard is missing it reads NaN (0 for
    integers). ``split`` and ``cell`` give each sample's place as codes into ``split_names`` and ``cell_names``. Shards are
    found beside the file, so the folder can be moved. The file is built in memory (it holds no samples), because HDF5
    must not meet a full disk.

    Args:
        manifest: the manifest of a finished run.
    """
    memory = io.BytesIO()
    with new_file(memory) as file:
        file.attrs["about"] = np.bytes_(_ABOUT)
        for column in manifest.header.columns:
            describe(h5py.Dataset(_view(file, column, manifest)), column)
        _index(file, "split", [shard.split for shard in manifest.shards], manifest.shards)
        _index(file, "cell", [shard.cell for shard in manifest.shards], manifest.shards)
    data = memory.getvalue()
    return data, {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _view(file: h5py.File, column: Column, manifest: Manifest) -> h5py.h5d.DatasetID:
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_obj_track_times(False)
    create.set_fill_value(fill_value(column))
    whole = h5py.h5s.create_simple((manifest.num_samples, *column.shape))
    origin = tuple(0 for _ in column.shape)
    start = 0
    for shard in manifest.shards:
        shape = (shard.count, *column.shape)
        whole.select_hyperslab((start, *origin), shape)
        create.set_virtual(whole, shard.name.encode(), column.name.encode(), h5py.h5s.create_simple(shape))
        start += shard.count
    whole.select_all()
    return h5py.h5d.create(file.id, column.name.encode(), storage_type(column), whole, dcpl=create)


def fill_value(column: Column) -> np.ndarray:
    """Return what an absent sample reads: NaN, or 0 where the dtype has no NaN."""
    kind = column.storage.kind
    value = complex(np.nan, np.nan) if kind == "c" else np.nan if kind == "f" else 0
    return np.array(value, column.storage)


def _index(file: h5py.File, name: str, labels: list[str], shards: tuple[Shard, ...]) -> None:
    names = list(dict.fromkeys(labels))
    codes = {label: code for code, label in enumerate(names)}
    total = sum(shard.count for shard in shards)
    chunk = (min(_INDEX_CHUNK, total),)
    options = {"chunks": chunk, "compression": "gzip", "compression_opts": 4, "shuffle": True, "track_times": False}
    dataset = file.create_dataset(name, (total,), "<u4", **options)
    edges = np.cumsum([0, *(shard.count for shard in shards)])
    for start in range(0, total, _INDEX_CHUNK):  # chunk by chunk: the index of a large data set never lies in memory whole
        place = np.searchsorted(edges, np.arange(start, min(start + _INDEX_CHUNK, total)), side="right") - 1
        dataset[start : start + len(place)] = np.asarray([codes[label] for label in labels], np.uint32)[place]
    file.create_dataset(f"{name}_names", data=np.asarray([label.encode() for label in names], dtype=bytes), track_times=False)
