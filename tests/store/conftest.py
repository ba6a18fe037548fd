"""A small data set with values that are a function of their place, so that any misplaced sample is seen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wichan.store as store

BLOCK = 8
CELLS = (store.Cell("train", "a", 100), store.Cell("train", "b", 20), store.Cell("test", "a", 33))


class Small:
    """153 samples in 6 shards of at most 32."""

    columns = (
        store.Column("h", "complex64", (2, 3), ("num_rx_ant", "num_subcarriers"), description="channel"),
        store.Column("snr_db", "float32", unit="dB"),
        store.Column("count", "int64", (2,), ("axis",)),
        store.Column("moving", "bool"),
        store.Column("profile", "category", categories=("A", "B30", "C")),
    )
    cells = CELLS
    shard_size = 32
    num_samples = 153

    def header(self, **changes: Any) -> store.Header:
        settings: dict[str, Any] = {"recipe": {"speed": [1, 2.5]}, "recipe_name": "small", "recipe_version": 3, "seed": 7}
        return store.Header(**(settings | {"block_size": BLOCK, "columns": self.columns, "snr_convention": "pilot"} | changes))

    def rows(self, plan: store.ShardPlan, start: int = 0, stop: int | None = None) -> dict[str, np.ndarray]:
        """The samples of a shard: every number says split, cell and index."""
        index = np.arange(plan.first + start, plan.first + (plan.count if stop is None else stop))
        place = index + 1000 * ord(plan.cell) + (0.5 if plan.split == "test" else 0.0)
        steps = np.arange(6).reshape(2, 3) / 8
        return {
            "h": (place[:, None, None] + 1j * steps).astype(np.complex64),
            "snr_db": place.astype(np.float32),
            "count": np.stack([index, -index], 1),
            "moving": index % 3 == 0,
            "profile": index % 3,
        }

    def blocks(self, plan: store.ShardPlan, size: int = BLOCK) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, plan.count, size):
            yield self.rows(plan, start, min(start + size, plan.count))

    def writer(self, folder: Path, **options: Any) -> store.DatasetWriter:
        header = options.pop("header", None) or self.header()
        return store.DatasetWriter(folder, header, options.pop("cells", self.cells), shard_size=self.shard_size, **options)

    def write(self, folder: Path, **options: Any) -> store.Manifest:
        with self.writer(folder, **options) as writer:
            for plan in writer.pending:
                writer.write_shard(plan, self.blocks(plan))
            return writer.finish()

    def everything(self) -> dict[str, np.ndarray]:
        parts = [self.rows(plan) for plan in store.make_plan(self.cells, self.shard_size)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.fixture(scope="session")
def small() -> Small:
    return Small()


@pytest.fixture(scope="session")
def finished(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data set that tests read but never change."""
    folder = tmp_path_factory.mktemp("finished") / "out"
    small.write(folder)
    return folder


@pytest.fixture
def fingerprint() -> Callable[[Path], dict[str, str]]:
    """Name -> SHA-256 of every file in a folder, hidden ones too."""
    return lambda folder: {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in sorted(folder.iterdir())}


@pytest.fixture
def one_line() -> Callable[[BaseException], str]:
    """The message of an error, which must be a single line that is not too long to read."""

    def check(error: BaseException) -> str:
        text = str(error)
        assert text and "\n" not in text and len(text) < 500
        return text

    return check
