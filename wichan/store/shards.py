"""Write one shard: reserve its space, fill it front to back while hashing, sync, rename."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wichan.errors import InvalidValueError, StoreError
from wichan.store.blocks import Block, RowBuffer, as_arrays
from wichan.store.files import create_temporary, remove, write_at, writing
from wichan.store.layout import ABOUT_BYTES, Piece, layout
from wichan.store.records import Column, Shard, ShardPlan


@dataclass(frozen=True)
class ShardJob:
    """All that a worker process needs to write one shard; it can be pickled.

    Args:
        folder: folder of the data set.
        plan: which samples the shard holds.
        columns: the columns.
        identity: digest of the data set's header (`Manifest.identity`).
    """

    folder: Path
    plan: ShardPlan
    columns: tuple[Column, ...]
    identity: str

    def write(self, blocks: Iterable[Block]) -> Shard:
        """Write the shard from its blocks, here and now, and return its size and hash.

        The file is in place under its own name afterwards, but counts only once `DatasetWriter.commit` has listed it.

        Args:
            blocks: mappings column -> (num_samples, *shape), in order; together exactly ``plan.count`` samples.

        Raises:
            StoreError: the disk is full or cannot be written. InvalidValueError: wrong columns, or too few or many samples.
        """
        writer = ShardWriter(self)
        try:
            for block in blocks:
                writer.append(block)
            shard = writer.seal()
            writer.publish()
        except BaseException:
            writer.abort()
            raise
        return shard

    def about(self) -> bytes:
        """Return what the shard says about itself, in 1024 bytes: a shard of another data set is known by it."""
        plan = self.plan
        facts: dict[str, str | int] = {
            "format": "wichan-shard",
            "dataset": self.identity,
            "split": plan.split,
            "cell": plan.cell,
        }
        facts |= {"index": plan.index, "first": plan.first, "count": plan.count}
        text = json.dumps(facts, ensure_ascii=False).encode()
        if len(text) > ABOUT_BYTES:
            raise InvalidValueError(f"split and cell names of {plan.name} are too long")
        return text.ljust(ABOUT_BYTES, b"\0")


class ShardWriter:
    """A shard while it is written: `append` blocks, then `seal`, then `publish`; or `abort`.

    Memory: one group of samples (about 4 MiB) and the blocks that reach into it.

    Args:
        job: what to write, and where.

    Raises:
        StoreError: there is no room for the shard, or the folder cannot be written.
    """

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self._path = job.folder / job.plan.name
        self._layout = layout(job.columns, job.plan.count)
        self._rows = RowBuffer()
        self._group = 0
        self._offset = 0
        self._hash = hashlib.sha256()
        self._about: bytes | None = job.about()
        self.cancelled = False  # set by another thread: write no more
        self._temporary: Path | None = None
        self._file, self._temporary = create_temporary(self._path, self._layout.size)

    @property
    def closed(self) -> bool:
        """Whether the shard was published or aborted."""
        return self._temporary is None

    def append(self, block: Block) -> None:
        """Add samples; whole groups go to disk at once."""
        arrays = as_arrays(self.job.columns, block)
        self._rows.append(arrays)
        if self._rows.stop > self.job.plan.count:
            raise InvalidValueError(f"{self._path.name} takes {self.job.plan.count} samples, got {self._rows.stop}")
        while self._group < len(self._layout.groups) and self._rows.stop >= self._group_stop():
            self._write_group()

    def seal(self) -> Shard:
        """Check that every sample came; return the shard's entry. Its bytes are all written, but not synced yet."""
        plan = self.job.plan
        if self._rows.stop != plan.count:
            raise InvalidValueError(f"{self._path.name} takes {plan.count} samples, got {self._rows.stop}")
        if self._offset != self._layout.size:
            raise StoreError(f"{self._path.name} has {self._offset} bytes instead of {self._layout.size}")
        return Shard(**vars(plan), bytes=self._offset, sha256=self._hash.hexdigest())

    def publish(self) -> None:
        """Sync the file and give it its name; the folder is synced by the one who lists the shard."""
        assert self._temporary is not None
        with writing(self._path, self._layout.size):
            os.fsync(self._file)
            os.replace(self._temporary, self._path)
        self._temporary = None
        os.close(self._file)

    def abort(self) -> None:
        """Close and remove the temporary file; safe to call at any time."""
        if self._temporary is not None:
            remove(self._temporary)
            self._temporary = None
            os.close(self._file)

    def _group_stop(self) -> int:
        return min((self._group + 1) * self._layout.group_rows, self.job.plan.count)

    def _write_group(self) -> None:
        buffers = [view for piece in self._layout.groups[self._group] for view in self._buffers(piece)]
        with writing(self._path, self._layout.size):
            self._offset = write_at(self._file, buffers, self._offset)
        for buffer in buffers:  # still in the processor's cache
            self._hash.update(buffer)
        self._rows.drop(self._group_stop())
        self._group += 1

    def _buffers(self, piece: Piece) -> list[memoryview | bytes]:
        if self._about is None or not piece.literal:
            return self._rows.views(piece)
        # The first literal is the head of the file; it holds the place of the record about this shard.
        head, at = bytearray(piece.literal), self._layout.about
        if at + ABOUT_BYTES > len(head):
            raise StoreError("HDF5 laid out the head of a shard in several parts; this version of HDF5 is not supported")
        head[at : at + ABOUT_BYTES] = self._about
        self._about = None
        return [bytes(head)]
