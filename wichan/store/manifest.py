"""The manifest: the one file that says what a data set is and which shards count.

``manifest.json`` is plain JSON, one shard a line, and ends in the SHA-256 of all that stands before, so that a damaged
manifest is never believed. It holds no clock times: the same seed gives the same bytes. While several processes share
the work (``--shard i/n``) each keeps its own ``part-i-of-n.json`` of the same form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wichan.errors import StoreError, WichanError
from wichan.store.files import MANIFEST, PART, write_atomic
from wichan.store.records import Cell, Column, Header, Shard, ShardPlan, canonical, make_plan

FORMAT = "wichan-dataset"
FORMAT_VERSION = 1
_SHA = re.compile(r"[0-9a-f]{64}")
_TAIL = re.compile(rb'"checksum": "([0-9a-f]{64})"\n\}\n\Z')


@dataclass(frozen=True)
class Manifest:
    """What a data set folder holds.

    Args:
        header: how the samples were made.
        cells: all cells of the whole run, finished or not.
        shard_size: samples in a full shard, a multiple of the block size.
        shards: the shards that are safely on disk, by index.
        complete: whether the whole run (or this part of it) is finished.
        data: size and SHA-256 of ``data.h5``, once it is there.
        part: ``(i, n)`` for the manifest of one part.
    """

    header: Header
    cells: tuple[Cell, ...]
    shard_size: int
    shards: tuple[Shard, ...] = ()
    complete: bool = False
    data: dict[str, Any] | None = None
    part: tuple[int, int] | None = field(default=None, compare=False)

    @cached_property
    def plan(self) -> tuple[ShardPlan, ...]:
        """Every shard of the whole run."""
        return make_plan(self.cells, self.shard_size)

    @property
    def num_samples(self) -> int:
        """Samples in the listed shards."""
        return sum(shard.count for shard in self.shards)

    @property
    def num_planned(self) -> int:
        """Samples of the whole run."""
        return sum(cell.count for cell in self.cells)

    @property
    def num_bytes(self) -> int:
        """Bytes of the listed shards."""
        return sum(shard.bytes for shard in self.shards)

    @property
    def file_name(self) -> str:
        """Name of the manifest's file."""
        return MANIFEST if self.part is None else "part-{}-of-{}.json".format(*self.part)

    def identity(self) -> str:
        """Return the digest that every shard carries: of the header, not of the number of samples."""
        return hashlib.sha256(canonical(self.header.to_json()).encode()).hexdigest()

    def with_shards(self, shards: Iterable[Shard], **changes: Any) -> Manifest:
        """Return a copy that lists ``shards``, ordered by index."""
        return replace(self, shards=tuple(sorted(shards, key=lambda shard: shard.index)), **changes)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        body = _body(self)
        return body + f'"checksum": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()

    def save(self, folder: Path) -> None:
        """Write the manifest into ``folder``, atomically and synced."""
        write_atomic(Path(folder) / self.file_name, self.to_bytes())


def _body(manifest: Manifest) -> bytes:
    header = manifest.header.to_json()
    columns = header.pop("columns")
    entries: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": manifest.complete}
    if manifest.part is not None:
        entries["part"] = list(manifest.part)
    entries |= header | {"shard_size": manifest.shard_size, "num_samples": manifest.num_samples, "data": manifest.data}
    lines = ["{"]
    lines += [f"{json.dumps(key)}: {_text(value)}," for key, value in entries.items()]
    cells = [{"split": cell.split, "cell": cell.cell, "count": cell.count} for cell in manifest.cells]
    shards = [_shard_json(shard) for shard in manifest.shards]
    for key, items in (("columns", columns), ("cells", cells), ("shards", shards)):
        inside = ",\n".join(" " + _text(item) for item in items)
        lines.append(f'"{key}": [\n{inside}\n],' if items else f'"{key}": [],')
    return ("\n".join(lines) + "\n").encode()


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _shard_json(shard: Shard) -> dict[str, Any]:
    return {"name": shard.name} | {item.name: getattr(shard, item.name) for item in fields(shard)}


def parse_manifest(data: bytes, name: str) -> Manifest:
    """Return the manifest held in ``data``; ``name`` is used in messages.

    Raises:
        StoreError: not JSON, not a wichan manifest, of a newer format, or changed since it was written.
    """
    try:
        entries = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{name} is damaged or foreign: not JSON ({str(error):.80})") from None
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise StoreError(f"{name} is foreign: it is not the manifest of a wichan data set")
    version = entries.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise StoreError(f"{name} has format_version={version}; this wichan reads up to {FORMAT_VERSION}: install a newer one")
    tail = _TAIL.search(data)
    if tail is None or hashlib.sha256(data[: tail.start()]).hexdigest() != tail[1].decode():
        raise StoreError(f"{name} is damaged: its content does not match its checksum")
    try:
        return _from_entries(entries)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, WichanError) as error:
        detail = f"no entry {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise StoreError(f"{name} is damaged: {detail:.200}") from None


