"""Scores of settings from sums of samples, paired resamples of them, and who ranks where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.evaluation.benchmarks.scoring import JobScores
from wichan.evaluation.statistics import Interval, percentile_interval, resampled_sums

#: Scores that predictors are ranked by -> whether more is better.
RANKED = {"nmse": False, "nmse_pooled": False, "se": True}
_TIE = 1e-6
_MOST_NUMBERS = 12_000_000  # of one score, over all resamples


class SettingScores(NamedTuple):
    """Scores of M predictors in S settings at P steps; float64.

    Attributes:
        nmse: mean over samples and antennas of ratios, (S, M, P).
        nmse_pooled: ratio of sums over samples, antennas and bins, (S, M, P).
        mse: mean over samples and antennas of the squared error, summed over bins, (S, M, P).
        se: spectral efficiency [bit/s/Hz], (S, M, P).
        se0: with the true channel, (S, P).
        calibration: real over claimed squared error, (S, M); NaN for who claims none.
    """

    nmse: torch.Tensor
    nmse_pooled: torch.Tensor
    mse: torch.Tensor
    se: torch.Tensor
    se0: torch.Tensor
    calibration: torch.Tensor


class Standing(NamedTuple):
    """Places in a group of settings, each (M,) with a 95 % interval.

    Attributes:
        first: share of settings in which the predictor has rank 1 (a tie counts for all of its members).
        rank: mean rank, 1 is best.
    """

    first: Interval
    rank: Interval


def setting_scores(jobs: Sequence[JobScores], num_ant: int) -> SettingScores:
    """Scores of all settings of all jobs, in their order."""
    columns: list[list[torch.Tensor]] = [[] for _ in SettingScores._fields]
    for job in jobs:
        ratio, error, se, claimed = job.values.double().unbind(-1)
        total = error.sum(2)
        scores = (
            ratio.mean(2),
            total / job.energy.double().sum(0),
            error.mean(2) / num_ant,
            se.mean(2),
            job.se0.double().mean(0).expand(ratio.shape[0], -1),
            total.sum(-1) / claimed.sum((2, 3)),
        )
        for column, score in zip(columns, scores, strict=True):
            column.append(score)
    return SettingScores(*(torch.cat(column) for column in columns))


def resample(jobs: Sequence[JobScores], *, generator: torch.Generator, most: int = 1000) -> dict[str, torch.Tensor]:
    """Bootstrap of every setting's scores, means over steps, by name of `RANKED`: float32 (num_resamples, S, M).

    Samples are drawn with replacement once a job for all of its settings and predictors: they share channels and noise, so
    differences between predictors keep only the noise that does not cancel. With n samples intervals come out narrow by about
    sqrt(1 - 1/n); one sample says nothing of spread: NaN.
    """
    count = sum(job.values.shape[0] for job in jobs) * jobs[0].values.shape[1]
    num_resamples = max(100, min(most, _MOST_NUMBERS // count))
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in RANKED}
    for job in jobs:
        settings, predictors, samples, steps, _ = job.values.shape
        ratio, error, se, _ = job.values.double().unbind(-1)
        flat = [ratio.mean(-1), se.mean(-1), error.movedim(-1, 2)]
        rows = torch.cat([*(part.reshape(-1, samples) for part in flat), job.energy.double().T])
        copies = resampled_sums(rows, num_resamples, generator=generator)
        pairs = settings * predictors
        nmse, gain, total, energy = copies.split([pairs, pairs, pairs * steps, steps])
        pooled = (total.reshape(pairs, steps, -1) / energy).mean(1)
        for name, copy in zip(RANKED, (nmse / samples, pooled, gain / samples), strict=True):
            known = copy if samples > 1 else torch.full_like(copy, torch.nan)
            parts[name].append(known.T.reshape(-1, settings, predictors).float())
    return {name: torch.cat(part, dim=1) for name, part in parts.items()}


def ranks(scores: torch.Tensor, *, rising: bool) -> torch.Tensor:
    """Rank of each predictor, 1 is best; scores equal to a millionth (rounding) share the better rank, NaN and inf the last.

    Args:
        scores: (..., M).
        rising: whether more is better.

    Returns:
        int64, same shape.
    """
    scores = (-scores if rising else scores).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    bar = torch.where(scores.isinf(), scores, scores - _TIE * scores.abs())
    better = [(scores < bar[..., m : m + 1]).sum(-1) for m in range(scores.shape[-1])]
    return 1 + torch.stack(better, dim=-1)


def standing(scores: torch.Tensor, copies: torch.Tensor, *, rising: bool) -> Standing:
    """Shares of first ranks and mean ranks over settings, with intervals.

    Args:
        scores: (S, M).
        copies: bootstrap copies, (num_resamples, S, M).
        rising: whether more is better.
    """
    place, places = ranks(scores, rising=rising), ranks(copies, rising=rising)
    blind = bool(copies.isnan().all(-1).any())  # one predictor alone may have overflowed: the others keep their intervals
    intervals = []
    for of in (lambda r: r == 1, lambda r: r):
        value = of(place).double().mean(0)
        spread = of(places).double().mean(1).T
        intervals.append(percentile_interval(value, torch.full_like(spread, torch.nan) if blind else spread))
    return Standing(*intervals)
