"""Where every byte of a shard lies: HDF5 lays out an empty file of known size, wichan fills in the data.

The number of samples in a shard is known before it is written, so all of its HDF5 metadata is, too. HDF5 builds the file
once into a recorder that keeps the metadata and forgets the (zero) data; the chunk addresses that HDF5 chose tell where
the data belong. A shard is then written front to back with plain system calls: HDF5, which dies when a disk runs full,
never touches the disk, and the SHA-256 grows while the data pass by. Chunks of one group of samples lie together over
all columns, so the order in the file is the order in which samples arrive.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from wichan.errors import InvalidValueError, StoreError, check_int
from wichan.store.files import size_text
from wichan.store.records import Column

ABOUT_BYTES = 1024
MAX_SHARD_BYTES = 128 << 20
LIBVER = (h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)  # metadata with checksums, and the same bytes from later HDF5 versions
_CHUNK_BYTES = 1 << 20
_GROUP_BYTES = 4 << 20


@dataclass(frozen=True)
class Piece:
    """A stretch of the file: ``literal`` bytes, or rows ``[start, stop)`` of a column and then ``pad`` zero bytes."""

    literal: bytes = b""
    column: str = ""
    start: int = 0
    stop: int = 0
    pad: int = 0


@dataclass(frozen=True)
class Layout:
    """The whole file as groups of pieces, front to back.

    Args:
        size: bytes of the file.
        about: offset of the 1024 bytes that say whose shard this is (zero in the literals).
        groups: per group of ``group_rows`` samples the pieces in file order.
        group_rows: samples in a group (the last group may have fewer).
    """

    size: int
    about: int
    groups: tuple[tuple[Piece, ...], ...]
    group_rows: int


class _Recorder:
    """A file for HDF5 to write to: keeps what is written, except for long stretches of zeros."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}
        self.size = 0
        self._at = 0

    def read(self, count: int = -1) -> bytes:  # h5py asks for it, HDF5 never reads back
        raise StoreError("the layout recorder cannot be read")

    def readinto(self, buffer: Any) -> int:
        raise StoreError("the layout recorder cannot be read")

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = (0, self._at, self.size)[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, buffer: Any) -> int:
        view = np.frombuffer(buffer, np.uint8)
        if len(view) < 4096 or view.any():
            self.written[self._at] = view.tobytes()
        self._at += len(view)
        self.size = max(self.size, self._at)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        self.size = self._at if size is None else size
        return self.size

    def flush(self) -> None:
        pass


def storage_type(column: Column) -> h5py.h5t.TypeID:
    """Return the HDF5 type of a column; a category becomes an enum that names its codes."""
    if column.dtype == "category":
        codes = {name: code for code, name in enumerate(column.categories)}
        return h5py.h5t.py_create(h5py.enum_dtype(codes, column.storage), logical=True)
    if column.storage.kind == "c":  # said outright, so that no version of h5py takes HDF5 2's complex types instead
        half = h5py.h5t.IEEE_F32LE if column.storage.itemsize == 8 else h5py.h5t.IEEE_F64LE
        pair = h5py.h5t.create(h5py.h5t.COMPOUND, column.storage.itemsize)
        pair.insert(b"r", 0, half)
        pair.insert(b"i", half.get_size(), half)
        return pair
    return h5py.h5t.py_create(column.storage, logical=True)


