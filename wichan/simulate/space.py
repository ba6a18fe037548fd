"""Is there room on the disk for what a run has still to write?"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from wichan.store import ShardPlan
from wichan.store.files import TEMP, size_text


def space_shortage(folder: str | Path, shards: Sequence[ShardPlan], bytes_per_sample: int) -> str | None:
    """Say in one line that the disk is too small for the shards that ``folder`` lacks; ``None`` where they fit.

    Shards that are there in full need nothing, and temporary files that a killed run left of ``shards`` make room, since
    a new run removes them. A file system that does not tell its size is taken to have enough.
    """
    there, stale = _present(Path(folder), {shard.name for shard in shards})
    sizes = ((shard.name, shard.count * bytes_per_sample) for shard in shards)
    needed = sum(size for name, size in sizes if there.get(name, 0) < size)
    disk = _nearest_folder(Path(folder))
    try:
        usage = shutil.disk_usage(disk)
    except OSError:
        return None
    if not usage.total or needed <= usage.free + stale:
        return None
    return (
        f"disk too small: {folder} needs {size_text(needed)} more, and {disk} has {size_text(usage.free)} free; "
        "make fewer samples (-n) or choose another folder"
    )


def _present(folder: Path, names: set[str]) -> tuple[dict[str, int], int]:
    """Sizes of the files of a folder that are called one of ``names``, and the bytes of temporary files for them."""
    sizes: dict[str, int] = {}
    stale = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                match = TEMP.fullmatch(entry.name)
                if entry.name in names:
                    sizes[entry.name] = entry.stat().st_size
                elif match and match["name"] in names:
                    stale += entry.stat().st_size
    except OSError:  # no such folder, or one that the writer will complain about
        return sizes, stale
    return sizes, stale


def _nearest_folder(folder: Path) -> Path:
    """The folder itself or its nearest parent that exists."""
    full = folder.absolute()
    return next((path for path in (full, *full.parents) if path.is_dir()), full)
