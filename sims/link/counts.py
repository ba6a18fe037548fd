"""What is counted at a point, what can be said from it, and how it is kept on disk."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest

_Z = 1.959963984540054  # two-sided 95 %


class Rate(NamedTuple):
    """A rate with its 95 % interval."""

    value: float
    low: float
    high: float


class Pair(NamedTuple):
    """Another receiver against the reference on the same frames; differences are other minus reference.

    ``worse`` and ``better`` count the frames in which the other one has more and fewer wrong blocks (the discordant ones);
    ``p_value`` is that of the two-sided exact sign test on them, which for one block a frame is McNemar's exact test.
    """

    bler: Rate
    ber: Rate
    nmse: Rate
    nmse_db: float
    worse: int
    better: int
    p_value: float


class Tally:
    """Sums over the frames of one point.

    Blocks of a frame share their channel, so frames are what is independent. Kept are: how often each combination of wrong
    blocks occurred (one digit a receiver), and first and second moments over frames of every receiver's bit errors, its
    squared error of the channel, and the channel's energy. Every interval and paired test follows from these.
    """

    def __init__(self, receivers: Sequence[str], num_streams: int, k: int) -> None:
        self.receivers, self.num_streams, self.k = list(receivers), num_streams, k
        self.chunks = self.frames = 0
        self.patterns: Counter[str] = Counter()
        size = 2 * len(self.receivers) + 1
        self.sums, self.products = np.zeros(size), np.zeros((size, size))
        self.reported = np.zeros(len(self.receivers))

    def add(self, bit_errors: torch.Tensor, errors: torch.Tensor, energy: torch.Tensor, reported: torch.Tensor) -> None:
        """Add a chunk.

        Args:
            bit_errors: int64 (receivers, frames, streams), wrong information bits of a block.
            errors: real (receivers, frames), squared error of the channel estimate, summed over a frame.
            energy: real (frames,), energy of the channel.
            reported: real (receivers,), mean ``err_var`` times the number of channel entries a frame.
        """
        wrong = (bit_errors > 0).sum(dim=-1).T.tolist()
        self.patterns.update("".join(map(str, row)) for row in wrong)
        rows = torch.cat([bit_errors.sum(dim=-1).double(), errors.double(), energy.double()[None]]).numpy()
        self.sums += rows.sum(axis=1)
        self.products += rows @ rows.T
        self.reported += reported.double().numpy() * rows.shape[1]
        self.frames += rows.shape[1]
        self.chunks += 1

    # -- Rates --

    def _wrong(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Wrong blocks of a receiver in a frame, and in how many frames that was so."""
        index = self.receivers.index(name)
        values = np.array([int(pattern[index]) for pattern in self.patterns])
        return values, np.array(list(self.patterns.values()), dtype=float)

    def block_errors(self, name: str) -> int:
        """Wrong blocks of a receiver."""
        values, counts = self._wrong(name)
        return int((values * counts).sum())

    def bler(self, name: str) -> Rate:
        """Block error rate; Wilson's interval for the number of independent blocks that are worth as much as these.

        With several blocks a frame their variance over frames says how many: blocks / (1 + their correlation) for two.
        """
        values, counts = self._wrong(name)
        blocks = self.frames * self.num_streams
        rate = float((values * counts).sum()) / blocks
        independent = float(blocks)
        if self.num_streams > 1 and 0 < rate < 1:
            variance = float((counts * (values / self.num_streams - rate) ** 2).sum()) / self.frames
            if variance > 0:  # few frames may all look the same
                independent = rate * (1 - rate) / (variance / self.frames)
        return wilson(rate, independent)

    def ber(self, name: str) -> Rate:
        """Error rate of information bits; interval from the variance over frames, symmetric in the logarithm.

        Without an error, three frames with errors among all are the most that 95 % allow.
        """
        return self._scaled(self.receivers.index(name), self.num_streams * self.k)

    def _scaled(self, row: int, per_frame: int) -> Rate:
        mean = self.sums[row] / self.frames
        if mean == 0:
            return Rate(0.0, 0.0, min(3 / self.frames, 1.0))
        if self.frames < 2:
            return Rate(float(mean / per_frame), math.nan, math.nan)
        spread = _spread(self.products[row, row], self.sums[row], self.frames)
        factor = math.exp(_Z * spread / mean)
        return Rate(*(float(value / per_frame) for value in (mean, mean / factor, mean * factor)))

    def nmse(self, name: str) -> Rate:
        """Ratio of summed squared error to summed energy; interval by linearising the ratio."""
        row, energy = len(self.receivers) + self.receivers.index(name), self.sums[-1]
        ratio = self.sums[row] / energy
        squares = self.products[row, row] - 2 * ratio * self.products[row, -1] + ratio**2 * self.products[-1, -1]
        half = _Z * math.sqrt(max(squares, 0.0)) / energy if self.frames > 1 else math.nan
        return Rate(float(ratio), float(np.maximum(ratio - half, 0.0)), float(ratio + half))

    def promised(self, name: str) -> float:
        """Mean ``err_var`` over the mean energy of a channel entry: what the receiver takes its NMSE to be."""
        return float(self.reported[self.receivers.index(name)] / self.sums[-1])

    # -- Pairs --

    def pair(self, other: str, reference: str) -> Pair:
        """Compare two receivers on their common frames."""
        first, second = self.receivers.index(other), self.receivers.index(reference)
        gap = np.array([int(pattern[first]) - int(pattern[second]) for pattern in self.patterns])
        counts = np.array(list(self.patterns.values()), dtype=float)
        worse, better = int(counts[gap > 0].sum()), int(counts[gap < 0].sum())
        total, square = float((gap * counts).sum()), float((gap**2 * counts).sum())
        bler = _difference(total, square, self.frames, self.num_streams)
        ber = self._gap(first, second, self.num_streams * self.k)
        shift = len(self.receivers)
        nmse = self._gap(shift + first, shift + second, self.sums[-1] / self.frames)
        ratio = self.sums[shift + first] / self.sums[shift + second] if self.sums[shift + second] > 0 else math.inf
        nmse_db = 10 * math.log10(ratio) if 0 < ratio < math.inf else math.copysign(math.inf, ratio - 1)
        return Pair(bler, ber, nmse, nmse_db, worse, better, sign_test(worse, better))

    def _gap(self, first: int, second: int, per_frame: float) -> Rate:
        square = self.products[first, first] - 2 * self.products[first, second] + self.products[second, second]
        return _difference(self.sums[first] - self.sums[second], square, self.frames, per_frame)

    # -- JSON --

    def as_json(self) -> dict[str, Any]:
        """Everything that `from_json` needs, floats without loss."""
        return {
            "chunks": self.chunks,
            "frames": self.frames,
            "patterns": dict(sorted(self.patterns.items())),
            "sums": self.sums.tolist(),
            "products": self.products.tolist(),
            "reported": self.reported.tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any], receivers: Sequence[str], num_streams: int, k: int) -> Tally:
        """Inverse of `as_json`."""
        tally = cls(receivers, num_streams, k)
        tally.chunks, tally.frames = data["chunks"], data["frames"]
        tally.patterns.update(data["patterns"])
        tally.sums, tally.products = np.array(data["sums"]), np.array(data["products"])
        tally.reported = np.array(data["reported"])
        return tally


def wilson(rate: float, count: float) -> Rate:
    """Wilson's 95 % interval of a proportion."""
    centre = (rate + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(rate * (1 - rate) / count + _Z**2 / (4 * count**2))
    return Rate(rate, max(centre - half, 0.0), min(centre + half, 1.0))


def sign_test(worse: int, better: int) -> float:
    """Two-sided exact p-value that discordant frames go either way with equal probability."""
    return float(binomtest(worse, worse + better).pvalue) if worse + better else 1.0


def _spread(square: float, total: float, count: int) -> float:
    """Standard error of a mean."""
    return math.sqrt(max(square / count - (total / count) ** 2, 0.0) / count)


def _difference(total: float, square: float, count: int, per_frame: float) -> Rate:
    mean, half = total / count, _Z * _spread(square, total, count)
    return Rate(*(float(value / per_frame) for value in (mean, mean - half, mean + half)))


def read_json(path: Path) -> dict[str, Any]:
    """The file's content, or nothing if there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write so that a kill at any time leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(draft, path)
