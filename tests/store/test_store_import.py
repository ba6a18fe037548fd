from __future__ import annotations

import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

import wichan.store as store
from wichan.errors import InvalidTypeError, ShapeError, StoreError, UnknownNameError, WichanError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(7)
    h = (rng.standard_normal((25, 4, 6)) + 1j * rng.standard_normal((25, 4, 6))).astype(np.complex64)
    return {"H": h, "snr": rng.standard_normal(25)}


def _save(path, arrays):
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".mat":
        savemat(path, arrays)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    return path


def _save_hdf5_mat(path, arrays):
    """As MATLAB's ``save -v7.3`` does it: axes reversed, vectors as columns, complex numbers as (real, imag)."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in arrays.items():
            value = np.atleast_2d(value).T if value.ndim > 1 else value[None]
            if value.dtype.kind == "c":
                pair = np.empty(value.shape, [("real", value.real.dtype), ("imag", value.real.dtype)])
                pair["real"], pair["imag"] = value.real, value.imag
                value = pair
            file[name] = value
    return path


@pytest.mark.parametrize("name", ["x.npz", "x.mat", "x.pt", "x.h5.mat"])
def test_values_and_dtypes_are_kept(tmp_path, arrays, name):
    source = (_save_hdf5_mat if name == "x.h5.mat" else _save)(tmp_path / name, arrays)
    manifest = store.import_file(
        source,
        tmp_path / "out",
        columns={"h": "H", "snr_db": "snr"},
        axes={"h": ["num_rx_ant", "num_subcarriers"]},
        units={"snr_db": "dB"},
    )
    ds = store.open(tmp_path / "out")
    assert manifest.complete and store.verify(tmp_path / "out").ok and len(ds) == 25
    assert torch.equal(ds[:]["h"], torch.from_numpy(arrays["H"]))
    assert torch.equal(ds[:]["snr_db"], torch.from_numpy(arrays["snr"]))
    assert ds.columns["h"].axes == ("num_rx_ant", "num_subcarriers") and ds.columns["snr_db"].unit == "dB"
    assert manifest.header.recipe["import"]["file"] == name and len(manifest.header.recipe["import"]["sha256"]) == 64


def test_samples_along_another_axis(tmp_path, arrays):
    source = _save(tmp_path / "x.mat", {"H": np.moveaxis(arrays["H"], 0, -1), "snr": arrays["snr"]})
    with pytest.raises(ShapeError, match="sample_axis"):
        store.import_file(source, tmp_path / "out", columns=["H", "snr"])
    store.import_file(source, tmp_path / "out", columns=["H", "snr"], sample_axis={"H": -1})
    assert torch.equal(store.open(tmp_path / "out")[:]["H"], torch.from_numpy(arrays["H"]))


@pytest.mark.parametrize("suffix", [".npz", ".mat"])
def test_text_becomes_a_category(tmp_path, suffix):
    texts = np.array(["walk", "bus", "walk", "car"])
    source = _save(tmp_path / f"x{suffix}", {"kind": texts, "n": np.arange(4.0)})
    store.import_file(source, tmp_path / "out", columns=["kind", "n"])
    ds = store.open(tmp_path / "out")
    assert [ds.categories["kind"][code].strip() for code in ds[:]["kind"]] == texts.tolist()


def test_big_endian_and_byte_text(tmp_path):
    source = _save(tmp_path / "x.npz", {"a": np.arange(4, dtype=">f4"), "b": np.array([b"x", b"y", b"x", b"x"])})
    store.import_file(source, tmp_path / "out", columns=["a", "b"])
    batch = store.open(tmp_path / "out")[:]
    assert batch["a"].tolist() == [0, 1, 2, 3] and batch["b"].tolist() == [0, 1, 0, 0]


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("suffix", [".npz", ".pt", ".npy.npz"])
def test_nothing_in_a_file_is_executed(tmp_path, suffix, one_line):
    source, mark = tmp_path / f"x{suffix}", tmp_path / "executed"
    if suffix == ".npz":
        np.savez(source, H=np.array([Trap(mark)], dtype=object))
    elif suffix == ".pt":
        torch.save({"H": Trap(mark)}, source)
    else:
        with zipfile.ZipFile(source, "w") as file:
            file.writestr("H.npy", pickle.dumps(Trap(mark)))
    with pytest.raises(StoreError, match="cannot be read as plain arrays") as error:
        store.import_file(source, tmp_path / "out", columns=["H"])
    one_line(error.value)
    assert not mark.exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".pt"])
@given(data=st.binary(max_size=300))
def test_rubbish_is_refused_in_one_line(tmp_path_factory, suffix, data):
    source = tmp_path_factory.mktemp("rubbish") / f"x{suffix}"
    heads = {".npz": b"PK\x03\x04", ".mat": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM", ".pt": b"\x80\x02"}
    for content in (data, heads[suffix] + data):
        source.write_bytes(content)
        with pytest.raises(WichanError) as error:
            store.import_file(source, source.parent / "out", columns=["H"])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npz", ".mat", ".pt"])
def test_wrong_requests(tmp_path, arrays, suffix, one_line):
    source = _save(tmp_path / f"x{suffix}", arrays | {"empty": np.zeros((0, 2)), "half": np.zeros(25, np.int8)})
    out = tmp_path / "out"
    cases = [
        ({"columns": {"h": "h"}}, UnknownNameError, "array='h' is unknown"),
        ({"columns": {}}, WichanError, "columns is empty"),
        ({"columns": ["empty"]}, WichanError, "empty"),
        ({"columns": ["H"], "axes": {"h": ["a"]}}, UnknownNameError, "axes"),
        ({"columns": ["H"], "axes": {"H": ["a"]}}, WichanError, "must name each axis"),
        ({"columns": ["H"], "sample_axis": 5}, WichanError, "sample_axis=5"),
        ({"columns": {"1": "H"}}, WichanError, "column name '1'"),
    ]
    for options, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            store.import_file(source, out, **options)
        one_line(error.value)
    assert not out.exists()


@pytest.mark.parametrize("value", [np.zeros(3, np.float16), np.zeros(3, np.uint64), np.array(5.0)])
def test_arrays_that_have_no_column(tmp_path, value, one_line):
    source = _save(tmp_path / "x.npz", {"H": value})
    with pytest.raises(InvalidTypeError, match="H") as error:
        store.import_file(source, tmp_path / "out", columns=["H"])
    one_line(error.value)


def test_wrong_files(tmp_path, arrays, one_line):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"H": 3}, tmp_path / "number.pt")
    _save(tmp_path / "cells.mat", {"H": np.array([[1], "a"], dtype=object)})
    with h5py.File(tmp_path / "link.mat", "w") as file:
        file["H"] = h5py.ExternalLink("x.mat", "H")
    (tmp_path / "folder.npz").mkdir()
    for name in ("list.pt", "number.pt", "cells.mat", "link.mat", "folder.npz", "absent.npz", "x.csv"):
        with pytest.raises(WichanError) as error:
            store.import_file(tmp_path / name, tmp_path / "out", columns=["H"])
        one_line(error.value)


def test_import_into_another_data_set_is_refused(tmp_path, arrays, finished, one_line):
    with pytest.raises(StoreError, match="holds another run") as error:
        store.import_file(_save(tmp_path / "x.npz", arrays), finished, columns=["H"])
    one_line(error.value)
