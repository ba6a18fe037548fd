from __future__ import annotations

import os
import pickle
import shutil
import threading

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import wichan.store as store
from wichan.errors import InvalidTypeError, StoreError, UnknownNameError, WichanError, WichanWarning
from wichan.store import reader


def _equal(sample, values, index):
    assert sample.keys() == values.keys()
    for name, tensor in sample.items():
        assert torch.equal(tensor, torch.as_tensor(values[name][index])), name


def test_samples_in_manifest_order(finished, small):
    ds, values = store.open(finished), small.everything()
    assert len(ds) == 153 and list(ds.columns) == ["h", "snr_db", "count", "moving", "profile"]
    for i in (0, 1, 31, 32, 100, 119, 120, 152, -1, -153):
        _equal(ds[i], values, i)
    _equal(ds[torch.tensor(3)], values, 3)
    _equal(ds[np.int64(5)], values, 5)
    samples = list(ds)
    assert len(samples) == 153
    for i, sample in enumerate(samples):
        _equal(sample, values, i)


def test_a_shard_that_is_open_in_h5py_can_be_read(finished, small):
    """HDF5 refuses a second handle in one process whose locking differs, as that of a plain h5py.File does."""
    with h5py.File(finished / "shard-00000.h5", "r") as file:
        assert file["h"].shape == (32, 2, 3)
        _equal(store.open(finished)[3], small.everything(), 3)


def test_dtypes_and_categories(finished):
    ds = store.open(finished)
    assert {name: value.dtype for name, value in ds[0].items()} == {
        "h": torch.complex64,
        "snr_db": torch.float32,
        "count": torch.int64,
        "moving": torch.bool,
        "profile": torch.int64,
    }
    assert [ds.categories["profile"][code] for code in ds[:4]["profile"]] == ["A", "B30", "C", "A"]


@given(indices=st.lists(st.integers(-153, 152), max_size=60))
def test_any_indices_in_any_order(finished, small, indices):
    ds, values = store.open(finished), small.everything()
    for form in (indices, torch.tensor(indices, dtype=torch.int64), np.array(indices, np.int32)):
        _equal(ds.batch(form), values, indices)


@given(
    start=st.none() | st.integers(-200, 200),
    stop=st.none() | st.integers(-200, 200),
    step=st.none() | st.integers(-40, 40).filter(bool),
)
def test_any_slice(finished, small, start, stop, step):
    _equal(store.open(finished)[start:stop:step], small.everything(), np.arange(153)[start:stop:step])


@pytest.mark.parametrize("limit", [0, 1 << 16])
def test_sparse_and_dense_reads_agree(finished, small, monkeypatch, limit):
    """Few samples of a large chunk are read one by one, many at once: both ways give the same."""
    monkeypatch.setattr(reader, "_WHOLE_BYTES", limit)
    ds, values = store.open(finished), small.everything()
    for indices in ([0, 31], [0, 1, 2, 30], [5, 5, 5, 9], list(range(0, 150, 2)), [31, 0, 152, 17]):
        _equal(ds.batch(indices), values, indices)


@pytest.mark.parametrize(
    ("index", "error"),
    [(153, IndexError), (-154, IndexError), (1.5, InvalidTypeError), ("a", WichanError), (None, WichanError)],
)
def test_bad_index(finished, index, error):
    ds = store.open(finished)
    with pytest.raises(error):
        ds[index]


@pytest.mark.parametrize("indices", [[0, 153], [[0]], [0.5], np.array([True, False])])
def test_bad_indices(finished, indices):
    with pytest.raises((IndexError, InvalidTypeError)):
        store.open(finished).batch(indices)


