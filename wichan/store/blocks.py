"""Blocks of samples on their way to disk: checked against the columns, kept as views, cut into the pieces of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, unknown_name
from wichan.store.layout import Piece
from wichan.store.records import Column

Block = Mapping[str, Any]


def as_array(column: Column, value: Any) -> np.ndarray:
    """Return the values of one column as a contiguous array of the dtype on disk; nothing is cast silently.

    Args:
        column: the column.
        value: tensor or array of shape (num_samples, *column.shape); for a category also codes of any integer dtype, or
            a list or array of text.

    Raises:
        InvalidTypeError: another dtype. ShapeError: another shape. InvalidValueError: an unknown category.
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise InvalidTypeError(f"column {column.name!r} holds objects; allowed are numbers and text of dtype {column.dtype}")
    if array.ndim < 1 or array.shape[1:] != column.shape:
        want = ", ".join(["num_samples", *map(str, column.shape)])
        raise ShapeError(f"column {column.name!r} has shape {array.shape}; it must be ({want})")
    if column.dtype == "category":
        array = _codes(column, array)
    elif array.dtype.newbyteorder("=") != column.storage.newbyteorder("="):
        raise InvalidTypeError(f"column {column.name!r} has dtype {array.dtype}; it is declared as {column.dtype}")
    return np.ascontiguousarray(array, dtype=column.storage)


def _codes(column: Column, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "US":
        names, place = np.unique(array, return_inverse=True)
        table = {name: code for code, name in enumerate(column.categories)}
        texts = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
        for text in texts:
            if text not in table:
                raise unknown_name(f"column {column.name!r}", text, table)
        return np.asarray([table[text] for text in texts], column.storage)[place].reshape(array.shape)
    if array.dtype.kind not in "iu":
        raise InvalidTypeError(f"column {column.name!r} has dtype {array.dtype}; a category takes integer codes or text")
    if array.size and not (array.min() >= 0 and array.max() < len(column.categories)):
        worst = array.min() if array.min() < 0 else array.max()
        raise InvalidValueError(f"column {column.name!r} holds code {worst}; allowed are 0 to {len(column.categories) - 1}")
    return array


def as_arrays(columns: Sequence[Column], block: Block) -> dict[str, np.ndarray]:
    """Return a whole block as arrays of equal length, one for each column and no others.

    Raises:
        InvalidValueError: a column is missing or unknown, or the columns differ in length.
    """
    for name in block:
        if all(name != column.name for column in columns):
            raise unknown_name("column", name, (column.name for column in columns))
    missing = [column.name for column in columns if column.name not in block]
    if missing:
        raise InvalidValueError(f"the block lacks column {missing[0]!r}")
    arrays = {column.name: as_array(column, block[column.name]) for column in columns}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ShapeError(f"columns of a block must be equally long, got {lengths}")
    return arrays


class RowBuffer:
    """The rows that came but are not written yet, as views of the blocks that brought them (nothing is copied)."""

    def __init__(self) -> None:
        self.start = 0
        self.stop = 0
        self._blocks: list[tuple[int, int, dict[str, np.ndarray]]] = []

    def append(self, arrays: dict[str, np.ndarray]) -> None:
        """Add a block after the last row."""
        count = len(next(iter(arrays.values())))
        if count:
            self._blocks.append((self.stop, self.stop + count, arrays))
            self.stop += count

    def views(self, piece: Piece) -> list[memoryview | bytes]:
        """Return the bytes of one piece of the file as a list of buffers."""
        if piece.literal:
            return [piece.literal]
        found: list[memoryview | bytes] = []
        for start, stop, arrays in self._blocks:
            low, high = max(start, piece.start), min(stop, piece.stop)
            if low < high:
                rows = arrays[piece.column][low - start : high - start]
                found.append(rows.reshape(-1).view(np.uint8).data)
        if piece.pad:
            found.append(bytes(piece.pad))
        return found

    def drop(self, stop: int) -> None:
        """Forget all rows before ``stop``."""
        self._blocks = [block for block in self._blocks if block[1] > stop]
        self.start = stop
