"""What must hold between the files of AdaFortiTran's data: one pilot pattern, channels and pilots that belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from wichan.errors import StoreError
from wichan.observations.distortion import doppler_distortion
from wichan.store.adafortitran_mat import MatSample, read_sample
from wichan.store.adafortitran_tree import MatFile

EXACT, ESTIMATED = 0.2, 0.5  # how far the error of the pilots may be from the noise variance: exact, or estimated per file
_PAIRS = 8


def find_pilots(first: Sequence[tuple[MatFile, MatSample]]) -> tuple[dict[str, Any], np.ndarray]:
    """Return the comb as arguments of a recipe, and its mask (num_subcarriers, num_ofdm_symbols).

    An element belongs to it where any of ``first`` is not zero: a single value may be zero by chance.

    Raises:
        StoreError: no pilots, no comb, or files that differ.
    """
    mask = np.any([sample.ls != 0 for _, sample in first], axis=0)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    where = first[0][0].path
    if not mask.any():
        raise StoreError(f"{where}: its least squares H[..., 1] hold no pilot")
    step = int(rows[1] - rows[0]) if len(rows) > 1 else len(mask)
    comb = np.zeros_like(mask)
    comb[np.ix_(np.arange(rows[0], len(mask), step), columns)] = True
    if not np.array_equal(mask, comb):
        raise StoreError(
            f"{where} and {len(first) - 1} more: their {np.count_nonzero(mask)} pilots form no comb; are patterns mixed?"
        )
    if rows[0] >= step:
        raise StoreError(f"{where}: its first pilot subcarrier {rows[0]} is not below the spacing {step}")
    found = {"symbols": columns.tolist(), "subcarrier_step": step, "subcarrier_offset": int(rows[0])}
    for file, sample in first:
        check_mask(file, sample.ls, mask)
    return found, mask


def check_mask(file: MatFile, ls: np.ndarray, mask: np.ndarray) -> None:
    """Raise unless pilots are only where they must be, and hardly any of them is exactly zero."""
    stray, there, count = (int(np.count_nonzero(part)) for part in (ls[~mask], ls[mask], mask))
    if stray or count - there > max(1, count // 50):
        raise StoreError(
            f"{file.path} has {there + stray} pilots, {stray} of them off the {count} of the first files; are sets mixed?"
        )


def check_spacing(files: Sequence[MatFile], step: int) -> None:
    """Raise unless all names agree with the pilots' spacing in subcarriers."""
    for file in files:
        if file.spacing != step:
            there = f"those of the first files are {step} subcarriers apart"
            raise StoreError(f"{file.path} names pilots N-{file.spacing}; {there}: import sets one by one")


def is_frozen(files: Sequence[MatFile], shape: tuple[int, int]) -> bool:
    """Whether pairs of files with equal conditions have the same channel, but for timing, which turns its phase."""
    first: dict[tuple[Any, ...], MatFile | None] = {}
    pairs: list[tuple[MatFile, MatFile]] = []
    for file in files:
        key = (file.profile, file.delay_spread, file.max_doppler)
        other = first.setdefault(key, file)
        if other is not file and other is not None:
            pairs.append((other, file))
            first[key] = None  # one pair each
        if len(pairs) == _PAIRS:
            break
    magnitudes = [[np.abs(read_sample(file.path, shape).h) for file in pair] for pair in pairs]
    return bool(pairs) and all(np.abs(a - b).max() <= 1e-6 * max(a.max(), b.max()) for a, b in magnitudes)


class NoiseCheck:
    """Compares the error of the pilots with the noise variance, cell by cell.

    The least squares may err by more than the noise: a channel that changes during a symbol adds interference between
    subcarriers (`wichan.observations.doppler_distortion`).
    """

    def __init__(self, subcarrier_spacing: float) -> None:
        self._spacing = subcarrier_spacing
        self._sums: dict[str, np.ndarray] = {}
        self._slack: dict[str, float] = {}
        self._distortion: dict[float, float] = {}

    def add(self, place: str, error: np.ndarray, no: float, power: float, max_doppler: float, slack: float) -> None:
        """Count one sample: squared errors of its pilots, noise variance, channel power."""
        if max_doppler not in self._distortion:
            self._distortion[max_doppler] = doppler_distortion(max_doppler, self._spacing)
        spread = power * self._distortion[max_doppler]
        numbers = np.array([error.size, error.sum(), error.size * no, error.size * (no + spread), error.size * no**2])
        self._sums[place] = self._sums.get(place, 0) + numbers
        self._slack[place] = max(self._slack.get(place, 0.0), slack)

    def verdict(self) -> str:
        """One line if some cell's numbers do not fit, else nothing."""
        bad: list[tuple[float, str, float, float]] = []
        for place, (count, error, noise, most, squared) in self._sums.items():
            # |n|^2 is exponential: the standard deviation of the sum of errors is the root of the sum of squared variances.
            chance = 5 * math.sqrt(squared)
            low, high = (1 - self._slack[place]) * noise - chance, (1 + self._slack[place]) * most + chance
            if not low <= error <= high + 1e-12 * count:
                ratio = error / noise if noise else math.inf
                bad.append(
                    (abs(math.log(max(ratio, 1e-300))) if ratio < math.inf else math.inf, place, error / count, noise / count)
                )
        if not bad:
            return ""
        _, place, error, noise = max(bad)
        return (
            f"channel and pilots may not belong together in {len(bad)} of {len(self._sums)} cells; the worst is {place}: "
            f"mean |H_LS - H|^2 at the pilots is {error:.3g}, the noise variance {noise:.3g}"
        )
