"""Careful files: reserve the space, write, sync, rename, sync the folder; every failure is one clear line."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from wichan.errors import StoreError

MANIFEST = "manifest.json"
DATA = "data.h5"
TEMP = re.compile(r"\.tmp-(?P<name>.+)-[0-9a-f]{8}")
SHARD = re.compile(r"shard-(\d{5,})\.h5")
PART = re.compile(r"part-(\d+)-of-(\d+)\.json")
LOCK = re.compile(r"\.lock(-part-\d+-of-\d+)?")

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
# A file system without the call still writes; running full is then met while writing, as an ordinary error.
_NO_RESERVE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_IOV = min(os.sysconf("SC_IOV_MAX"), 1024) if hasattr(os, "sysconf") else 16


def size_text(count: float) -> str:
    """Return a byte count for people, such as ``'1.5 GiB'``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


@contextmanager
def writing(path: Path, size: int = 0) -> Iterator[None]:
    """Turn an `OSError` met while ``path`` (of ``size`` bytes) is written into one line of `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreError(f"disk full: {path} needs {size_text(size)}, the disk has {_free(path)}") from None
        if error.errno == errno.EFBIG:
            raise StoreError(f"{path} needs {size_text(size)}, more than the limit on file size") from None
        if error.errno in _READ_ONLY:
            raise StoreError(f"cannot write {path}: the folder is read-only ({error.strerror})") from None
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from None


def _free(path: Path) -> str:
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return "no room"
    return size_text(disk.f_bavail * disk.f_frsize)


def reserve(descriptor: int, size: int) -> None:
    """Reserve ``size`` bytes of disk for an open file, so that writing them cannot run out of space."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVE:
                raise


def create_temporary(path: Path, size: int) -> tuple[int, Path]:
    """Create a temporary file beside ``path`` with ``size`` bytes reserved; return its descriptor and its path.

    The name ends in random digits, so that a process left over from a killed run can never rename our file.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(4)}")
    with writing(path, size):
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            reserve(descriptor, size)
        except BaseException:
            os.close(descriptor)
            remove(temporary)
            raise
    return descriptor, temporary


def write_at(descriptor: int, buffers: Sequence[memoryview | bytes], offset: int) -> int:
    """Write ``buffers`` one after another from ``offset``; return the offset after the last byte."""
    pending = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if view.nbytes]
    position = 0
    while position < len(pending):
        written = os.pwritev(descriptor, pending[position : position + _IOV], offset)
        offset += written
        while position < len(pending) and written >= pending[position].nbytes:
            written -= pending[position].nbytes
            position += 1
        if written:
            pending[position] = pending[position][written:]
    return offset


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        path.unlink()


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: after any crash it holds the old bytes or the new ones, never a mixture."""
    descriptor, temporary = create_temporary(path, len(data))
    with writing(path, len(data)):
        try:
            try:
                write_at(descriptor, [data], 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
        except BaseException:
            remove(temporary)
            raise
        sync_folder(path.parent)


def file_size(path: Path) -> int | None:
    """Return the size of a regular file, ``None`` if there is none."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None