def _from_entries(entries: dict[str, Any]) -> Manifest:
    columns = tuple(Column(**column) for column in entries["columns"])
    keys = [item.name for item in fields(Header) if item.name != "columns"]
    header = Header(**{key: entries[key] for key in keys}, columns=columns)
    cells = tuple(Cell(**cell) for cell in entries["cells"])
    part = tuple(int(number) for number in entries["part"]) if "part" in entries else None
    manifest = Manifest(header, cells, int(entries["shard_size"]), part=part)  # type: ignore[arg-type]
    shards = []
    for entry in entries["shards"]:
        name = entry.pop("name")
        shard = Shard(**entry)
        if not 0 <= shard.index < len(manifest.plan) or manifest.plan[shard.index] != shard.plan or shard.name != name:
            raise ValueError(f"shard {str(name)[:60]!r} is not in the plan")
        if not isinstance(shard.bytes, int) or not _SHA.fullmatch(shard.sha256):
            raise ValueError(f"size or hash of {name!r} is malformed")
        shards.append(shard)
    if len({shard.index for shard in shards}) != len(shards):
        raise ValueError("a shard is listed twice")
    data = entries["data"]
    if data is not None and not (isinstance(data["bytes"], int) and _SHA.fullmatch(data["sha256"])):
        raise ValueError("size or hash of data.h5 is malformed")
    return manifest.with_shards(shards, complete=bool(entries["complete"]), data=data)


def part_files(folder: Path) -> list[Path]:
    """Return the part manifests in ``folder``, ordered by part."""
    found = [(tuple(map(int, match.groups())), path) for path in folder.iterdir() if (match := PART.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def find_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of ``folder`` with all parts folded in, or ``None`` if there is none."""
    found: list[tuple[Path, Manifest]] = []
    try:
        for path in [*part_files(folder), folder / MANIFEST]:
            # A part may be merged, and its file removed, while we look: the main manifest, read last, then holds it.
            with suppress(FileNotFoundError):
                found.append((path, parse_manifest(path.read_bytes(), str(path))))
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror or error}") from None
    if not found:
        return None
    first = found[-1][1]
    shards: dict[int, Shard] = {}
    for path, other in found:
        if difference := describe_difference(first, other):
            raise StoreError(f"{path} does not belong to this data set: {difference}")
        shards |= {shard.index: shard for shard in other.shards}
    return first.with_shards(shards.values(), part=None, complete=first.complete and first.part is None)


def load_manifest(folder: str | Path) -> Manifest:
    """Return the manifest of a data set folder.

    Args:
        folder: the folder; parts that are not merged yet are folded in.

    Raises:
        StoreError: no folder, no manifest, or one that is damaged, foreign or of a newer format.
    """
    folder = Path(folder)
    if not folder.exists():
        raise StoreError(f"{folder} does not exist")
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; a data set is a folder")
    manifest = find_manifest(folder)
    if manifest is None:
        raise StoreError(f"{folder} is not a wichan data set: it holds no {MANIFEST}")
    return manifest


def describe_difference(there: Manifest, wanted: Manifest) -> str | None:
    """Say in one clause what differs between two runs (the value there, the value wanted); ``None`` if nothing does."""
    old = there.header.to_json() | {"shard_size": there.shard_size}
    new = wanted.header.to_json() | {"shard_size": wanted.shard_size}
    for entries, manifest in ((old, there), (new, wanted)):
        entries["columns"] = {column["name"]: column for column in entries["columns"]}
        entries["column order"] = list(entries["columns"])
        entries["cells"] = {f"{cell.split}/{cell.cell}": {"count": cell.count} for cell in manifest.cells}
        entries["cell order"] = list(entries["cells"])
    # What names the run best comes first: a new recipe changes a lot else.
    order = ["recipe_name", "recipe_version", "seed", "recipe", "versions", "device", "block_size", "shard_size"]
    for key in [*order, *(key for key in old if key not in order)]:
        if found := _first_difference(key, old[key], new[key]):
            place, left, right = found
            return f"{place} is {_shown(left)} there and {_shown(right)} here"
    return None


def _first_difference(place: str, left: Any, right: Any) -> tuple[str, Any, Any] | None:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            if found := _first_difference(f"{place}.{key}", left.get(key), right.get(key)):
                return found
        return None
    return None if left == right and isinstance(left, bool) == isinstance(right, bool) else (place, left, right)


def _shown(value: Any) -> str:
    text = "absent" if value is None else _text(value)
    return text if len(text) <= 60 else text[:57] + "..."
