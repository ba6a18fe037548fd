from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import wichan.store as store
from wichan.errors import StoreError
from wichan.store.lock import FolderLock, FolderLockedError

HOLD = """
import sys
from pathlib import Path
from wichan.store.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), eval(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


def _holder(folder, part=None):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), repr(part)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def _end(process):
    process.communicate()
    assert process.returncode == 0


def test_second_process_is_refused_and_told_who(tmp_path, one_line):
    process = _holder(tmp_path)
    with pytest.raises(StoreError, match=f"process {process.pid}") as error:
        FolderLock(tmp_path)
    assert str(tmp_path) in one_line(error.value)
    with pytest.raises(StoreError, match=f"process {process.pid}"):
        FolderLock(tmp_path, (1, 2))
    _end(process)
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_killed_holder_frees_the_lock(tmp_path):
    process = _holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (tmp_path / ".lock").exists()
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_parts_exclude_the_whole_and_themselves_but_not_each_other(tmp_path):
    process = _holder(tmp_path, (1, 2))
    other = FolderLock(tmp_path, (2, 2))
    with pytest.raises(FolderLockedError, match=f"process {process.pid}"):
        FolderLock(tmp_path, (1, 2))
    with pytest.raises(FolderLockedError, match=f"process {process.pid}.*process {os.getpid()}|{os.getpid()}.*{process.pid}"):
        FolderLock(tmp_path)
    _end(process)
    with pytest.raises(FolderLockedError):
        FolderLock(tmp_path)
    FolderLock(tmp_path, (1, 2)).release()
    other.release()
    FolderLock(tmp_path).release()
    assert not list(tmp_path.iterdir())


def test_forked_worker_that_outlives_its_parent_does_not_hold_the_lock(tmp_path):
    script = """
import os, sys
from pathlib import Path
from wichan.store.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b"x")
    sys.stdin.read()           # lives until the test closes its end
    os._exit(0)
os.read(reader, 1)
print("forked", flush=True)
os.kill(os.getpid(), 9)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "forked\n"
    assert process.wait() == -signal.SIGKILL
    FolderLock(tmp_path).release()
    process.stdin.close()
    assert process.stdout.read() == ""  # ends when the worker, which was alive all the time, has ended
    process.stdout.close()


def test_two_writers_on_one_folder(tmp_path, small, one_line):
    folder = tmp_path / "out"
    with small.writer(folder) as first:
        first.write_shard(first.pending[0], small.blocks(first.pending[0]))
        with pytest.raises(StoreError, match=f"process {os.getpid()}") as error:
            small.writer(folder)
        one_line(error.value)
        for plan in first.pending[1:]:
            first.write_shard(plan, small.blocks(plan))
        first.finish()
    assert store.verify(folder).ok
