from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wichan.store as store
from wichan.errors import InvalidValueError
from wichan.store import layout as layouts
from wichan.store.layout import layout

PLAN = store.ShardPlan(4, "train", "cell", 64, 50)


def _columns(rng: np.random.Generator) -> tuple[store.Column, ...]:
    dtypes = ["complex64", "complex128", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "category"]
    columns = []
    for i in range(int(rng.integers(1, 7))):
        dtype = str(rng.choice(dtypes))
        shape = tuple(int(n) for n in rng.choice([1, 2, 7, 60], int(rng.integers(0, 3))))
        names = tuple(f"name {k}" for k in range(int(rng.choice([1, 3, 300])))) if dtype == "category" else ()
        columns.append(store.Column(f"c{i}", dtype, shape, tuple("ab"[: len(shape)]), categories=names))
    return tuple(columns)


def _values(column: store.Column, count: int, rng: np.random.Generator) -> np.ndarray:
    shape = (count, *column.shape)
    if column.dtype == "category":
        return rng.integers(0, len(column.categories), shape)
    if column.dtype == "bool":
        return rng.random(shape) < 0.5
    if column.storage.kind == "c":
        return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(column.storage)
    return (100 * rng.standard_normal(shape)).astype(column.storage)


def _write(folder, columns, values, sizes, plan=None):
    count = len(next(iter(values.values())))
    job = store.ShardJob(folder, plan or store.ShardPlan(0, "s", "c", 0, count), columns, "0" * 64)
    edges = np.cumsum([0, *sizes])
    return job.write({n: v[a:b] for n, v in values.items()} for a, b in zip(edges[:-1], edges[1:], strict=True))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 700))
def test_hdf5_reads_back_what_was_written(tmp_path_factory, seed, count):
    rng = np.random.default_rng(seed)
    columns = _columns(rng)
    values = {column.name: _values(column, count, rng) for column in columns}
    cuts = np.unique(rng.integers(0, count + 1, 5))
    folder = tmp_path_factory.mktemp("shard")
    shard = _write(folder, columns, values, np.diff([0, *cuts, count]))
    assert (folder / shard.name).stat().st_size == shard.bytes == layout(columns, count).size
    with h5py.File(folder / shard.name) as file:
        for column in columns:
            assert np.array_equal(file[column.name][()], values[column.name])
            assert file[column.name].chunks is not None


def test_bytes_do_not_depend_on_blocks_or_kind_of_array(tmp_path, small):
    plan = store.make_plan(small.cells, 32)[0]
    rows = small.rows(plan)
    tensors = {name: torch.from_numpy(value) for name, value in rows.items()}
    text = rows | {"profile": [("A", "B30", "C")[i] for i in rows["profile"]], "h": rows["h"].astype(">c8")}
    conjugated = tensors | {"h": tensors["h"].conj().resolve_conj().conj()}
    hashes = set()
    for values, sizes in ((rows, [32]), (rows, [1] * 32), (tensors, [5, 0, 27]), (conjugated, [16, 16]), (text, [32])):
        hashes.add(_write(tmp_path, small.columns, values, sizes, plan).sha256)
    assert len(hashes) == 1


def test_hash_is_that_of_the_file(tmp_path, small):
    import hashlib

    plan = store.make_plan(small.cells, 32)[0]
    shard = _write(tmp_path, small.columns, small.rows(plan), [32], plan)
    assert hashlib.sha256((tmp_path / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert [entry.name for entry in tmp_path.iterdir()] == [shard.name]


def test_shard_describes_itself(tmp_path, small):
    plan = store.make_plan(small.cells, 32)[1]
    _write(tmp_path, small.columns, small.rows(plan), [32], plan)
    with h5py.File(tmp_path / plan.name) as file:
        assert file["h"].dtype == np.complex64 and dict(file["h"].attrs) == {
            "unit": b"1",
            "axes": b"sample,num_rx_ant,num_subcarriers",
            "description": b"channel",
        }
        assert file["snr_db"].attrs["unit"] == b"dB"
        assert h5py.check_enum_dtype(file["profile"].dtype) == {"A": 0, "B30": 1, "C": 2}
        assert b'"first": 32' in file["about"][()]


def test_large_samples_take_a_chunk_each_and_small_ones_share(small):
    big = store.Column("h", "complex64", (32, 20, 300), ("a", "b", "c"))
    tiny = store.Column("snr_db", "float32")
    assert layouts.chunk_rows(big, layouts.group_rows([big, tiny]), 100) == 1
    assert layouts.chunk_rows(tiny, layouts.group_rows([tiny]), 10**9) == (1 << 20) // 4
    # What HDF5 needs beside the data stays small.
    assert layout((big, tiny), 80).size < 80 * (big.nbytes + tiny.nbytes) * 1.001


def test_writing_holds_one_group_and_not_the_shard(tmp_path):
    import tracemalloc

    column = store.Column("h", "complex64", (1000,), ("axis",))
    block = {"h": np.ones((64, 1000), np.complex64)}
    plan = store.ShardPlan(0, "s", "c", 0, 64 * 64)
    layout((column,), plan.count)
    job = store.ShardJob(tmp_path, plan, (column,), "0" * 64)
    tracemalloc.start()
    try:
        shard = job.write(block for _ in range(64))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Everything is written from views of the blocks; 2 MB leaves room for the bookkeeping.
    assert shard.bytes > 32e6 and peak < 2e6


@pytest.mark.parametrize("count", [31, 33])
def test_wrong_number_of_samples_leaves_nothing(tmp_path, small, count):
    plan = store.make_plan(small.cells, 32)[0]
    rows = {name: np.resize(value, (count, *value.shape[1:])) for name, value in small.rows(plan).items()}
    with pytest.raises(InvalidValueError, match=f"takes 32 samples, got {count}"):
        _write(tmp_path, small.columns, rows, [count], plan)
    assert not list(tmp_path.iterdir())


def test_chunks_out_of_order_are_held_as_one_group(tmp_path, small, monkeypatch):
    """Should a version of HDF5 place chunks column by column, the shard is still right (and takes more memory)."""

    def by_column(columns, ids, rows, count):
        for column in columns:
            step = layouts.chunk_rows(column, rows, count)
            for row in range(0, count, step):
                ids[column.name].write_direct_chunk((row, *(0 for _ in column.shape)), bytes(step * column.nbytes))

    monkeypatch.setattr(layouts, "_allocate", by_column)
    monkeypatch.setattr(layouts, "_GROUP_BYTES", 1024)
    layouts._layout.cache_clear()
    plan = store.make_plan(small.cells, 32)[0]
    rows = small.rows(plan)
    assert len(layout(small.columns, 32).groups) == 1
    shard = _write(tmp_path, small.columns, rows, [20, 12], plan)
    layouts._layout.cache_clear()
    with h5py.File(tmp_path / shard.name) as file:
        assert all(np.array_equal(file[name][()], value) for name, value in rows.items())


def test_block_larger_than_a_shard_is_refused(one_line):
    column = store.Column("h", "complex64", (1 << 20,), ("axis",))
    with pytest.raises(InvalidValueError, match="smaller block_size") as error:
        store.samples_per_shard([column], 32)
    one_line(error.value)
    assert store.samples_per_shard([column], 5) == 15
