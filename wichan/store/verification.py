"""Is every byte what was written? `verify` hashes a data set, `info` says what it holds."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wichan.errors import StoreError
from wichan.store.files import DATA, TEMP, file_size
from wichan.store.folder import unlisted
from wichan.store.manifest import FORMAT_VERSION, Manifest, load_manifest
from wichan.store.records import Shard

_PIECE = 4 << 20
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ShardReport:
    """What `verify` found about one file: ``ok``, ``missing``, ``size``, ``hash`` or ``unreadable``, and a detail."""

    name: str
    status: str
    detail: str = ""


@dataclass(frozen=True)
class VerifyReport:
    """The result of `verify`.

    Args:
        path: the folder.
        complete: whether the manifest calls the data set complete.
        num_samples: samples in listed shards.
        num_planned: samples of the whole run.
        shards: one report for each listed shard and, if complete, for ``data.h5``.
        unlisted: shard files that the manifest does not list (from a killed run; they do not count).
        stale: temporary files of a killed run.
        remedy: what makes the data set whole; empty where nothing is missing or damaged.
    """

    path: str
    complete: bool
    num_samples: int
    num_planned: int
    shards: tuple[ShardReport, ...]
    unlisted: tuple[str, ...]
    stale: tuple[str, ...]
    remedy: str = ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Damage, one line each."""
        return tuple(f"{report.name}: {report.detail}" for report in self.shards if report.status != "ok")

    @property
    def ok(self) -> bool:
        """Whether every listed file is what was written (an unfinished data set can be ok)."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON."""
        return {
            "path": self.path,
            "ok": self.ok,
            "complete": self.complete,
            "num_samples": self.num_samples,
            "num_planned": self.num_planned,
            "files_checked": len(self.shards),
            "problems": [vars(report) for report in self.shards if report.status != "ok"],
            "unlisted": list(self.unlisted),
            "stale": list(self.stale),
            "remedy": self.remedy,
        }


def verify(path: str | Path, *, progress: Progress | None = None) -> VerifyReport:
    """Check every byte of a data set against the hashes in its manifest.

    Args:
        path: folder of the data set.
        progress: called with (bytes done, bytes in all), from several threads but never at once.

    Returns:
        What was found; ``report.ok`` tells whether all is well.

    Raises:
        StoreError: the manifest itself is missing or damaged.
    """
    folder = Path(path)
    manifest = load_manifest(folder)
    files = [(shard.name, shard.bytes, shard.sha256) for shard in manifest.shards]
    if manifest.complete and manifest.data is not None:
        files.append((DATA, manifest.data["bytes"], manifest.data["sha256"]))
    reports = _check_files(folder, files, progress)
    stale = sorted(entry.name for entry in folder.iterdir() if TEMP.fullmatch(entry.name))
    return VerifyReport(
        path=str(folder),
        complete=manifest.complete,
        num_samples=manifest.num_samples,
        num_planned=manifest.num_planned,
        shards=tuple(reports),
        unlisted=tuple(unlisted(folder, manifest)),
        stale=tuple(stale),
        remedy=_remedy(reports, manifest),
    )


def _remedy(reports: Sequence[ShardReport], manifest: Manifest) -> str:
    """What to do. A file that is missing or cut short is made again by itself; one of the right size passes for whole."""
    bad = [report for report in reports if report.status != "ok"]
    if manifest.complete and not bad:
        return ""
    again = "import the same file again" if "import" in manifest.header.recipe else "run the same `wichan simulate` again"
    full = [report.name for report in bad if report.status in ("hash", "unreadable")]
    if not full:
        return again
    return f"delete {full[0] if len(full) == 1 else f'the {len(full)} files whose content is wrong'} and {again}"


def check_shards(folder: Path, shards: Sequence[Shard]) -> None:
    """Raise `StoreError`, naming the first damaged shard, unless all hashes agree."""
    for report in _check_files(folder, [(shard.name, shard.bytes, shard.sha256) for shard in shards], None):
        if report.status != "ok":
            raise StoreError(f"{folder / report.name} is damaged: {report.detail}")


def _check_files(folder: Path, files: list[tuple[str, int, str]], progress: Progress | None) -> list[ShardReport]:
    total, done, guard = sum(size for _, size, _ in files), 0, threading.Lock()

    def advance(count: int) -> None:
        nonlocal done
        with guard:
            done += count
            if progress is not None:
                progress(done, total)

    # Hashing and reading let other threads run; more of them than disks can feed gain nothing.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4))
    try:
        return list(pool.map(lambda item: _check_file(folder, item, advance), files))
    finally:
        pool.shutdown(cancel_futures=True)


def _check_file(folder: Path, entry: tuple[str, int, str], advance: Callable[[int], None]) -> ShardReport:
    name, size, sha256 = entry
    path = folder / name
    found = file_size(path)
    if found is None:
        advance(size)
        return ShardReport(name, "missing", "the file is missing")
    if found != size:
        advance(size)
        return ShardReport(name, "size", f"{found} bytes instead of {size}")
    digest, buffer = hashlib.sha256(), memoryview(bytearray(min(_PIECE, max(size, 1))))
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
                advance(count)
    except OSError as error:
        return ShardReport(name, "unreadable", f"cannot be read: {error.strerror or error}")
    if digest.hexdigest() != sha256:
        return ShardReport(name, "hash", f"SHA-256 is {digest.hexdigest()[:16]}..., the manifest says {sha256[:16]}...")
    return ShardReport(name, "ok")


def info(path: str | Path) -> dict[str, Any]:
    """Return what a data set holds and where it comes from, as plain JSON; reads the manifest only.

    Args:
        path: folder of the data set.

    Raises:
        StoreError: not a data set, or its manifest is damaged.
    """
    manifest = load_manifest(path)
    header = manifest.header
    return {
        "path": str(path),
        "recipe": header.recipe_name,
        "recipe_version": header.recipe_version,
        "seed": header.seed,
        "complete": manifest.complete,
        "num_samples": manifest.num_samples,
        "num_planned": manifest.num_planned,
        "num_shards": len(manifest.shards),
        "num_bytes": manifest.num_bytes + (manifest.data["bytes"] if manifest.data else 0),
        "shard_size": manifest.shard_size,
        "block_size": header.block_size,
        "splits": _splits(manifest),
        "columns": [column.to_json() for column in header.columns],
        "snr_convention": header.snr_convention,
        "normalization": header.normalization,
        "device": header.device,
        "versions": header.versions,
        "format_version": FORMAT_VERSION,
        "settings": header.recipe,
    }


def _splits(manifest: Manifest) -> dict[str, dict[str, Any]]:
    there: dict[tuple[str, str], int] = {}
    for shard in manifest.shards:
        there[shard.split, shard.cell] = there.get((shard.split, shard.cell), 0) + shard.count
    splits: dict[str, dict[str, Any]] = {}
    for cell in manifest.cells:
        split = splits.setdefault(cell.split, {"num_samples": 0, "num_planned": 0, "cells": {}})
        count = there.get((cell.split, cell.cell), 0)
        split["num_samples"] += count
        split["num_planned"] += cell.count
        split["cells"][cell.cell] = count
    return splits
