"""Write a data set: resumable, shard by shard, while the caller computes the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np

from wichan.errors import InvalidTypeError, InvalidValueError, StoreError, check_int
from wichan.store.blocks import Block, as_arrays
from wichan.store.files import DATA, file_size, sync_folder, write_atomic, writing
from wichan.store.folder import absorb_parts, check_parts, make_folder, remove_stale, reopen, resume, save_changed
from wichan.store.layout import MAX_SHARD_BYTES, samples_per_shard
from wichan.store.lock import FolderLock, FolderLockedError
from wichan.store.manifest import Manifest, load_manifest
from wichan.store.pipeline import Stage
from wichan.store.records import Cell, Header, Shard, ShardPlan, check_cells
from wichan.store.shards import ShardJob, ShardWriter
from wichan.store.virtual import build_virtual

_QUEUE_BYTES = 64 << 20
_UNSYNCED_BYTES = 2 * MAX_SHARD_BYTES  # written shards that may wait for their sync

_Written: TypeAlias = tuple[ShardWriter, dict[str, np.ndarray] | None]  # a block, or the end of a shard
_Sealed: TypeAlias = tuple[ShardWriter | None, Shard]  # without a writer: named already, by another process


class DatasetWriter:
    """The one who writes a data set folder; a context manager.

    Opening takes the folder's lock, makes the folder or checks that it holds this very run, clears away what a killed run
    left, and finds out what is still `pending`. Shards are written by `write_shard` in background threads, or in worker
    processes by `job` and listed by `commit`. `finish` marks the data set complete. Leaving the block early keeps every
    finished shard: opening the folder again goes on from there, and the result has the same bits.

    Args:
        folder: folder of the data set; made if absent.
        header: how the samples are made.
        cells: all cells of the whole run, in order.
        shard_size: samples in a shard, a multiple of the block size; default `samples_per_shard`.
        part: ``(i, n)`` with 1 <= i <= n: do only the shards ``plan[i - 1 :: n]``. Several processes, on one machine or on
            many with a shared disk, do the parts; who finishes last merges them.
        queue_bytes: bytes of blocks that may wait to be written.
        progress: called with each `Shard` once it is listed (from a background thread).

    Raises:
        StoreError: another run, another process, or something foreign is in the folder; or it cannot be written.
    """

    def __init__(
        self,
        folder: str | Path,
        header: Header,
        cells: Sequence[Cell],
        *,
        shard_size: int | None = None,
        part: tuple[int, int] | None = None,
        queue_bytes: int = _QUEUE_BYTES,
        progress: Callable[[Shard], None] | None = None,
    ) -> None:
        size = samples_per_shard(header.columns, header.block_size) if shard_size is None else shard_size
        check_int("shard_size", size, minimum=1)
        if size % header.block_size:
            raise InvalidValueError(f"shard_size={size} must be a multiple of block_size={header.block_size}")
        check_int("queue_bytes", queue_bytes, minimum=1)
        self._part = _check_part(part)
        self._progress = progress
        self._queue_bytes = queue_bytes
        self._open: list[ShardWriter] = []
        self._stages: tuple[Stage[_Written], Stage[_Sealed]] | None = None
        self._lock: FolderLock | None = None
        wanted = Manifest(header, check_cells(cells), size, part=self._part)
        self.folder = make_folder(folder)
        self._lock = FolderLock(self.folder, self._part)
        try:
            self._resume(wanted)
        except BaseException:
            self._lock.release()
            raise

    def _resume(self, wanted: Manifest) -> None:
        there = resume(self.folder, wanted)
        self.plan = wanted.plan if self._part is None else wanted.plan[self._part[0] - 1 :: self._part[1]]
        if self._part is not None:
            check_parts(self.folder, self._part)
        remove_stale(self.folder, None if self._part is None else self.plan)
        self._planned = {plan.index: plan for plan in self.plan}
        listed = [shard for shard in there.shards if shard.index in self._planned] if there else []
        self.manifest = reopen(self.folder, there or wanted, listed, self._part)
        self.done = self.manifest.shards
        self._shards = {shard.index: shard for shard in self.done}
        self.pending = tuple(plan for plan in self.plan if plan.index not in self._shards)
        save_changed(self.folder, self.manifest)
        if self._part is None:
            absorb_parts(self.folder, self.manifest)

    @property
    def is_complete(self) -> bool:
        """Whether the data set (or this part of it) is finished."""
        return self.manifest.complete

    def job(self, plan: ShardPlan) -> ShardJob:
        """Return what a worker process needs to write the shard ``plan`` by itself."""
        return ShardJob(self.folder, self._check_plan(plan), self.manifest.header.columns, self.manifest.identity())

    def write_shard(self, plan: ShardPlan, blocks: Iterable[Block]) -> None:
        """Write one shard; returns when its last block is queued.

        The blocks are drawn in the caller's thread; checking, writing, hashing and syncing go on in the background.
        An error there is raised by the next call of `write_shard`, `flush` or `finish`.

        Args:
            plan: one of `pending`.
            blocks: mappings column -> (num_samples, *shape) of tensors, arrays, or text for a category, in order; any
                number of samples each, together ``plan.count``. They must not be changed afterwards.

        Raises:
            StoreError: the disk is full or cannot be written. InvalidValueError: the blocks do not fit the columns.
        """
        stage = self._running()[0]
        stage.check()
        writer = ShardWriter(self.job(plan))
        self._open.append(writer)
        try:
            for block in blocks:
                arrays = as_arrays(writer.job.columns, block)
                stage.put((writer, arrays), sum(array.nbytes for array in arrays.values()))
            stage.put((writer, None), 0)
        except BaseException:
            writer.cancelled = True  # finished shards go on to disk; this one is removed by `close`
            raise

    def commit(self, shard: Shard) -> None:
        """List a shard that a worker process has written by `job`.

        Raises:
            StoreError: its file is not there.
        """
        self._check_plan(shard.plan)
        if file_size(self.folder / shard.name) != shard.bytes:
            raise StoreError(f"{shard.name} is not in {self.folder} with the {shard.bytes} bytes that its writer reported")
        self._running()[1].put((None, shard), shard.bytes)

    def flush(self) -> None:
        """Wait until every shard handed over is synced and listed; raise what went wrong."""
        if self._stages is not None:
            for stage in self._stages:
                stage.wait()

    def finish(self) -> Manifest:
        """Complete the data set: wait for all shards, write ``data.h5``, mark the manifest complete.

        A part is marked complete; if it is the last one, the parts are merged.

        Returns:
            The manifest of the folder.

        Raises:
            StoreError: shards of the plan are missing, or the disk cannot be written.
        """
        self.flush()
        missing = [plan.name for plan in self.plan if plan.index not in self._shards]
        if missing:
            raise StoreError(f"{self.folder} lacks {len(missing)} of {len(self.plan)} shards, the first is {missing[0]}")
        if not self.is_complete:
            if self._part is None:
                data, entry = build_virtual(self.manifest)
                write_atomic(self.folder / DATA, data)
                self._save(data=entry, complete=True)
            else:
                self._save(complete=True)
        if self._part is None:
            return self.manifest
        self._release()
        manifest = load_manifest(self.folder)
        if len(manifest.shards) < len(manifest.plan):
            return manifest
        try:
            return merge(self.folder)
        except FolderLockedError:
            return manifest  # by another part that is finishing: it, too, sees all parts complete, and merges them

    def close(self) -> None:
        """Sync and list the shards that are written in full, drop the others, release the lock. Raises nothing."""
        if self._stages is not None:
            for stage in self._stages:
                stage.close()
            self._stages = None
        for writer in self._open:
            writer.abort()
        self._open.clear()
        self._release()

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _running(self) -> tuple[Stage[_Written], Stage[_Sealed]]:
        if self._lock is None:
            raise StoreError(f"the writer of {self.folder} is closed")
        if self._stages is None:
            sealed: Stage[_Sealed] = Stage("wichan-sync", self._list, limit=_UNSYNCED_BYTES, batch=64)
            self._stages = (Stage("wichan-write", self._write, limit=self._queue_bytes), sealed)
        return self._stages

    def _write(self, items: list[_Written]) -> None:
        """In the first thread: write and hash blocks; a shard that is whole goes on to the second thread."""
        for writer, arrays in items:
            if writer.cancelled:
                continue
            if arrays is not None:
                writer.append(arrays)
            else:
                shard = writer.seal()
                self._running()[1].put((writer, shard), shard.bytes)

    def _list(self, items: list[_Sealed]) -> None:
        """In the second thread: sync all shards at hand, name them, then list them together."""
        for writer, _ in items:
            if writer is not None:
                writer.publish()
                self._open.remove(writer)
        with writing(self.folder):
            sync_folder(self.folder)
        self._shards |= {shard.index: shard for _, shard in items}
        self._save()
        if self._progress is not None:
            for _, shard in items:
                self._progress(shard)

    def _save(self, **changes: Any) -> None:
        self.manifest = self.manifest.with_shards(self._shards.values(), **changes)
        self.manifest.save(self.folder)

    def _check_plan(self, plan: ShardPlan) -> ShardPlan:
        if not isinstance(plan, ShardPlan):
            raise InvalidTypeError(f"plan must be a wichan.store.ShardPlan, got {type(plan).__name__}")
        if self._planned.get(plan.index) != plan:
            raise InvalidValueError(f"{plan.name} with {plan.count} samples of {plan.cell!r} is not planned in {self.folder}")
        return plan

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _check_part(part: tuple[int, int] | None) -> tuple[int, int] | None:
    if part is None:
        return None
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise InvalidTypeError(f"part={part!r:.60} must be a pair (i, n)")
    total = check_int("the second number of part", part[1], minimum=1)
    return check_int("the first number of part", part[0], minimum=1, maximum=total), total


def merge(folder: str | Path) -> Manifest:
    """Merge the parts of a data set that several processes have written, and complete it.

    Args:
        folder: folder of the data set, with all parts finished.

    Returns:
        The manifest of the complete data set; its bytes equal those of an undivided run.

    Raises:
        StoreError: shards are missing, or a part is still being written.
    """
    manifest = load_manifest(folder)
    with DatasetWriter(folder, manifest.header, manifest.cells, shard_size=manifest.shard_size) as writer:
        return writer.finish()