def test_choosing(finished, small):
    values = small.everything()
    train = store.open(finished, split="train")
    _equal(train[:], values, slice(0, 120))
    both = store.open(finished, cells="a", columns=["snr_db", "h"])
    keep = [*range(100), *range(120, 153)]
    _equal(both[:], {"snr_db": values["snr_db"], "h": values["h"]}, keep)
    assert len(store.open(finished, split="train", cells=["b"])) == 20
    assert list(store.open(finished, columns="h")[0]) == ["h"]
    assert [both.cell_of(i) for i in (0, 99, 100, -1)] == [
        ("train", "a", 0),
        ("train", "a", 99),
        ("test", "a", 0),
        ("test", "a", 32),
    ]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"cells": "c"}, "cell='c' is unknown"),
        ({"split": "test", "cells": "b"}, "cell='b' is unknown"),
        ({"columns": ["snr"]}, "did you mean 'snr_db'"),
        ({"columns": []}, "columns is empty"),
    ],
)
def test_choosing_what_is_not_there(finished, choice, message, one_line):
    with pytest.raises(WichanError, match=message) as error:
        store.open(finished, **choice)
    one_line(error.value)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_data_loader_workers(finished, small, context, generator):
    ds, values = store.open(finished), small.everything()
    _equal(ds[0], values, 0)  # files are open in this process when the workers start
    loader = DataLoader(ds, batch_size=20, num_workers=2, multiprocessing_context=context, generator=generator)
    batches = list(loader)
    assert len(batches) == 8
    for name in values:
        assert torch.equal(torch.cat([batch[name] for batch in batches]), torch.as_tensor(values[name]))


def test_shuffled_loader_sees_every_sample_once(finished, generator):
    loader = DataLoader(store.open(finished, columns=["count", "h"]), batch_size=16, shuffle=True, generator=generator)
    seen = torch.cat([batch["h"][:, 0, 0].real for batch in loader])
    assert sorted(seen.tolist()) == sorted(store.open(finished)[:]["h"][:, 0, 0].real.tolist())


def test_pickle_and_close(finished, small):
    ds, values = store.open(finished), small.everything()
    _equal(ds[0], values, 0)
    _equal(pickle.loads(pickle.dumps(ds))[7], values, 7)  # noqa: S301 (our own bytes)
    before = len(os.listdir("/proc/self/fd"))
    ds.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    _equal(ds[3], values, 3)


