"""Where a throughput curve crosses 70 %, and how sure that is."""

from __future__ import annotations

from typing import NamedTuple

import torch

TARGET = 0.7
#: Throughput that the measured points must reach on either side of the target, so that resampled curves cross inside.
RESERVE = 0.04


class Crossing(NamedTuple):
    """SNR [dB] at 70 % of the maximum throughput with its 95 % interval."""

    snr_db: float
    low: float
    high: float


def missing_offsets(points: dict[int, float], start: int, limit: int = 12) -> list[int]:
    """Offsets of the 1 dB grid that still have to be measured to enclose the target.

    Args:
        points: throughput by offset, neighbours without gaps.
        start: where to begin.
        limit: no further than so many dB from 0; a curve that does not cross there gets no more points.
    """
    if not points:
        return [start]
    wanted = []
    if min(points.values()) > TARGET - RESERVE:
        wanted.append(min(points) - 1)
    if max(points.values()) < TARGET + RESERVE:
        wanted.append(max(points) + 1)
    return [offset for offset in wanted if abs(offset) <= limit]


def crossing_of(snr_db: torch.Tensor, throughput: torch.Tensor, target: float = TARGET) -> torch.Tensor:
    """SNR at which curves cross ``target``, linear between points and beyond the ends.

    Args:
        snr_db: float64 (P,), ascending, at least 2.
        throughput: float64 (P, K), K curves; made monotone by the running maximum first.

    Returns:
        float64 (K,); NaN where a curve is flat at its end.
    """
    curve = throughput.cummax(0).values
    # The last segment whose left end lies below the target; the first one where none does.
    left = ((curve[:-1] < target).sum(0) - 1).clamp(0, len(snr_db) - 2)
    y0, y1 = curve.gather(0, left[None])[0], curve.gather(0, left[None] + 1)[0]
    x0, x1 = snr_db[left], snr_db[left + 1]
    slope = torch.where(y1 > y0, (y1 - y0) / (x1 - x0), torch.nan)
    return x0 + (target - y0) / slope


def estimate_crossing(snr_db: torch.Tensor, runs: torch.Tensor, *, resamples: int = 1000, seed: int = 0) -> Crossing:
    """Crossing of the mean curve and its bootstrap interval.

    Args:
        snr_db: float64 (P,), ascending.
        runs: float64 (P, R), throughput of every run; run r has the same channel, noise and payload at all points, so runs
            are resampled whole.
        resamples, seed: of the bootstrap.
    """
    generator = torch.Generator().manual_seed(seed)
    count = runs.shape[1]
    drawn = torch.randint(0, count, (resamples, count), generator=generator)
    weights = torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(1).double().expand_as(drawn))
    value = crossing_of(snr_db, runs.mean(1, keepdim=True))[0]
    spread = crossing_of(snr_db, runs @ weights.T / count)
    spread = spread[~spread.isnan()]
    if len(spread) < resamples // 2:
        return Crossing(float(value), float("nan"), float("nan"))
    low, high = torch.quantile(spread, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Crossing(float(value), low, high)
