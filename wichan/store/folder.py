"""The folder of a run: who may write into it, what is there already, what a dead run left behind."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from wichan.errors import StoreError, WichanWarning
from wichan.store.files import DATA, LOCK, PART, SHARD, TEMP, file_size, remove, writing
from wichan.store.manifest import Manifest, describe_difference, find_manifest, part_files
from wichan.store.records import Shard, ShardPlan

_IGNORED = (".DS_Store", ".nfs", "lost+found")


def make_folder(path: str | Path) -> Path:
    """Return ``path`` as an existing folder; `StoreError` if it is a file or cannot be made."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; a data set needs a folder")
    with writing(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StoreError(f"{folder} cannot be made: a part of the path is a file") from None
    return folder


def resume(folder: Path, wanted: Manifest) -> Manifest | None:
    """Return the manifest of the run that ``folder`` holds if it is the run ``wanted``; ``None`` if the folder is empty.

    Raises:
        StoreError: the folder holds another run (what differs is named, with both values) or something foreign.
    """
    # Listed before the manifests are read: another part of the same run may be starting, and its manifest comes first.
    names = sorted(entry.name for entry in folder.iterdir())
    there = find_manifest(folder)
    if there is None:
        for name in names:
            if not (LOCK.fullmatch(name) or TEMP.fullmatch(name) or name.startswith(_IGNORED)):
                raise StoreError(f"{folder} is not empty and not a wichan data set: it holds {name!r}; choose another folder")
        return None
    if difference := describe_difference(there, wanted):
        raise StoreError(f"{folder} holds another run: {difference}; choose another folder")
    return there


def check_parts(folder: Path, part: tuple[int, int]) -> None:
    """Raise if the folder holds parts of another cut: two runs would do the same shards."""
    for path in part_files(folder):
        match = PART.fullmatch(path.name)
        if match and int(match[2]) != part[1]:
            raise StoreError(f"{folder} is shared in {match[2]} parts; this run is part {part[0]} of {part[1]}")


def present(folder: Path, shards: Iterable[Shard]) -> list[Shard]:
    """Return the listed shards whose files are there in full; warn about the others, which are made again."""
    kept: list[Shard] = []
    lost: list[Shard] = []
    for shard in shards:
        (kept if file_size(folder / shard.name) == shard.bytes else lost).append(shard)
    if lost:
        count = f"{len(lost)} listed shards" if len(lost) > 1 else "1 listed shard"
        names = ", ".join(shard.name for shard in lost[:3]) + (", ..." if len(lost) > 3 else "")
        warnings.warn(f"{folder}: {count} missing or cut short, made again: {names}", WichanWarning, stacklevel=4)
    return kept


def remove_stale(folder: Path, mine: Sequence[ShardPlan] | None) -> None:
    """Remove temporary files of dead runs: all of them, or (``mine``) only those of the given shards."""
    names = None if mine is None else {plan.name for plan in mine}
    for entry in list(folder.iterdir()):
        match = TEMP.fullmatch(entry.name)
        if match and (names is None or match["name"] in names):
            with suppress(OSError):
                remove(entry)


def save_changed(folder: Path, manifest: Manifest) -> None:
    """Save the manifest unless the folder holds it already, byte for byte."""
    try:
        same = (folder / manifest.file_name).read_bytes() == manifest.to_bytes()
    except OSError:
        same = False
    if not same:
        manifest.save(folder)


def absorb_parts(folder: Path, manifest: Manifest) -> None:
    """Remove what the main manifest, saved just now, makes void: part manifests, their locks, an outdated ``data.h5``.

    Only the holder of the whole folder may do that.
    """
    with writing(folder):
        for path in part_files(folder):
            remove(path)
        for entry in list(folder.iterdir()):
            if LOCK.fullmatch(entry.name) and entry.name != ".lock":
                remove(entry)
        if not manifest.complete:
            remove(folder / DATA)


def reopen(folder: Path, manifest: Manifest, shards: Iterable[Shard], part: tuple[int, int] | None) -> Manifest:
    """Return the manifest to go on with: what of ``shards`` is present, marked unfinished where something is missing."""
    kept = present(folder, shards)
    whole = len(kept) == len(manifest.plan)
    complete = manifest.complete and whole and part is None and file_size(folder / DATA) == (manifest.data or {}).get("bytes")
    result = replace(manifest, part=part, complete=complete, data=manifest.data if complete else None)
    return result.with_shards(kept)


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """Return names of shard files that the manifest does not list."""
    listed = {shard.name for shard in manifest.shards}
    return sorted(entry.name for entry in folder.iterdir() if SHARD.fullmatch(entry.name) and entry.name not in listed)
