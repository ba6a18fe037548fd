"""Worker processes: each computes and writes whole shards; this process keeps manifest and lock."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from queue import SimpleQueue
from typing import IO, Any, TypeAlias

from wichan import errors
from wichan.errors import StoreError, WichanError
from wichan.simulate.schema import Recipe
from wichan.store import DatasetWriter, ShardPlan
from wichan.store.folder import remove_stale

# One thread each: parallelism runs over shards, and a block's bits hold for one thread.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_PATIENCE = 10.0  # s that a stopped worker gets to sync and report a shard that it has computed in full


_Events: TypeAlias = "SimpleQueue[tuple[str, Any]]"  # what workers report, and ("error", exception) or ("end", None)


@dataclass(eq=False)
class _Worker:
    """A child process, our end of its pipe, and a file that catches what it prints."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    log: IO[bytes] = field(repr=False)

    def last_words(self) -> str:
        """Last line that the process printed, if any."""
        self.log.seek(0, os.SEEK_END)
        self.log.seek(max(self.log.tell() - 4096, 0))
        lines = [line for line in self.log.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else ""


class WorkerPool:
    """Starts worker processes, hands them shards, and notices when one dies.

    A worker is a fresh interpreter (no fork, and no second import of the caller's script), in a process group of its own,
    so that Ctrl-C reaches this process only. It ends when its pipe closes, so none outlives this process.

    Args:
        recipe: what to compute.
        seed: seed of the run.
        count: number of processes.
    """

    def __init__(self, recipe: Recipe, seed: int, count: int) -> None:
        self._setup = {"recipe": recipe.plain(), "seed": seed}
        self._count = count
        self._workers: list[_Worker] = []
        self._halted = threading.Event()

    def __enter__(self) -> WorkerPool:
        try:
            for _ in range(self._count):
                self._workers.append(self._start())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self) -> _Worker:
        ours, theirs = Pipe()
        log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        environment = {**os.environ, **_ONE_THREAD, "PYTHONPATH": paths}
        command = [sys.executable, "-m", "wichan.simulate.worker", str(theirs.fileno())]
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        theirs.close()
        worker = _Worker(process, ours, log)
        self._send(worker, self._setup)
        return worker

    def write(self, writer: DatasetWriter, on_block: Callable[[int], None], on_shard: Callable[[], None]) -> None:
        """Have every pending shard of ``writer`` computed, written and entered in the manifest.

        On an error or an interrupt the workers are stopped, shards that they have finished are entered still, and the
        temporary files of the others are removed.
        """
        events: _Events = SimpleQueue()
        plans = list(writer.pending)
        # A thread takes the reports, since Ctrl-C reaches the main thread only: no report is lost half-way.
        reader = threading.Thread(target=self._follow, args=(writer, plans, events), name="wichan-reports", daemon=True)
        try:
            reader.start()
            while (event := events.get())[0] != "end":
                kind, value = event
                if kind == "block":
                    on_block(value)
                elif kind == "shard":
                    on_shard()
                else:
                    raise value
        except BaseException:
            self._halt(reader)
            with contextlib.suppress(OSError):  # a folder that is gone must not hide the error that ended the run
                remove_stale(writer.folder, plans)
            raise

    def _follow(self, writer: DatasetWriter, plans: list[ShardPlan], events: _Events) -> None:
        """Hand out shards and list finished ones until all are done, or until the stopped workers have ended."""
        waiting = list(reversed(plans))
        busy: dict[Any, _Worker] = {}

        def next_shard(worker: _Worker) -> None:
            busy.pop(worker.pipe, None)
            if waiting and not self._halted.is_set():
                self._send(worker, writer.job(waiting.pop()))
                busy[worker.pipe] = worker

        def step(worker: _Worker, act: Callable[[_Worker], None]) -> None:
            try:
                act(worker)
            except BaseException as error:  # raised again in the caller's thread, which stops the workers
                busy.pop(worker.pipe, None)
                waiting.clear()
                events.put(("error", error))

        def take(worker: _Worker) -> None:
            kind, value = self._receive(worker)
            if kind == "shard":
                writer.commit(value)
                next_shard(worker)
            events.put((kind, value))

        for worker in self._workers:
            step(worker, next_shard)
        while busy:
            for pipe in wait(list(busy)):
                step(busy[pipe], take)
        events.put(("end", None))

    def _halt(self, reader: threading.Thread) -> None:
        """End all workers, and wait until their last reports are taken."""
        self._halted.set()
        try:
            self._terminate(_PATIENCE)
        finally:
            if reader.ident is not None:
                reader.join(_PATIENCE)
            self._stop()

    def _send(self, worker: _Worker, message: Any) -> None:
        try:
            worker.pipe.send(message)
        except OSError:
            raise self._death(worker) from None

    def _receive(self, worker: _Worker) -> tuple[str, Any]:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            raise self._death(worker) from None
        if kind == "error":
            name, text = value
            cls = getattr(errors, name, StoreError)
            raise cls(text) if isinstance(cls, type) and issubclass(cls, WichanError) else StoreError(text)
        return kind, value

    def _death(self, worker: _Worker) -> StoreError:
        try:
            code = worker.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        if code is not None and code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name}; out of memory?)"
        else:
            how = f"ended with exit code {code}"
        words = worker.last_words()
        reason = f": {words}" if words else ""
        return StoreError(
            f"worker process {worker.process.pid} {how}{reason}; finished shards are kept, run the same command again to go on"
        )

    def _terminate(self, patience: float) -> None:
        """Ask all workers to end; after ``patience`` seconds, or a second Ctrl-C, force them."""
        deadline = time.monotonic() + patience
        try:
            for worker in self._workers:
                worker.process.terminate()
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.process.wait(timeout=max(deadline - time.monotonic(), 0.01))
        finally:
            for worker in self._workers:
                worker.process.kill()  # does nothing to a process that has ended
                worker.process.wait()

    def _stop(self) -> None:
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.pipe.close()
        try:
            self._terminate(2.0)
        finally:
            for worker in self._workers:
                worker.log.close()
            self._workers.clear()
