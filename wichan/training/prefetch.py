"""Batches ahead of the device: a thread computes or reads the next ones while the network learns from the present one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any

import torch

_DEPTH = 4  # batches that wait
_POLL = 0.2  # s between looks at whether to stop


class BatchFeed:
    """Iterates over batches of a source; every `__iter__` goes on where the last one ended.

    A trainer sees one pass as an epoch; a pass ends where ``length`` says so. The time that the reader waited is measured.

    Args:
        make: returns the iterator of batches that begins with a given batch.
        first: number of the first batch.
        length: given the number of batches that were handed out so far, how many the next pass has.
        device: where the batches are.
        background: compute ahead in a thread. On the CPU with several threads the simulator would hold the network to one of
            them (it computes with one, and the number is the process's), so there batches are computed in between.

    Attributes:
        given: batches handed out, those before ``first`` included.
        waited: seconds that the reader waited.
    """

    def __init__(
        self,
        make: Callable[[int], Iterator[dict[str, torch.Tensor]]],
        *,
        first: int,
        length: Callable[[int], int],
        device: torch.device,
        background: bool,
    ) -> None:
        self.given, self.waited = first, 0.0
        self._length = length
        self._cuda = device if device.type == "cuda" else None
        self._stop = threading.Event()
        self._queue: Queue[tuple[str, Any, Any]] = Queue(maxsize=_DEPTH)
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._produce, args=(make, first), name="wichan-frames", daemon=True)
            self._thread.start()
        else:
            self._batches = make(first)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(self._length(self.given)):
            began = time.perf_counter()
            batch = self._next()
            self.waited += time.perf_counter() - began
            self.given += 1
            yield batch

    def _next(self) -> dict[str, torch.Tensor]:
        if self._thread is None:
            return next(self._batches)
        while True:
            try:
                kind, value, event = self._queue.get(timeout=_POLL)
                break
            except Empty:
                if not self._thread.is_alive() and self._queue.empty():
                    raise RuntimeError("the thread that makes batches has ended") from None
        if kind == "error":
            raise value
        if event is not None:
            current = torch.cuda.current_stream(self._cuda)
            current.wait_event(event)
            for tensor in value.values():
                tensor.record_stream(current)
        return dict(value)

    def _produce(self, make: Callable[[int], Iterator[dict[str, torch.Tensor]]], first: int) -> None:
        try:
            if self._cuda is None:
                for batch in make(first):
                    if not self._put(("batch", batch, None)):
                        return
                return
            # A stream of its own: the simulator's kernels run beside the network's and are waited for by an event.
            side = torch.cuda.Stream(self._cuda)
            with torch.cuda.stream(side):
                for batch in make(first):
                    if not self._put(("batch", batch, side.record_event())):
                        return
        except BaseException as error:  # raised again where the batch is asked for
            self._put(("error", error, None))

    def _put(self, item: tuple[str, Any, Any]) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL)
                return True
            except Full:
                continue
        return False

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        while not self._queue.empty():
            try:
                self._queue.get_nowait()
            except Empty:
                break
        if self._thread is not None:
            self._thread.join(timeout=30)
