"""What a data set is made of: columns, cells, shards, and the header that says how it was made."""

from __future__ import annotations

import json
import math
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int

if TYPE_CHECKING:
    import numpy as np

DTYPES = {
    "complex64": "<c8",
    "complex128": "<c16",
    "float32": "<f4",
    "float64": "<f8",
    "int8": "|i1",
    "int16": "<i2",
    "int32": "<i4",
    "int64": "<i8",
    "uint8": "|u1",
    "bool": "|b1",
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,99}")
_RESERVED = ("about", "split", "cell", "split_names", "cell_names")
_LABEL_BYTES = 200
_CATEGORY_BYTES = 48_000  # HDF5 keeps the names of an enum in one header message of at most 64 KiB


def canonical(value: Any) -> str:
    """Return the one JSON text of ``value`` (sorted keys, no spaces, finite numbers only)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def as_json(name: str, value: Any) -> Any:
    """Return ``value`` as it comes back from JSON (tuples become lists); raise if it is not plain JSON."""
    try:
        text = canonical(value)
        text.encode()  # half a surrogate pair has no bytes
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTypeError(f"{name} must be plain JSON (text keys, finite numbers): {error}") from None


def check_label(name: str, value: Any) -> str:
    """Return ``value`` if it can name a split or a cell: printable text of 1 to 200 bytes."""
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value.encode("utf-8", "replace")) <= _LABEL_BYTES:
        raise InvalidValueError(f"{name}={value!r:.60} must be printable text of 1 to {_LABEL_BYTES} bytes")
    return value


@dataclass(frozen=True)
class Column:
    """One named column: what a single sample holds under this name.

    Args:
        name: letters, digits and ``_``, first a letter.
        dtype: ``complex64``, ``complex128``, ``float32``, ``float64``, ``int8`` ... ``int64``, ``uint8``, ``bool``, or
            ``category`` for text out of a fixed list: blocks bring codes or text, a data set gives back int64 codes.
        shape: shape of one sample, ``()`` for a number.
        axes: one name per axis of ``shape``.
        unit: SI unit, ``"1"`` for a pure number.
        categories: the texts of a ``category`` column, in the order of their codes.
        description: a short sentence for the reader.

    Raises:
        InvalidValueError: a name, dtype, shape or list of categories that cannot be stored.

    Example:
        >>> Column("snr_db", "float32", unit="dB").nbytes
        4
    """

    name: str
    dtype: str
    shape: tuple[int, ...] = ()
    axes: tuple[str, ...] = ()
    unit: str = "1"
    categories: tuple[str, ...] = ()
    description: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name) or self.name in _RESERVED:
            raise InvalidValueError(f"column name {self.name!r:.60} must be letters, digits and _, and none of {_RESERVED}")
        check_choice(f"dtype of column {self.name!r}", self.dtype, [*DTYPES, "category"])
        for key in ("shape", "axes", "categories"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        shape = tuple(check_int(f"shape of column {self.name!r}", n, minimum=1) for n in self.shape)
        object.__setattr__(self, "shape", shape)
        if len(self.axes) != len(shape) or not all(isinstance(axis, str) for axis in self.axes):
            raise InvalidValueError(f"axes={self.axes} of column {self.name!r} must name each axis of shape {shape}")
        if not isinstance(self.unit, str) or not isinstance(self.description, str):
            raise InvalidTypeError(f"unit and description of column {self.name!r} must be text")
        self._check_categories()
        if self.nbytes >= 2**31:
            raise InvalidValueError(f"column {self.name!r} takes {self.nbytes} bytes a sample; at most 2147483647")

    def _check_categories(self) -> None:
        names = self.categories
        if (self.dtype == "category") != bool(names):
            raise InvalidValueError(f"column {self.name!r}: dtype 'category' and a list of categories go together")
        if len(set(names)) != len(names):
            raise InvalidValueError(f"categories of column {self.name!r} repeat a name")
        for name in names:
            check_label(f"category of column {self.name!r}", name)
        if sum(len(name.encode()) + 9 for name in names) > _CATEGORY_BYTES:
            raise InvalidValueError(f"the names of the {len(names)} categories of {self.name!r} exceed {_CATEGORY_BYTES} bytes")

    @property
    def storage(self) -> np.dtype[Any]:
        """NumPy dtype on disk (little endian; the codes of a category take one or two bytes)."""
        import numpy as np

        if self.dtype == "category":
            return np.dtype("|u1" if len(self.categories) <= 256 else "<u2")
        return np.dtype(DTYPES[self.dtype])

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return self.storage.itemsize * math.prod(self.shape)

    def to_json(self) -> dict[str, Any]:
        """Return the column as plain JSON."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "axes": list(self.axes),
            "unit": self.unit,
            "categories": list(self.categories),
            "description": self.description,
        }


@dataclass(frozen=True)
class Cell:
    """``count`` samples of one combination of conditions (a cell) in one split."""

    split: str
    cell: str
    count: int

    def __post_init__(self) -> None:
        check_label("split", self.split)
        check_label("cell", self.cell)
        object.__setattr__(self, "count", check_int(f"count of cell {self.cell!r}", self.count, minimum=1))


