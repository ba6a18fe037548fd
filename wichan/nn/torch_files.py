"""Read a file of ``torch.save`` as plain tensors and containers; whatever else is in it stays an inert record.

Such a file is a zip archive: one pickle that describes the objects, and the bytes of every tensor as a record of its own.
Files of strangers often hold configuration objects whose classes are not installed here, which ``weights_only`` readers
refuse and others would import. Here the pickle is never unpickled, see `wichan.nn.pickle_stream`.
"""

from __future__ import annotations

import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from wichan.errors import StoreError, check_choice
from wichan.nn.pickle_stream import Inert, checked_key, read_pickle

_LEGACY = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_MAX_AXES = 16
_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}
_CONSTANTS = {str(dtype): dtype for dtype in _DTYPES.values()}


def read_torch_file(path: str | Path, *, unknown: str = "stub") -> Any:
    """Read a file of ``torch.save`` without executing anything in it.

    Args:
        path: the file.
        unknown: what to do about objects of other classes than tensors and plain containers: ``"stub"``, put an `Inert`
            record in their place, or ``"refuse"``, raise.

    Returns:
        What was saved: tensors on the CPU without gradients, numbers, text, lists, tuples, dicts (also for an
        ``OrderedDict``), sets, and `Inert` records.

    Raises:
        StoreError: no such file, not a zip archive of ``torch.save`` (the format before PyTorch 1.6 is a bare pickle), cut
            short, damaged, compressed, or made to exhaust memory or time; with ``"refuse"`` also an unknown class.

    Cost: the file is read once; memory is the file's size.
    """
    check_choice("unknown", unknown, ("stub", "refuse"))
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"{path} does not exist or is not a file")
    try:
        with path.open("rb") as raw:
            _check_kind(path, raw.read(4))
            with zipfile.ZipFile(raw) as archive:
                return _Archive(archive, path.stat().st_size).read(keep_unknown=unknown == "stub")
    except StoreError:
        raise
    except zipfile.BadZipFile:
        raise StoreError(f"{path} is cut short or damaged: its archive has no end, or a checksum does not match") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
    # A damaged or hostile file can raise nearly anything; all of it means: not readable as plain tensors.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path} cannot be read as plain tensors: {detail:.200}") from None


def _check_kind(path: Path, head: bytes) -> None:
    if head.startswith(b"PK\x03\x04"):
        return
    if head.startswith(_LEGACY):
        raise StoreError(f"{path} is a bare pickle, which is not read; save it again with PyTorch 1.6 or later")
    raise StoreError(f"{path} is no file of torch.save ({path.stat().st_size} bytes)")


class _Storage:
    """Numbers of one record of the archive."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


class _Archive:
    def __init__(self, archive: zipfile.ZipFile, size: int) -> None:
        self._archive = archive
        self._members = {info.filename: info for info in archive.infolist()}
        self._cache: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        stored = 0
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
                raise ValueError("its records are compressed or encrypted, which torch.save does not do")
            stored += info.file_size
        if stored > size or len(self._members) != len(archive.infolist()):
            raise ValueError("its records overlap")
        pickles = [name for name in self._members if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it holds no data.pkl of torch.save")
        self._root = pickles[0].removesuffix("data.pkl")
        if f"{self._root}constants.pkl" in self._members:
            raise ValueError("it is a TorchScript program; save the state_dict instead")

    def read(self, *, keep_unknown: bool) -> Any:
        order = self._root + "byteorder"
        if order in self._members and self._archive.read(order) != sys.byteorder.encode():
            raise ValueError("it was written on a machine of the other byte order")
        functions = _FUNCTIONS | {f"torch.{name}": _nothing for name in _DTYPES}
        return read_pickle(
            self._archive.read(self._root + "data.pkl"),
            functions=functions,
            constants=_CONSTANTS,
            persistent=self._storage,
            keep_unknown=keep_unknown,
        )

    def _storage(self, place: Any) -> _Storage:
        """The numbers that a persistent id ``("storage", type, key, device, count)`` names."""
        if not isinstance(place, tuple) or len(place) != 5 or place[0] != "storage":
            raise ValueError("a tensor is not described as one")
        _, kind, key, _, count = place
        dtype = _DTYPES.get(kind.name.removeprefix("torch.")) if isinstance(kind, Inert) else None
        if dtype is None or not isinstance(key, str):
            raise ValueError(f"a tensor of type {getattr(kind, 'name', '?')!r:.60} is not read")
        values = self._record(key, dtype)
        if _whole(count) > values.numel():
            raise ValueError(f"record {key!r:.30} holds {values.numel()} values, not {count}")
        return _Storage(values[:count])

    def _record(self, key: str, dtype: torch.dtype) -> torch.Tensor:
        """A whole record; read once, however often it is named."""
        if (key, dtype) not in self._cache:
            data = bytearray(self._archive.read(f"{self._root}data/{key}"))
            stored = torch.uint8 if dtype == torch.bool else dtype
            count = len(data) // stored.itemsize
            values = torch.frombuffer(data, dtype=stored, count=count) if count else torch.empty(0, dtype=stored)
            self._cache[key, dtype] = values != 0 if dtype == torch.bool else values
        return self._cache[key, dtype]


# -- What calls in a checkpoint mean. Arguments come from the file: of what is not plain, not even the repr is safe. --


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ValueError(f"a {type(value).__name__} stands where a size must be, or it is out of range")
    return value


def _items(value: Any) -> Any:
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        raise ValueError(f"it makes a container from a {type(value).__name__}")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v2``: a view of a storage."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise ValueError("a tensor is not described as one")
    if len(shape) != len(stride) or len(shape) > _MAX_AXES:
        raise ValueError(f"a tensor has {len(shape)} axes and {len(stride)} strides")
    sizes, steps, start = [_whole(n) for n in shape], [_whole(n) for n in stride], _whole(offset)
    count, there = math.prod(sizes), storage.values.numel()
    if not count:
        return torch.empty(sizes, dtype=storage.values.dtype)
    last = start + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
    if last >= there or count > there:
        raise ValueError(f"a tensor of shape {shape!r:.60} does not fit its {there} values")
    return storage.values.as_strided(sizes, steps, start)


def _parameter(data: Any, *_: Any) -> torch.Tensor:
    if not isinstance(data, torch.Tensor):
        raise ValueError("a parameter is not described as a tensor")
    return data


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    pairs = _items(pairs)
    return {checked_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _default_dict(factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _dict(pairs)


def _set(items: Any = ()) -> set[Any]:
    return {checked_key(item) for item in _items(items)}


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """``_codecs.encode``: how older pickles write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("it encodes what is not bytes")
    return text.encode("latin1")


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str):
        raise ValueError("a device is not described as one")
    return kind if index is None else f"{kind}:{_whole(index)}"


def _nothing(*_: Any) -> Any:
    raise ValueError("it builds a storage without its numbers")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "builtins.frozenset": lambda items=(): frozenset(_set(items)),
    "builtins.set": _set,
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    "torch.Size": lambda items=(): tuple(_items(items)),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.device": _device,
}
