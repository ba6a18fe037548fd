"""What a run says of itself: before (`DryRun`), during (`Progress`) and after (`RunReport`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a run is; handed to the ``progress`` callback after every block.

    Attributes:
        samples_done: samples computed in this run.
        samples_found: samples that were there when it started.
        samples_total: all samples of the run (of the part, for ``--shard i/n``).
        bytes_done: bytes of the samples computed.
        bytes_total: bytes of all samples.
        shards_done: shards finished, those found included.
        shards_total: all shards.
        seconds: since the run started computing.
    """

    samples_done: int
    samples_found: int
    samples_total: int
    bytes_done: int
    bytes_total: int
    shards_done: int
    shards_total: int
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """Rate of this run."""
        return self.samples_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def bytes_per_second(self) -> float:
        """Rate of this run."""
        return self.bytes_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at this rate; ``None`` before the first block."""
        rate = self.samples_per_second
        return (self.samples_total - self.samples_found - self.samples_done) / rate if rate else None


@dataclass(frozen=True)
class RunReport:
    """What a run has done.

    Attributes:
        path: folder of the data set.
        recipe: recipe name.
        seed: seed of the run.
        samples: samples computed now.
        samples_found: samples that were there already.
        samples_total: samples of the run (of the part, for ``--shard i/n``).
        shards: shards of the run.
        bytes: bytes of the samples computed now.
        seconds: wall time, opening and closing the data set included.
        workers: processes that computed.
        complete: whether the whole data set is complete (a part is not, until all parts are there).
        warnings: one line each.
    """

    path: Path
    recipe: str
    seed: int
    samples: int
    samples_found: int
    samples_total: int
    shards: int
    bytes: int
    seconds: float
    workers: int
    complete: bool
    warnings: tuple[str, ...] = ()

    @property
    def samples_per_second(self) -> float:
        """Samples computed, over the wall time."""
        return self.samples / self.seconds if self.seconds > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "path": str(self.path), "samples_per_second": self.samples_per_second}


@dataclass(frozen=True)
class DryRun:
    """What a run would do.

    Attributes:
        recipe: recipe name.
        cells: number of (split, cell) pairs.
        samples: samples of the run (of the part, for ``--shard i/n``).
        shards: shards of the run.
        bytes: bytes of the samples.
        block_size: samples in a block.
        shard_size: samples in a full shard.
        seconds: estimated time, from one block computed now and a disk of 0.5 GB/s.
        workers: processes that would compute.
        warnings: one line each.
    """

    recipe: str
    cells: int
    samples: int
    shards: int
    bytes: int
    block_size: int
    shard_size: int
    seconds: float
    workers: int
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)
