"""Disks that are full, read-only, or slow to say so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import wichan.store as store
from wichan.errors import StoreError
from wichan.store import files

# A run in a process of its own, on a disk that has no room for it.
RUN = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from conftest import Small
from wichan.errors import StoreError
import numpy as np, wichan.store as store
column = store.Column("h", "complex64", (1000,), ("axis",))
small = Small()
small.columns, small.cells, small.shard_size = (column,), (store.Cell("s", "c", 400),), 40
LIMIT
try:
    with small.writer(Path(sys.argv[1])) as writer:
        for plan in writer.pending:
            writer.write_shard(plan, [{"h": np.full((plan.count, 1000), plan.index, np.complex64)}])
        writer.finish()
except StoreError as error:
    print(f"{len(store.load_manifest(sys.argv[1]).shards)} shards: {error}")
"""


def _run(script: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", script, str(folder), str(Path(__file__).parent)], capture_output=True, text=True, check=False
    )


def _fails_after(calls: int, code: int):
    """A posix_fallocate that works ``calls`` times (a whole run needs 11 or more: 7 shards, data.h5, 3 manifests)."""
    fallocate, left = os.posix_fallocate, [calls]

    def reserve(descriptor, offset, length):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        fallocate(descriptor, offset, length)

    return reserve


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("calls", range(0, 11, 2))
def test_full_disk_at_any_moment(tmp_path, small, fingerprint, monkeypatch, calls, code, one_line):
    small.write(tmp_path / "whole")
    folder = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", _fails_after(calls, code))
        with pytest.raises(StoreError, match=r"disk full: .* needs .*, the disk has .*B") as error:
            small.write(folder)
        one_line(error.value)
    assert not [name for name in fingerprint(folder) if name.startswith(".")]
    if (folder / "manifest.json").exists():
        assert store.verify(folder).ok
    small.write(folder)
    assert fingerprint(folder) == fingerprint(tmp_path / "whole")


def test_limit_on_file_size(tmp_path):
    """The kernel refuses to grow the file: an error of the system call, with no HDF5 in between."""
    result = _run(RUN.replace("LIMIT", "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("0 shards:") and "limit on file size" in result.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]


def test_small_disk(tmp_path):
    """A disk of 2 MiB (where mounting is allowed; elsewhere the limit on file size stands in for it)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True, check=False
        ).returncode
    )
    try:
        limit = "" if mounted else "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000,) * 2)"
        result = _run(RUN.replace("LIMIT", limit), disk / "out")
        assert result.returncode == 0, result.stderr
        count, _, message = result.stdout.partition(" shards: ")
        assert result.stdout.count("\n") == 1
        if mounted:  # 322 kB a shard: five or six fit
            assert 4 <= int(count) <= 6 and message.startswith("disk full: ")
        report = store.verify(disk / "out")
        assert report.ok and not report.unlisted and not report.stale and len(report.shards) == int(count)
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=True)


def test_disk_without_reservation_still_fails_cleanly(tmp_path, small, fingerprint, monkeypatch, one_line):
    """Some file systems cannot reserve: the write itself then meets the full disk."""
    pwritev = os.pwritev

    def full(descriptor, buffers, offset):
        if offset or sum(map(len, buffers)) > 4000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwritev(descriptor, buffers, offset)

    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", unsupported)
        patch.setattr(os, "pwritev", full)
        with pytest.raises(StoreError, match="disk full") as error:
            small.write(tmp_path)
        one_line(error.value)
    assert list(fingerprint(tmp_path)) == ["manifest.json"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", unsupported)
        assert small.write(tmp_path).complete


def test_partial_writes_are_continued(tmp_path, monkeypatch):
    pwritev = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda fd, buffers, at: pwritev(fd, [b"".join(buffers)[:7]], at))
    parts = [bytes(range(i, i + 10)) for i in range(5)]
    with (tmp_path / "file").open("wb") as file:
        assert files.write_at(file.fileno(), [*parts, b""], 3) == 53
    assert (tmp_path / "file").read_bytes() == bytes(3) + b"".join(parts)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_read_only_folder(tmp_path, small, fingerprint, monkeypatch, code, one_line):
    small.write(tmp_path)
    before = fingerprint(tmp_path)
    opened = os.open

    def read_only(path, flags, *rest, **options):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(code, os.strerror(code))
        return opened(path, flags, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(StoreError, match="read-only") as error:
            small.writer(tmp_path)
        one_line(error.value)
        assert store.verify(tmp_path).ok and len(store.open(tmp_path)[:]["h"]) == 153
    assert fingerprint(tmp_path) == before


def test_folder_that_cannot_be_made(small, one_line):
    with pytest.raises(StoreError) as error:
        small.writer(Path("/proc/no-such-place/out"))
    assert "/proc/no-such-place/out" in one_line(error.value)


def test_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    files.write_atomic(target, b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(StoreError, match="Input/output error"):
        files.write_atomic(target, b"new")
    assert target.read_bytes() == b"old" and [entry.name for entry in tmp_path.iterdir()] == ["file"]
