"""A stage of work in a background thread, with a bounded queue and errors that come back to the caller."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Stage(Generic[T]):
    """Hands items, in order, to ``work`` in a thread of its own.

    `put` waits while the queue is full. The first exception of ``work`` ends the stage: later items are dropped, and
    the exception is raised by the next `put` and by `wait`.

    Args:
        name: name of the thread.
        work: called with all items at hand (at most ``batch``), in order.
        limit: total weight that may wait in the queue; one item always fits.
        batch: items given to one call of ``work``.
    """

    def __init__(self, name: str, work: Callable[[list[T]], None], *, limit: int, batch: int = 1) -> None:
        self._work = work
        self._limit = limit
        self._batch = batch
        self._queue: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._busy = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T, weight: int = 1) -> None:
        """Queue an item; wait for room first."""
        with self._changed:
            while self._error is None and self._weight and self._weight + weight > self._limit:
                self._changed.wait()
            self._raise()
            self._queue.append((item, weight))
            self._weight += weight
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until everything queued is done; raise the stage's error if there is one."""
        with self._changed:
            while self._error is None and (self._queue or self._busy):
                self._changed.wait()
            self._raise()

    def check(self) -> None:
        """Raise the stage's error if there is one."""
        with self._changed:
            self._raise()

    def close(self) -> None:
        """Finish what is queued and end the thread; raises nothing."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return
                taken = [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]
                self._busy = True
                failed = self._error is not None
            try:
                if not failed:
                    self._work([item for item, _ in taken])
            except BaseException as error:  # raised again in the caller's thread
                with self._changed:
                    self._error = error
            with self._changed:
                # The weight is held until the work is done, so that memory counts what is being written, too.
                self._weight -= sum(weight for _, weight in taken)
                self._busy = False
                self._changed.notify_all()
            del taken
