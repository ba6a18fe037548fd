"""The folders and file names of AdaFortiTran's data: one ``.mat`` file a sample, its conditions in its name."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wichan.errors import StoreError, WichanError
from wichan.store.records import check_label

PATTERN = "{index}_SNR-{dB}_DS-{ns}_DOP-{Hz}_N-{spacing}_{profile}.mat"
_UNSIGNED = r"\d{1,7}(?:\.\d{1,6})?"
_NAME = re.compile(
    rf"(?P<index>\d{{1,12}})_SNR-(?P<snr>[+-]?{_UNSIGNED})_DS-(?P<spread>{_UNSIGNED})_DOP-(?P<doppler>{_UNSIGNED})"
    r"_N-(?P<spacing>[1-9]\d{0,3})_(?P<profile>[A-Za-z][A-Za-z0-9]*(?:-[A-Za-z0-9]+)*)\.(?i:mat)",
    re.ASCII,
)
_LIMITS = {"snr": (-200.0, 200.0), "spread": (0.0, 1e6), "doppler": (0.0, 1e7)}  # dB, ns, Hz: what a recipe may say
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_OTHER = "data"  # recipes keep "all" for themselves
_ORDER = ("train", "val", "test", _OTHER)
_SWEPT = re.compile(rf"(?i:(SNR|DS|DOP))_(-?{_UNSIGNED})", re.ASCII)
_SHORT = {"SNR": ("snr", 2), "DS": ("ds", 3), "DOP": ("doppler", 4)}


@dataclass(frozen=True)
class MatFile:
    """One sample: its file, and what the name says.

    Attributes:
        path: the file.
        index: its number.
        snr_db: [dB] as the generator counts it, over the whole grid.
        delay_spread: [s].
        max_doppler: [Hz].
        spacing: subcarriers from one pilot to the next.
        profile: delay profile, such as ``"TDL-A"``.
    """

    path: Path
    index: int
    snr_db: float
    delay_spread: float
    max_doppler: float
    spacing: int
    profile: str


@dataclass(frozen=True)
class MatCell:
    """The files of one folder: a cell of a split."""

    split: str
    cell: str
    files: tuple[MatFile, ...]


def parse_name(path: Path) -> MatFile:
    """Return what a file's name says.

    Raises:
        StoreError: a name outside the pattern, or a number out of range.

    Example:
        >>> parse_name(Path("7_SNR--2.5_DS-50_DOP-500_N-3_TDL-A30.mat")).snr_db
        -2.5
    """
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise StoreError(f"{str(path)!r} has a name outside the pattern {PATTERN}")
    for key, (low, high) in _LIMITS.items():
        if not low <= float(match[key]) <= high:
            raise StoreError(f"{str(path)!r}: its name says {key} {match[key]}; allowed are {low:g} to {high:g}")
    return MatFile(
        path=path,
        index=int(match["index"]),
        snr_db=float(match["snr"]),
        delay_spread=float(match["spread"] + "e-9"),  # as text, so that 200 ns is 2e-7 and not the product's last bit off
        max_doppler=float(match["doppler"]),
        spacing=int(match["spacing"]),
        profile=match["profile"],
    )


def find_cells(folder: Path) -> list[MatCell]:
    """Return the samples below ``folder`` by split and cell, in an order that does not depend on the disk.

    A folder with ``.mat`` files is a cell. Its split is the first part of the path that is called train, val or test (or the
    name of ``folder`` itself), else ``"data"``; ``SNR_5`` becomes cell ``snr_05``, and so on. Files that do not end in
    ``.mat`` and hidden ones are passed over.

    Raises:
        StoreError: no such folder, one that cannot be read, none or unnamed files, folders that would share a name.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} does not exist or is not a folder")
    found: list[tuple[str, tuple[str, ...], tuple[MatFile, ...]]] = []
    for place, names in _walk(folder):
        files = sorted((parse_name(place / name) for name in names), key=lambda file: (file.index, file.path.name))
        split, parts = _split_of(folder, place)
        found.append((split, parts, tuple(files)))
    if not found:
        raise StoreError(f"{folder} holds no .mat file")
    found.sort(key=lambda item: (_ORDER.index(item[0]), _natural(item[1])))
    short = [(split, _short_name(parts)) for split, parts, _ in found]
    counts = Counter(short)
    cells = []
    for (split, parts, members), (_, name) in zip(found, short, strict=True):
        cell = name if counts[split, name] == 1 else "_".join(_short_name((part,)) for part in parts)
        cells.append(MatCell(split, _checked(folder, cell), members))
    _check_unique(folder, cells)
    return cells


def _walk(folder: Path) -> Iterable[tuple[Path, list[str]]]:
    """Folders with ``.mat`` files in them."""

    def failed(error: OSError) -> None:
        raise StoreError(f"cannot read {error.filename}: {error.strerror}") from None

    for place, folders, names in os.walk(folder, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [name for name in names if name.lower().endswith(".mat") and not name.startswith(".")]
        if wanted:
            yield Path(place), wanted


def _split_of(folder: Path, place: Path) -> tuple[str, tuple[str, ...]]:
    parts = place.relative_to(folder).parts
    if parts and parts[0].lower() in _SPLITS:
        return _SPLITS[parts[0].lower()], parts[1:]
    return _SPLITS.get(folder.resolve().name.lower(), _OTHER), parts


def _short_name(parts: tuple[str, ...]) -> str:
    """Name of a cell from its folder: ``SNR_5`` -> ``snr_05``, as in the recipe of the published set-up."""
    if not parts:
        return "main"
    if match := _SWEPT.fullmatch(parts[-1]):
        word, width = _SHORT[match[1].upper()]
        return f"{word}_{match[2].zfill(width) if match[2].isdigit() else match[2]}"
    return re.sub(r"[^a-z0-9_.+-]+", "_", parts[-1].lower()).strip("_.+-") or "cell"


def _checked(folder: Path, cell: str) -> str:
    try:
        return check_label("cell", cell[:100])
    except WichanError as error:
        raise StoreError(f"{folder}: a folder cannot name a cell: {error}") from None


def _check_unique(folder: Path, cells: list[MatCell]) -> None:
    for (split, cell), count in Counter((cell.split, cell.cell) for cell in cells).items():
        if count > 1:
            raise StoreError(f"{folder}: {count} folders would become cell {cell!r} of split {split!r}; rename or move them")


def _natural(parts: tuple[str, ...]) -> list[list[tuple[int, float, str]]]:
    """Sort key that puts ``SNR_5`` before ``SNR_10``."""
    pieces = [re.split(rf"({_UNSIGNED})", part) for part in parts]
    return [[(1, float(piece), "") if i % 2 else (0, 0.0, piece) for i, piece in enumerate(part)] for part in pieces]