@dataclass(frozen=True)
class ShardPlan:
    """A shard to be written: samples ``first`` to ``first + count - 1`` of one cell."""

    index: int
    split: str
    cell: str
    first: int
    count: int

    @property
    def name(self) -> str:
        """File name in the folder."""
        return f"shard-{self.index:05d}.h5"


@dataclass(frozen=True)
class Shard(ShardPlan):
    """A shard on disk, with the size and the SHA-256 of its file."""

    bytes: int
    sha256: str

    @property
    def plan(self) -> ShardPlan:
        """The plan that this shard fulfils."""
        return ShardPlan(self.index, self.split, self.cell, self.first, self.count)


def current_versions() -> dict[str, str]:
    """Return the versions and the kind of processor that fix the bits of a data set.

    PyTorch picks its CPU kernels by instruction set, so the same seed gives other last bits on another processor.
    """
    import h5py
    import numpy as np
    import torch

    import wichan

    return {
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "h5py": h5py.__version__,
        "hdf5": h5py.version.hdf5_version,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "wichan": wichan.__version__,
    }


@dataclass(frozen=True)
class Header:
    """Everything that decides the values of a data set, and how to read them.

    Args:
        recipe: the resolved recipe, plain JSON.
        recipe_name: its name.
        recipe_version: its version, at least 0.
        seed: the seed of all samples.
        block_size: samples per random block; part of the format, because a block is computed whole.
        columns: the columns in their order in a shard.
        device: device type that computed the samples.
        snr_convention: which SNR the column ``snr_db`` holds, by name.
        normalization: how the power of the channels was scaled, plain JSON.
        versions: versions that fix the bits; default `current_versions`.

    Raises:
        InvalidTypeError, InvalidValueError: a field that cannot be stored.
    """

    recipe: dict[str, Any]
    recipe_name: str
    recipe_version: int
    seed: int
    block_size: int
    columns: tuple[Column, ...]
    device: str = "cpu"
    snr_convention: str | None = None
    normalization: Any = None
    versions: dict[str, str] = field(default_factory=current_versions)

    def __post_init__(self) -> None:
        for key in ("recipe", "versions"):
            if not isinstance(getattr(self, key), dict):
                raise InvalidTypeError(f"{key} must be a dict, got {type(getattr(self, key)).__name__}")
        for key in ("recipe", "normalization", "versions"):
            object.__setattr__(self, key, as_json(key, getattr(self, key)))
        for key in ("recipe_name", "device"):
            check_label(key, getattr(self, key))
        if self.snr_convention is not None:
            check_label("snr_convention", self.snr_convention)
        for key, minimum in (("recipe_version", 0), ("seed", None), ("block_size", 1)):
            object.__setattr__(self, key, check_int(key, getattr(self, key), minimum=minimum))
        columns = tuple(self.columns)
        object.__setattr__(self, "columns", columns)
        if not columns or not all(isinstance(column, Column) for column in columns):
            raise InvalidTypeError("columns must be at least one wichan.store.Column")
        names = [column.name for column in columns]
        if len(set(names)) != len(names):
            raise InvalidValueError(f"columns={names} repeat a name")

    def to_json(self) -> dict[str, Any]:
        """Return the header as plain JSON."""
        return {
            "recipe_name": self.recipe_name,
            "recipe_version": self.recipe_version,
            "seed": self.seed,
            "block_size": self.block_size,
            "device": self.device,
            "snr_convention": self.snr_convention,
            "normalization": self.normalization,
            "versions": self.versions,
            "recipe": self.recipe,
            "columns": [column.to_json() for column in self.columns],
        }


def make_plan(cells: Iterable[Cell], shard_size: int) -> tuple[ShardPlan, ...]:
    """Cut every cell into shards of ``shard_size`` samples (the last one may be smaller), numbered through.

    Example:
        >>> [(p.name, p.cell, p.first, p.count) for p in make_plan([Cell("train", "a", 5)], 4)]
        [('shard-00000.h5', 'a', 0, 4), ('shard-00001.h5', 'a', 4, 1)]
    """
    check_int("shard_size", shard_size, minimum=1)
    plan: list[ShardPlan] = []
    for cell in cells:
        for first in range(0, cell.count, shard_size):
            count = min(shard_size, cell.count - first)
            plan.append(ShardPlan(len(plan), cell.split, cell.cell, first, count))
    return tuple(plan)


def check_cells(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Return ``cells`` as a tuple; raise if there is none or one comes twice."""
    cells = tuple(cells)
    if not cells or not all(isinstance(cell, Cell) for cell in cells):
        raise InvalidTypeError("cells must be at least one wichan.store.Cell")
    keys = [(cell.split, cell.cell) for cell in cells]
    if len(set(keys)) != len(keys):
        raise InvalidValueError("cells name the same split and cell twice")
    return cells