def chunk_rows(column: Column, rows: int, count: int) -> int:
    """Samples in a chunk: a power of two that keeps a chunk within 1 MiB and divides the group of ``rows`` samples."""
    return min(_power_of_two(_CHUNK_BYTES // column.nbytes), rows, count)


def group_rows(columns: Sequence[Column]) -> int:
    """Samples in a group: a power of two that keeps a group within 4 MiB."""
    return _power_of_two(_GROUP_BYTES // sum(column.nbytes for column in columns))


def _power_of_two(limit: int) -> int:
    return 1 << max(limit.bit_length() - 1, 0)


def layout(columns: tuple[Column, ...], count: int) -> Layout:
    """Return the layout of a shard with ``count`` samples.

    The layout depends on nothing else, so equal data give equal files; the result is kept, since nearly all shards of a
    data set are equally long.
    """
    return _layout(columns, count)


def new_file(target: Any) -> h5py.File:
    """Return a fresh HDF5 file over the file-like ``target``.

    No object in it carries the time of day: ``h5py.File`` of versions before 3.15 stamps the root group with it.
    """
    create = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    create.set_obj_track_times(False)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(*LIBVER)
    access.set_fileobj_driver(h5py.h5fd.fileobj_driver, target)
    return h5py.File(h5py.h5f.create(b"wichan", h5py.h5f.ACC_TRUNC, fcpl=create, fapl=access))


def open_hdf5(path: Path) -> h5py.File:
    """Open a finished file for reading, without locks: not every file system has them.

    Where this process has it open already (in a notebook, by ``h5py.File(path)``), HDF5 wants the flags to be the same.
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")


@functools.lru_cache(maxsize=16)
def _layout(columns: tuple[Column, ...], count: int) -> Layout:
    rows = group_rows(columns)
    recorder = _Recorder()
    with new_file(recorder) as file:
        about = file.create_dataset("about", data=np.zeros((), f"S{ABOUT_BYTES}"), track_times=False).id.get_offset()
        ids = {column.name: _create(file, column, chunk_rows(column, rows, count), count) for column in columns}
        _allocate(columns, ids, rows, count)
        data = [piece for column in columns for piece in _data_pieces(column, ids[column.name], rows, count)]
        del ids
    data.sort(key=lambda item: item[0])
    return _assemble(recorder, about, data, rows, count)


def _create(file: h5py.File, column: Column, rows: int, count: int) -> h5py.h5d.DatasetID:
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_chunk((rows, *column.shape))
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)
    create.set_obj_track_times(False)
    space = h5py.h5s.create_simple((count, *column.shape))
    dataset = h5py.h5d.create(file.id, column.name.encode(), storage_type(column), space, dcpl=create)
    describe(h5py.Dataset(dataset), column)
    return dataset


def describe(dataset: h5py.Dataset, column: Column) -> None:
    """Attach a column's unit, axes and description to its HDF5 dataset."""
    dataset.attrs["unit"] = np.bytes_(column.unit.encode())
    dataset.attrs["axes"] = np.bytes_(",".join(("sample", *column.axes)).encode())
    if column.description:
        dataset.attrs["description"] = np.bytes_(column.description.encode())


def _allocate(columns: Sequence[Column], ids: dict[str, h5py.h5d.DatasetID], rows: int, count: int) -> None:
    """Have HDF5 give every chunk its place: group after group, column after column."""
    zeros = {column.name: bytes(chunk_rows(column, rows, count) * column.nbytes) for column in columns}
    for start in range(0, count, rows):
        for column in columns:
            for row in range(start, min(start + rows, count), chunk_rows(column, rows, count)):
                ids[column.name].write_direct_chunk((row, *(0 for _ in column.shape)), zeros[column.name])


def chunk_table(dataset: h5py.h5d.DatasetID) -> list[tuple[int, int, int]]:
    """Return ``(first row, file offset, bytes)`` of every chunk of a dataset that is cut along its rows only."""
    table: list[tuple[int, int, int]] = []

    def note(chunk: Any) -> None:
        table.append((int(chunk.chunk_offset[0]), int(chunk.byte_offset), int(chunk.size)))

    dataset.chunk_iter(note)
    return sorted(table)


def _data_pieces(column: Column, dataset: h5py.h5d.DatasetID, rows: int, count: int) -> list[tuple[int, int, Piece]]:
    pieces = []
    for row, offset, nbytes in chunk_table(dataset):
        stop = min(row + chunk_rows(column, rows, count), count)
        pad = nbytes - (stop - row) * column.nbytes
        pieces.append((offset, nbytes, Piece(column=column.name, start=row, stop=stop, pad=pad)))
    return pieces


def _assemble(recorder: _Recorder, about: int, data: list[tuple[int, int, Piece]], rows: int, count: int) -> Layout:
    """Fill the gaps between the data with metadata, and cut the file into groups."""
    groups: list[list[Piece]] = [[] for _ in range(-(-count // rows))]
    literals = sorted(recorder.written.items())
    end = group = 0
    for offset, nbytes, piece in [*data, (recorder.size, 0, Piece())]:
        if offset > end:
            groups[group].append(Piece(literal=_literal(literals, end, offset)))
        elif offset < end:
            raise StoreError("HDF5 laid out overlapping chunks; this version of HDF5 is not supported")
        if nbytes:
            if piece.start // rows < group:  # chunks out of order: hold the shard in memory as one group
                return _assemble(recorder, about, data, count, count)
            group = piece.start // rows
            groups[group].append(piece)
        end = offset + nbytes
    if end != recorder.size:
        raise StoreError("HDF5 laid out chunks beyond the end of the file; this version of HDF5 is not supported")
    return Layout(recorder.size, about, tuple(map(tuple, groups)), rows)


def _literal(literals: list[tuple[int, bytes]], start: int, stop: int) -> bytes:
    stretch = bytearray(stop - start)
    for offset, data in literals:
        low, high = max(offset, start), min(offset + len(data), stop)
        if low < high:
            stretch[low - start : high - start] = data[low - offset : high - offset]
    return bytes(stretch)


def samples_per_shard(columns: Sequence[Column], block_size: int, max_bytes: int = MAX_SHARD_BYTES) -> int:
    """Return how many samples fit a shard file of ``max_bytes``: a multiple of the block size.

    The number has no influence on the samples themselves, only on where files are cut.

    Args:
        columns: the columns of the data set.
        block_size: samples in a block.
        max_bytes: largest file [bytes].

    Raises:
        InvalidValueError: not even one block fits.

    Example:
        >>> samples_per_shard([Column("h", "complex64", (14, 120), ("num_ofdm_symbols", "num_subcarriers"))], 64)
        9984
    """
    columns = tuple(columns)
    check_int("block_size", block_size, minimum=1)
    check_int("max_bytes", max_bytes, minimum=1)
    block = block_size * sum(column.nbytes for column in columns)
    blocks = max(max_bytes // block, 1)
    while blocks and _size_bound(columns, blocks * block_size) > max_bytes:
        blocks -= max(blocks // 256, 1)
    if not blocks:
        raise InvalidValueError(
            f"a block of {block_size} samples takes {size_text(block)}, more than a shard of {size_text(max_bytes)}: "
            "choose a smaller block_size"
        )
    return blocks * block_size


def _size_bound(columns: tuple[Column, ...], count: int) -> int:
    """Bytes that a shard takes at most; cheap, where the exact layout would have HDF5 place every chunk."""
    rows = group_rows(columns)
    total = ABOUT_BYTES + 4096
    for column in columns:
        chunk = chunk_rows(column, rows, count)
        chunks = -(-count // chunk)
        # Data, alignment, chunk index (8 bytes a chunk, in pages with checksums), and header with its enum names.
        names = sum(len(name.encode()) + 9 for name in column.categories)
        texts = sum(len(text.encode()) + 1 for text in (column.description, column.unit, *column.axes))
        total += chunks * (chunk * column.nbytes + 64 + 16) + 4096 + 2 * (names + texts)
    return total
