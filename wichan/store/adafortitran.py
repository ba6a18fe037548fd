"""Bring the data of AdaFortiTran's authors, a tree of ``.mat`` files, into a data set folder [Guler2025]_."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from wichan.channels.profiles import tdl_profile
from wichan.errors import UnknownNameError, WichanWarning
from wichan.grid import OFDMGrid, check_grid
from wichan.store.adafortitran_checks import (
    ESTIMATED,
    EXACT,
    NoiseCheck,
    check_mask,
    check_spacing,
    find_pilots,
    is_frozen,
)
from wichan.store.adafortitran_mat import MatSample, read_sample
from wichan.store.adafortitran_tree import MatCell, MatFile, find_cells
from wichan.store.dataset import WichanDataset
from wichan.store.dataset import open as open_dataset
from wichan.store.records import Cell, Column, Header, ShardPlan
from wichan.store.writer import DatasetWriter

_BLOCK = 128
_FIRST = 8  # files that say where the pilots are
_FEW = 1000  # distinct values of a condition that a recipe lists one by one
_MAX_FROZEN = 10_000  # as in recipes


def import_adafortitran(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    grid: OFDMGrid | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> WichanDataset:
    """Write the ``.mat`` files of AdaFortiTran's authors as a data set; nothing in them is executed.

    Columns, each sample one file: ``h`` (1, 1, T, F) the channel; ``y`` (1, T, F) the least squares at the pilots, zero
    elsewhere, which is what a receiver sees of pilots of value 1; ``no`` the noise variance on them; ``snr_db`` as the
    generator counts it, over the whole grid; ``delay_spread`` [s], ``max_doppler`` [Hz] and ``profile`` from the file's name.
    Splits and cells follow the folders (``test/SNR_test_set/SNR_5`` is cell ``snr_05`` of split ``test``), samples the
    numbers in the names. Where the profiles are known, the manifest holds a recipe, so that the data set can be trained on
    and evaluated like one of our own; the source is noted under ``import``.

    Pilots lie where any of the first files is not zero; they must form a comb, the same in all files. In single elements the
    value may be exactly zero. Without ``noise_var`` or ``var_hat`` in a file, the noise variance follows from the SNR in its
    name: power of the pilots, spread over the whole grid, over the SNR.

    Killed anywhere, the same call goes on where it was; the names of the files decide whether it is the same.

    Args:
        folder: the tree with ``train``, ``val`` and ``test`` in it, or any folder of such files.
        out: folder of the data set; default the source's name with ``-wichan``, in the working directory.
        grid: the lattice; default the published one, 120 subcarriers of 15 kHz by 14 symbols.
        progress: called with (samples done, samples in all) after every block.

    Returns:
        The data set, opened.

    Raises:
        StoreError: no such folder, no ``.mat`` file in it, a name outside the pattern, a file that is cut short, damaged, of
            another shape, without ``H`` or with NaN, pilots that differ or form no comb, or ``out`` cannot be written.

    Warns:
        WichanWarning: the error of the pilots is not the noise variance, in some cell of what this call reads, so that
            channel and pilots may not belong together; or channels of equal conditions are the same (frozen fading), so
            that training sees the test's.

    Cost: about 0.5 ms a file; each is read once.
    """
    source = Path(folder)
    lattice = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=120, subcarrier_spacing=15e3) if grid is None else check_grid(grid)
    cells = find_cells(source)
    importer = _Importer(source, lattice, cells)
    target = Path(f"{source.resolve().name}-wichan") if out is None else Path(out)
    if importer.frozen:
        text = (
            "samples of equal delay spread and Doppler share one channel (frozen fading): who trains on it has seen the test's"
        )
        warnings.warn(f"{source}: {text}", WichanWarning, stacklevel=2)
    with DatasetWriter(target, importer.header(), [Cell(c.split, c.cell, len(c.files)) for c in cells]) as writer:
        done, total = sum(shard.count for shard in writer.done), sum(len(cell.files) for cell in cells)
        for plan in writer.pending:
            writer.write_shard(plan, _counted(importer.blocks(plan), done, total, progress))
            done += plan.count
        writer.finish()
    if message := importer.check.verdict():
        warnings.warn(f"{source}: {message}", WichanWarning, stacklevel=2)
    return open_dataset(target)


def _counted(
    blocks: Iterator[dict[str, np.ndarray]], done: int, total: int, progress: Callable[[int, int], None] | None
) -> Iterator[dict[str, np.ndarray]]:
    for block in blocks:
        yield block
        done += len(block["no"])
        if progress is not None:
            progress(done, total)


class _Importer:
    """Knows the files, where their pilots are, and how to make columns of them."""

    def __init__(self, source: Path, grid: OFDMGrid, cells: Sequence[MatCell]) -> None:
        self.source, self.grid, self.cells = source, grid, cells
        self.shape = (grid.num_subcarriers, grid.num_ofdm_symbols)
        self.files = [file for cell in cells for file in cell.files]
        self.pilots, self.mask = find_pilots([(f, read_sample(f.path, self.shape)) for f in self.files[:_FIRST]])
        check_spacing(self.files, self.pilots["subcarrier_step"])
        self.profiles = {name: _short_profile(name) for name in sorted({file.profile for file in self.files})}
        self.categories = tuple(dict.fromkeys(self.profiles.values()))
        self.frozen = is_frozen(self.files, self.shape)
        self.check = NoiseCheck(grid.subcarrier_spacing)

    def header(self) -> Header:
        """Header of the data set."""
        symbols, subcarriers = self.grid.shape
        axes = ("num_rx_ant", "num_tx_ant", "num_ofdm_symbols", "num_subcarriers")
        columns = (
            Column("h", "complex64", (1, 1, symbols, subcarriers), axes, description="channel"),
            Column("y", "complex64", (1, symbols, subcarriers), (axes[0], *axes[2:]), description="received grid, pilots of 1"),
            Column("no", "float32", description="noise variance per complex sample"),
            Column("snr_db", "float32", unit="dB", description="signal-to-noise ratio, see snr_convention"),
            Column("delay_spread", "float32", unit="s", description="RMS delay spread"),
            Column("max_doppler", "float32", unit="Hz", description="maximum Doppler shift"),
            Column("profile", "category", categories=self.categories, description="delay profile"),
        )
        names = "\n".join(file.path.relative_to(self.source).as_posix() for file in self.files)
        origin = {
            "importer": "adafortitran",
            "folder": self.source.resolve().name,
            "files": len(self.files),
            "sha256_of_names": hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest(),
            "pilots": self.pilots,
            "frozen_fading": self.frozen,
        }
        return Header(
            recipe={"import": origin} | self._recipe(),
            recipe_name="import-adafortitran",
            recipe_version=1,
            seed=0,
            block_size=_BLOCK,
            columns=columns,
            snr_convention="grid-measured-realised",
        )

    def _recipe(self) -> dict[str, Any]:
        """The recipe that describes the data, or nothing where a profile is none of ours."""
        scalable = {_scalable(name) for name in self.categories}
        if len(scalable) != 1 or None in scalable:
            return {}
        laws = _laws(self.files, self.profiles, with_spread=True in scalable)
        splits: dict[str, Any] = {}
        for cell in self.cells:
            split = splits.setdefault(cell.split, {"num_samples": 0, "cells": {}})
            split["num_samples"] = max(split["num_samples"], len(cell.files))
            split["cells"][cell.cell] = _laws(cell.files, self.profiles, with_spread=True in scalable)
        grid = {key: getattr(self.grid, key) for key in ("num_ofdm_symbols", "num_subcarriers", "subcarrier_spacing")}
        distinct = len({(file.profile, file.delay_spread, file.max_doppler) for file in self.files})
        return {
            "name": "import-adafortitran",
            "recipe_version": 1,
            "kind": "ofdm",
            "title": f"{len(self.files)} files of AdaFortiTran's authors",
            "grid": grid | {"symbol_duration": self.grid.symbol_duration},
            "pilots": {"pattern": "comb", **self.pilots, "values": 1},
            "source": "tdl",
            "profile": laws.pop("profile"),
            "conditions": laws,
            "snr_convention": "grid-measured-realised",
            "independent_fading": not self.frozen or distinct > _MAX_FROZEN,
            "splits": splits,
        }

    def blocks(self, plan: ShardPlan) -> Iterator[dict[str, np.ndarray]]:
        """Columns of the samples of a shard, block by block."""
        cell = next(cell for cell in self.cells if (cell.split, cell.cell) == (plan.split, plan.cell))
        files = cell.files[plan.first : plan.first + plan.count]
        codes = {name: self.categories.index(short) for name, short in self.profiles.items()}
        for start in range(0, len(files), _BLOCK):
            part = files[start : start + _BLOCK]
            samples = [self._sample(file, f"{cell.split}/{cell.cell}") for file in part]
            h = np.stack([sample.h.T for sample, _ in samples]).astype(np.complex64)
            y = np.stack([sample.ls.T for sample, _ in samples]).astype(np.complex64)
            yield {
                "h": h[:, None, None],
                "y": y[:, None],
                "no": np.array([no for _, no in samples], np.float32),
                "snr_db": np.array([file.snr_db for file in part], np.float32),
                "delay_spread": np.array([file.delay_spread for file in part], np.float32),
                "max_doppler": np.array([file.max_doppler for file in part], np.float32),
                "profile": np.array([codes[file.profile] for file in part]),
            }

    def _sample(self, file: MatFile, place: str) -> tuple[MatSample, float]:
        """A sample whose pilots are where they must be, and its noise variance."""
        sample = read_sample(file.path, self.shape)
        check_mask(file, sample.ls, self.mask)
        power = float(np.mean(np.abs(sample.h[self.mask]) ** 2))
        share = np.count_nonzero(self.mask) / self.mask.size
        no = share * power * 10 ** (-file.snr_db / 10) if sample.no is None else sample.no
        there = sample.ls != 0  # a pilot that is exactly zero says nothing about the noise
        error = np.abs(sample.ls[there] - sample.h[there]) ** 2
        slack = ESTIMATED if sample.no is not None and not sample.exact else EXACT
        self.check.add(place, error, no, power, file.max_doppler, slack)
        return sample, no


def _short_profile(name: str) -> str:
    """``"TDL-A"`` -> ``"A"`` as in recipes; profiles of other families keep their name."""
    return (
        name.upper().removeprefix("TDL").lstrip("-") if name.upper().startswith("TDL") and _scalable(name) is not None else name
    )


@cache
def _scalable(name: str) -> bool | None:
    """Whether a delay profile is scaled by a delay spread; ``None`` for one that is not known."""
    try:
        return tdl_profile(name)[1] is None
    except UnknownNameError:
        return None


def _laws(files: Sequence[MatFile], profiles: dict[str, str], *, with_spread: bool) -> dict[str, Any]:
    """How conditions are spread over ``files``, as a recipe says it."""
    names = ("snr_db", *(("delay_spread",) if with_spread else ()), "max_doppler")
    laws: dict[str, Any] = {name: _law({getattr(file, name) for file in files}) for name in names}
    return laws | {"profile": _law({profiles[file.profile] for file in files})}


def _law(found: set[Any]) -> Any:
    values = sorted(found)
    if len(values) == 1:
        return values[0]
    return {"choice": values} if len(values) <= _FEW else {"uniform": [values[0], values[-1]]}
