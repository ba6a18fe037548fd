"""One writer at a time: a lock on the folder that the kernel gives back when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import time
import weakref
from contextlib import suppress
from pathlib import Path

from wichan.errors import StoreError
from wichan.store.files import writing

_ATTEMPTS = 10
_PAUSE = 0.02  # the last reader of a lock file holds it alone for an instant while it removes it


class FolderLockedError(StoreError):
    """Another process writes into the folder."""


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


class FolderLock:
    """The right to write into a data set folder.

    The whole run holds ``.lock`` alone. A part ``(i, n)`` shares ``.lock`` with the other parts and holds
    ``.lock-part-i-of-n`` alone. Both are `flock` locks: released by the kernel on ``kill -9``, and not inherited by
    forked worker processes, which may outlive their parent. The files are removed on release.

    Args:
        folder: an existing folder.
        part: ``(i, n)``, or ``None`` for the whole run.

    Raises:
        FolderLockedError: another process writes here (its process id is named).
        StoreError: the folder cannot be written.
    """

    def __init__(self, folder: Path, part: tuple[int, int] | None = None) -> None:
        self._folder = folder
        self._files: list[tuple[Path, int]] = []
        _held.add(self)
        try:
            if part is None:
                self._take(folder / ".lock", fcntl.LOCK_EX)
            else:
                self._take(folder / ".lock", fcntl.LOCK_SH)
                self._take(folder / ".lock-part-{}-of-{}".format(*part), fcntl.LOCK_EX)
        except BaseException:
            self.release()
            raise

    def _take(self, path: Path, mode: int) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE)
            with writing(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                # The holder before us may have removed the file after we opened it: then the lock guards nothing.
                if _same_file(descriptor, path):
                    self._files.append((path, descriptor))
                    if mode == fcntl.LOCK_EX:
                        _sign(descriptor)
                    return
            except BlockingIOError:
                pass
            except OSError as error:
                os.close(descriptor)
                raise StoreError(f"cannot lock {path}: {error.strerror or error}") from None
            os.close(descriptor)
        raise FolderLockedError(f"{self._folder} is being written by {self._holders()}; wait for it or stop it")

    def _holders(self) -> str:
        names = []
        mine = {path for path, _ in self._files}
        for path in sorted(self._folder.glob(".lock*")):
            # A file that nobody holds is left from a killed run; a holder's own file says who holds it.
            if path not in mine and (text := _signature(path)):
                names.append(text)
        return " and ".join(names) or "another process"

    def release(self) -> None:
        """Give the lock back and remove its files; safe to call twice."""
        while self._files:
            path, descriptor = self._files.pop()
            # Only the sole holder may remove the file: others that share it would lock a nameless file.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _same_file(descriptor, path):
                    path.unlink()
            os.close(descriptor)

    def _forget(self) -> None:
        # In a forked child: drop our copies of the descriptors, without unlocking what the parent holds.
        while self._files:
            os.close(self._files.pop()[1])


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    # On a full disk the lock still holds, it is only anonymous.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)


def _signature(path: Path) -> str | None:
    """Return who holds a lock file alone, ``None`` if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        match = re.match(rb"(\d+) (\S+)", os.pread(descriptor, 200, 0))
        if match is None:
            return None
        place = "" if match[2].decode(errors="replace") == socket.gethostname() else f" on {match[2].decode(errors='replace')}"
        return f"process {match[1].decode()}{place}"
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _after_fork_in_child() -> None:
    for lock in list(_held):
        lock._forget()


os.register_at_fork(after_in_child=_after_fork_in_child)