def test_open_files_are_bounded(finished, small, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_FILES", 2)
    ds, before = store.open(finished), len(os.listdir("/proc/self/fd"))
    _equal(ds[:], small.everything(), slice(None))
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_threads_share_a_data_set(finished, small, monkeypatch):
    monkeypatch.setattr(reader, "_OPEN_FILES", 2)  # files are closed while others read
    ds, values, wrong = store.open(finished), small.everything(), []

    def work(seed):
        indices = np.random.default_rng(seed).permutation(153)
        try:
            for start in range(0, 153, 9):
                _equal(ds.batch(indices[start : start + 9]), values, indices[start : start + 9])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def test_the_view_is_not_needed(copy, small):
    (copy / "data.h5").unlink()
    _equal(store.open(copy)[:], small.everything(), slice(None))


def test_incomplete_set_warns_with_counts(tmp_path, small):
    with small.writer(tmp_path) as writer:
        for plan in writer.pending[1:3]:
            writer.write_shard(plan, small.blocks(plan))
    with pytest.warns(WichanWarning, match="64 of 153 samples are there"):
        ds = store.open(tmp_path)
    _equal(ds[:], small.everything(), slice(32, 96))
    assert len(store.open(tmp_path, allow_incomplete=True)) == 64
    assert len(store.open(tmp_path, split="test", allow_incomplete=True)) == 0
    assert store.open(tmp_path, split="test", allow_incomplete=True)[:]["h"].shape == (0, 2, 3)


def test_missing_shard(copy, small, one_line):
    (copy / "shard-00000.h5").unlink()
    with pytest.raises(
        StoreError, match=r"1 of 7 listed shards missing or cut short, the first is shard-00000.h5 \(missing\)"
    ) as error:
        store.open(copy)
    one_line(error.value)
    assert len(store.open(copy, split="test")) == 33  # what is not asked for need not be there
    with pytest.warns(WichanWarning, match="left out"):
        _equal(store.open(copy, allow_incomplete=True)[:], small.everything(), slice(32, None))


def test_cut_shard(copy, one_line):
    ds = store.open(copy)
    os.truncate(copy / "shard-00000.h5", 3000)
    with pytest.raises(StoreError, match="bytes, the manifest says") as error:
        ds[0]
    one_line(error.value)
    with pytest.raises(StoreError, match=r"shard-00000.h5 \(3000 bytes instead of"):
        store.open(copy)


def test_shard_cut_while_it_is_open(copy, one_line):
    ds = store.open(copy)
    _ = ds[0]
    os.truncate(copy / "shard-00000.h5", 3000)
    with pytest.raises(StoreError, match="ends early") as error:
        ds[:32]
    one_line(error.value)


def test_foreign_shard_of_equal_size(copy, small, tmp_path, one_line):
    small.write(tmp_path / "other", header=small.header(seed=8))
    shutil.copy(tmp_path / "other" / "shard-00000.h5", copy / "shard-00000.h5")
    shutil.copy(copy / "shard-00002.h5", copy / "shard-00001.h5")
    ds = store.open(copy)
    with pytest.raises(StoreError, match="foreign: it was written for another data set") as error:
        ds[0]
    one_line(error.value)
    with pytest.raises(StoreError, match="foreign: it says index=2, the manifest 1") as error:
        ds[32]
    one_line(error.value)


def test_unlisted_shard_is_ignored(copy, small):
    shutil.copy(copy / "shard-00000.h5", copy / "shard-00099.h5")
    assert len(store.open(copy)) == 153
    assert store.verify(copy).unlisted == ("shard-00099.h5",) and store.verify(copy).ok


def test_verify_while_opening(copy, one_line):
    path = copy / "shard-00001.h5"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="shard-00001.h5 is damaged") as error:
        store.open(copy, verify=True)
    one_line(error.value)
    assert len(store.open(copy, split="test", verify=True)) == 33


def test_unknown_names_are_value_errors(finished):
    with pytest.raises(UnknownNameError):
        store.open(finished, split="validation")


def test_shards_that_point_elsewhere_are_refused(tmp_path, finished, small, one_line):
    """A stranger's shard may link to other files of ours, or be packed so that a plugin would run: neither is followed."""
    import h5py

    shard = store.load_manifest(finished).shards[0]
    identity = store.load_manifest(finished).identity()
    about = store.ShardJob(tmp_path, shard.plan, small.columns, identity).about()
    h = small.rows(shard.plan)["h"]

    def external(file):
        file["h"] = h5py.ExternalLink(str(finished / shard.name), "h")

    def soft(file):
        file["x"], file["h"] = h, h5py.SoftLink("/x")

    def outside(file):
        file.create_dataset("h", h.shape, h.dtype, external=[(str(finished / shard.name), 0, h.nbytes)])

    def packed(file):
        file.create_dataset("h", data=h, chunks=(16, 2, 3), compression="gzip")

    def contiguous(file):
        file["h"] = h

    def shorter(file):
        file.create_dataset("h", data=h[:-1], chunks=(31, 2, 3))

    def other_dtype(file):
        file.create_dataset("h", data=h.astype(np.complex128), chunks=(16, 2, 3))

    def split_samples(file):
        file.create_dataset("h", data=h, chunks=(16, 1, 3))

    def empty(file):
        file.create_dataset("h", h.shape, h.dtype, chunks=(16, 2, 3))

    for make in (external, soft, outside, packed, contiguous, shorter, other_dtype, split_samples, empty):
        path = tmp_path / shard.name
        with h5py.File(path, "w") as file:
            file["about"] = np.array(about, "S1024")
            make(file)
        claimed = store.Shard(**vars(shard.plan), bytes=path.stat().st_size, sha256=shard.sha256)
        with pytest.raises(StoreError, match="damaged or foreign") as error:
            reader.OpenShard(tmp_path, claimed, small.columns[:1], identity)
        one_line(error.value)
