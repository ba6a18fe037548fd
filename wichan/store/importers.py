"""Bring arrays from other people's files into a data set folder: ``.npz``, ``.mat`` (all versions), ``.pt``.

The files come from strangers: they are read as plain arrays, and nothing in them is ever executed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, StoreError, check_int, unknown_name
from wichan.store.layout import open_hdf5
from wichan.store.manifest import Manifest
from wichan.store.records import DTYPES, Cell, Column, Header, ShardPlan
from wichan.store.writer import DatasetWriter

_BLOCK_BYTES = 4 << 20


def import_file(
    path: str | Path,
    out: str | Path,
    *,
    columns: Mapping[str, str] | Sequence[str],
    axes: Mapping[str, Sequence[str]] | None = None,
    units: Mapping[str, str] | None = None,
    sample_axis: int | Mapping[str, int] = 0,
    split: str = "all",
    cell: str = "imported",
) -> Manifest:
    """Write arrays of a ``.npz``, ``.mat`` or ``.pt`` file as a data set.

    Values are kept as they are, in their dtype; text becomes a category column. In a ``.mat`` file an axis of length 1 that
    MATLAB adds is kept unless the array is a vector, which is taken as one number a sample.

    Args:
        path: the file. A ``.pt`` file must hold a dict of tensors (it is read with ``weights_only=True``).
        out: folder of the data set.
        columns: column name -> name in the file; or names that are the same in both.
        axes: column name -> names of the axes of one sample; default ``axis_0``, ``axis_1``, ...
        units: column name -> unit, default ``"1"``.
        sample_axis: the axis that counts samples, for all columns or by column.
        split: name of the split.
        cell: name of the cell.

    Returns:
        The manifest of the data set.

    Raises:
        StoreError: the file cannot be read as arrays, or ``out`` cannot be written.
        UnknownNameError: the file has no such array. ShapeError: the columns differ in number of samples.
    """
    source = Path(path)
    names = dict(columns) if isinstance(columns, Mapping) else {name: name for name in columns}
    if not names:
        raise InvalidValueError("columns is empty; name at least one array of the file")
    for option, given in (("axes", axes), ("units", units), ("sample_axis", sample_axis)):
        for name in given if isinstance(given, Mapping) else ():
            if name not in names:
                raise unknown_name(f"{option}: column", name, names)
    arrays = {}
    for name, values in read_arrays(source, list(names.values())).items():
        for column in (column for column, there in names.items() if there == name):
            axis = sample_axis.get(column, 0) if isinstance(sample_axis, Mapping) else sample_axis
            arrays[column] = _samples_first(column, values, check_int("sample_axis", axis))
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1:
        raise ShapeError(f"columns differ in number of samples: {counts}; see sample_axis")
    described = [_describe(name, arrays[name], axes or {}, units or {}) for name in names]
    return _write(source, Path(out), names, described, arrays, Cell(split, cell, next(iter(counts.values()))))


def read_arrays(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the named arrays of a ``.npz``, ``.mat`` or ``.pt`` file, without executing anything in it.

    Raises:
        StoreError: the file cannot be read. UnknownNameError: an array is not there.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".mat": _read_mat, ".pt": _read_pt, ".pth": _read_pt}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise StoreError(f"{path} has the ending {path.suffix!r}; allowed are {', '.join(readers)}")
    if not path.is_file():
        raise StoreError(f"{path} does not exist or is not a file")
    try:
        arrays = reader(path, list(dict.fromkeys(names)))
        for name, values in arrays.items():
            if not isinstance(values, np.ndarray):
                raise TypeError(f"{name!r} is a {type(values).__name__}")
        return arrays
    except (StoreError, InvalidValueError, InvalidTypeError):
        raise
    # A damaged or hostile file can make its parser raise nearly anything; all of it means: not readable as arrays.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path} cannot be read as plain arrays: {detail:.160}") from None


def _read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        for name in names:
            if name not in file.files:
                raise unknown_name("array", name, file.files)
        return {name: file[name] for name in names}


def _read_mat(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    import h5py
    from scipy.io import loadmat, whosmat

    if h5py.is_hdf5(path):
        return _read_mat_hdf5(path, names)
    known = [entry[0] for entry in whosmat(path)]
    for name in names:
        if name not in known:
            raise unknown_name("array", name, known)
    content = loadmat(path, variable_names=names)
    return {name: _matlab(content[name]) for name in names}


def _read_mat_hdf5(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    import h5py

    arrays = {}
    with open_hdf5(path) as file:
        for name in names:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
                raise unknown_name("array", name, file)
            if file[name].external or file[name].is_virtual:
                raise StoreError(f"{path}: {name!r} points to other files, which are not followed")
            values = file[name][()]
            if values.dtype.names == ("real", "imag"):
                values = values["real"] + 1j * values["imag"]
            # MATLAB keeps the first axis fastest, so HDF5 sees the axes in reverse.
            arrays[name] = _matlab(values.T)
    return arrays


def _matlab(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1) if values.ndim == 2 and 1 in values.shape and values.dtype.kind != "U" else values


def _read_pt(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251 (other people's files; weights only)
    if not isinstance(content, dict):
        raise StoreError(f"{path} holds a {type(content).__name__}; allowed is a dict of tensors")
    for name in names:
        if name not in content:
            raise unknown_name("array", name, content)
        if not isinstance(content[name], torch.Tensor):
            raise InvalidTypeError(f"{name!r} in {path} is a {type(content[name]).__name__}; allowed are tensors")
    return {name: content[name].detach().resolve_conj().resolve_neg().numpy() for name in names}


def _samples_first(name: str, values: np.ndarray, axis: int) -> np.ndarray:
    if values.dtype.kind not in "iufcbUS" or values.ndim < 1:
        raise InvalidTypeError(
            f"column {name!r} has dtype {values.dtype} and shape {values.shape}; allowed are arrays of numbers or text"
        )
    if not -values.ndim <= axis < values.ndim:
        raise InvalidValueError(f"sample_axis={axis} of column {name!r} is outside its shape {values.shape}")
    if 0 in values.shape:
        raise InvalidValueError(f"column {name!r} is empty: shape {values.shape}")
    return np.moveaxis(values, axis, 0)


def _describe(name: str, array: np.ndarray, axes: Mapping[str, Sequence[str]], units: Mapping[str, str]) -> Column:
    shape = array.shape[1:]
    labels = tuple(axes[name]) if name in axes else tuple(f"axis_{number}" for number in range(len(shape)))
    if array.dtype.kind in "US":
        texts = np.unique(array.astype(str)).tolist()
        return Column(name, "category", shape, labels, units.get(name, "1"), categories=tuple(texts))
    dtype = array.dtype.newbyteorder("=").name
    if dtype not in DTYPES:
        raise InvalidTypeError(f"column {name!r} has dtype {dtype}; allowed are {', '.join(DTYPES)}, and text")
    return Column(name, dtype, shape, labels, units.get(name, "1"))


def _write(
    source: Path, out: Path, names: dict[str, str], columns: list[Column], arrays: dict[str, np.ndarray], cell: Cell
) -> Manifest:
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    recipe = {"import": {"file": source.name, "sha256": digest, "columns": names}}
    sample = sum(column.nbytes for column in columns)
    block = max(min(_BLOCK_BYTES // sample, 4096), 1)
    header = Header(recipe, recipe_name="import", recipe_version=1, seed=0, block_size=block, columns=tuple(columns))

    def blocks(plan: ShardPlan) -> Iterator[dict[str, np.ndarray]]:
        for start in range(plan.first, plan.first + plan.count, block):
            rows = slice(start, min(start + block, plan.first + plan.count))
            yield {column.name: _native(arrays[column.name][rows]) for column in columns}

    with DatasetWriter(out, header, [cell]) as writer:
        for plan in writer.pending:
            writer.write_shard(plan, blocks(plan))
        return writer.finish()


def _native(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "S":
        return values.astype(str)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
