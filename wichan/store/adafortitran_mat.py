"""One ``.mat`` file of AdaFortiTran's data, read as numbers and nothing else.

A numeric array of MATLAB 5 is a few tagged stretches of bytes, taken apart here under limits that a compressed bomb cannot
pass. `scipy.io.loadmat` reads the same, but a damaged file can kill the process in it.
"""

from __future__ import annotations

import math
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wichan.errors import StoreError

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_OBJECTS = {3: "an object", 16: "a function handle", 17: "an object of a class"}
_NUMBERS = range(6, 16)  # MATLAB classes double, single, int8 ... uint64
_COMPLEX = 0x800
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MAX_AXES = 8
_MAX_SLICES = 4
_SPARE = 1 << 16  # bytes for other variables
_NOISE = ("noise_var", "var_hat")  # exact (2026) before estimated (2024 to 2025)


@dataclass(frozen=True, eq=False)
class MatSample:
    """The numbers of one sample.

    Attributes:
        h: the channel, complex128 (num_subcarriers, num_ofdm_symbols).
        ls: least squares at the pilots, zero elsewhere, same shape.
        no: noise variance on the least squares, or ``None`` if the file does not say.
        exact: whether that is the variance that was used, not one estimated from the signal.
    """

    h: np.ndarray
    ls: np.ndarray
    no: float | None
    exact: bool


def read_sample(path: Path, shape: tuple[int, int]) -> MatSample:
    """Read one sample.

    Args:
        path: the file: MATLAB 5 to 7.2, with ``H`` (num_subcarriers, num_ofdm_symbols, 2 to 4), and perhaps ``noise_var`` or
            ``var_hat``.
        shape: (num_subcarriers, num_ofdm_symbols) that ``H`` must have.

    Raises:
        StoreError: cut short, damaged, too large, another format, objects or functions inside, no ``H``, another shape, NaN.
    """
    try:
        arrays = _numeric_arrays(path, 16 * _MAX_SLICES * shape[0] * shape[1] + _SPARE)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}") from None
    # A damaged file can make its parser raise nearly anything.
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{path} is damaged: {detail:.160}") from None
    stack = arrays.get("H")
    if stack is None:
        raise StoreError(f"{path} holds no numeric array H (numeric are {sorted(arrays)[:5]!r:.90})")
    if stack.ndim != 3 or stack.shape[:2] != shape or not 2 <= stack.shape[2] <= _MAX_SLICES:
        raise StoreError(f"{path}: H has shape {stack.shape}; it must be ({shape[0]}, {shape[1]}, 2 to {_MAX_SLICES})")
    h, ls = (stack[:, :, i].astype(np.complex128) for i in range(2))
    with np.errstate(over="ignore"):
        finite = np.isfinite(h.astype(np.complex64)).all() and np.isfinite(ls.astype(np.complex64)).all()
    if not finite:
        raise StoreError(f"{path}: H holds NaN, infinite or too large values")
    name = next((name for name in _NOISE if name in arrays), None)
    return MatSample(h, ls, None if name is None else _variance(path, name, arrays[name]), name == _NOISE[0])


def _variance(path: Path, name: str, value: np.ndarray) -> float:
    number = complex(value.reshape(-1)[0]) if value.size == 1 else complex("nan")
    if number.imag or not 0 <= number.real <= 1e30:
        raise StoreError(f"{path}: {name} must be one finite number, at least 0")
    return number.real


def _numeric_arrays(path: Path, limit: int) -> dict[str, np.ndarray]:
    """The numeric arrays of a file by name; ``limit`` bounds the file and what it unpacks to."""
    status = path.stat()
    size = status.st_size
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path} is not a regular file")
    if size > limit:
        raise StoreError(f"{path} has {size} bytes; a sample takes at most {limit}")
    raw = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(raw[126:128])
    version = struct.unpack_from(f"{order}H", raw, 124)[0] if order else 0
    if version == 0x0200:
        raise StoreError(f"{path} is a MATLAB 7.3 file (HDF5); the authors' files are not: save it with -v7")
    if order is None or version != 0x0100:
        raise StoreError(f"{path} is no MATLAB 5 file or is cut short ({size} bytes)")
    arrays = {}
    for kind, element in _elements(path, raw, order, limit):
        if kind in _OBJECTS:
            raise StoreError(f"{path} holds {_OBJECTS[kind]}; only numbers are read")
        if kind in _NUMBERS:
            name, values = _array(element, order)
            arrays[name] = values
    return arrays


def _array(element: bytes, order: str) -> tuple[str, np.ndarray]:
    """Name and values of a numeric array, real or complex double."""
    parts = list(_parts(element, order))
    flags = struct.unpack_from(f"{order}I", parts[0][1])[0]
    shape = np.frombuffer(parts[1][1], f"{order}i4").tolist()
    numbers = parts[3:5] if flags & _COMPLEX else parts[3:4]
    if len(shape) > _MAX_AXES or min(shape, default=-1) < 0 or len(numbers) != (2 if flags & _COMPLEX else 1):
        raise ValueError("an array is not described as one")
    count = math.prod(shape)
    whole = np.zeros(count if len(numbers) == 1 else (count, 2))
    for i, (kind, data) in enumerate(numbers):
        if kind not in _TYPES:
            raise ValueError(f"numbers of type {kind} are not read")
        part = np.frombuffer(data, order + _TYPES[kind])
        if len(part) != count:
            raise ValueError(f"an array of shape {tuple(shape)} comes with {len(part)} values")
        whole[(slice(None), i) if whole.ndim == 2 else slice(None)] = part
    values = whole if whole.ndim == 1 else whole.view(np.complex128)[:, 0]
    return parts[2][1].rstrip(b"\0").decode("ascii"), values.reshape(shape, order="F")


def _parts(element: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The tagged stretches inside a variable: (type, bytes); small ones share eight bytes with their tag."""
    place = 8
    while place + 8 <= len(element):
        kind, size = struct.unpack_from(f"{order}II", element, place)
        if kind >> 16:
            kind, size, start, step = kind & 0xFFFF, kind >> 16, place + 4, 8
        else:
            start, step = place + 8, 8 + size + -size % 8
        if start + size > len(element) or (step == 8 and size > 4):
            raise ValueError("a stretch is longer than its variable")
        yield kind, element[start : start + size]
        place += step


def _elements(path: Path, raw: bytes, order: str, limit: int) -> Iterator[tuple[int, bytes]]:
    """The variables of a file, unpacked: (MATLAB class, bytes)."""
    place, total = _HEADER, 0
    while place < len(raw):
        kind, size = struct.unpack_from(f"{order}II", raw, place) if place + 8 <= len(raw) else (0, len(raw))
        body = raw[place + 8 : place + 8 + size]
        if len(body) < size:
            raise StoreError(f"{path} is cut short: it has {len(raw)} bytes")
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            element = unpacker.decompress(body, limit - total + 1)
            if len(element) > limit - total:
                raise StoreError(f"{path} unpacks to more than {limit} bytes, which a sample does not take")
            if not unpacker.eof:
                raise StoreError(f"{path} is cut short or damaged: a variable does not end")
        else:
            element = raw[place : place + 8 + size]
        if len(element) < 24 or struct.unpack_from(f"{order}I", element)[0] != _MATRIX:
            raise StoreError(f"{path} is damaged: byte {place} starts no variable")
        yield struct.unpack_from(f"{order}I", element, 16)[0] & 0xFF, element
        total += len(element)
        place += 8 + size
