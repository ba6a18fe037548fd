r"""How sure are we? Paired bootstrap intervals over channels, for NMSE, gaps and scores.

Every estimator sees the same channels, so a resample draws channel indices once and applies them to all: what is common to
all estimators (a channel in a deep fade) cancels in a difference. All statistics are functions of a few sums over channels,
hence one matrix product of the per-channel energies with the resampling counts gives every replicate of every statistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from wichan.errors import InvalidValueError, ShapeError, check_generator, check_int, check_real

#: Ratios below this floor are reported as the floor, so that a perfect estimate reads -300 dB and never -inf.
RATIO_FLOOR = 1e-30
_CHUNK_BYTES = 1 << 25


class Interval(NamedTuple):
    """A statistic with its confidence interval; three float64 tensors of one shape.

    ``low`` and ``high`` are NaN where fewer than two channels were seen: one channel says nothing about spread.
    """

    value: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


class Comparison(NamedTuple):
    """Statistics of E estimators at P points (conditions).

    Attributes:
        nmse: ratio of sums, sum |h - h_hat|^2 / sum |h|^2 over channels, linear, (P, E).
        nmse_mean_of_ratios: mean over channels of |h - h_hat|^2 / |h|^2, linear, (P, E).
        gap_db: ratio-of-sums NMSE over the reference's, dB, (P, E); None without a reference.
        score_db: mean over points of ``gap_db``, (E,); None without a reference.
        linear_gap_db: ratio of the NMSEs averaged over points before the logarithm, dB, (E,); None without a reference.
    """

    nmse: Interval
    nmse_mean_of_ratios: Interval
    gap_db: Interval | None
    score_db: Interval | None
    linear_gap_db: Interval | None


class Beside(NamedTuple):
    """A comparison, and sums of further numbers on the same resamples.

    Attributes:
        comparison: see `compare`.
        sums: for each point, over its channels, (num_rows, 1).
        replicates: for each point, over resamples, (num_rows, num_resamples).
    """

    comparison: Comparison
    sums: list[torch.Tensor]
    replicates: list[torch.Tensor]


def to_db(ratio: torch.Tensor) -> torch.Tensor:
    """10 log10 of a power ratio, floored at `RATIO_FLOOR` (-300 dB)."""
    return 10 * torch.log10(ratio.clamp_min(RATIO_FLOOR))


def resampled_sums(values: torch.Tensor, num_resamples: int, *, generator: torch.Generator) -> torch.Tensor:
    r"""Sums over bootstrap resamples of the channels, with the same resamples for every row.

    .. math:: s_{kr} = \sum_c w_{rc}\, v_{kc}, \qquad w_r \sim \mathrm{Multinomial}(C; 1/C, \dots, 1/C)

    Args:
        values: real, (num_rows, num_channels).
        num_resamples: number R of resamples.
        generator: source of the resamples.

    Returns:
        float64, (num_rows, R). Costs 2 R C num_rows FLOPs; the counts are made in chunks of 32 MiB.
    """
    check_generator("generator", generator)
    check_int("num_resamples", num_resamples, minimum=1)
    if values.dim() != 2 or values.shape[1] < 1:
        raise ShapeError(f"values has shape {tuple(values.shape)}; it must be (num_rows, num_channels)")
    values = values.to("cpu", torch.float64)
    num_channels = values.shape[1]
    step = max(1, _CHUNK_BYTES // (8 * num_channels))
    parts = []
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        index = torch.randint(num_channels, (rows, num_channels), generator=generator)
        counts = torch.zeros(rows, num_channels, dtype=torch.float64)
        counts.scatter_add_(1, index, torch.ones(1, 1, dtype=torch.float64).expand(rows, num_channels))
        parts.append(values @ counts.T)
    return torch.cat(parts, dim=1)


def percentile_interval(value: torch.Tensor, replicates: torch.Tensor, confidence: float = 0.95) -> Interval:
    """Percentile bootstrap interval; invariant under monotone maps, so dB and linear intervals agree.

    Args:
        value: the statistic on all channels, any shape S.
        replicates: the statistic on R resamples, (\\*S, R).
        confidence: coverage, between 0 and 1.
    """
    check_real("confidence", confidence, minimum=1e-6, maximum=1 - 1e-6)
    tail = (1 - confidence) / 2
    low, high = torch.quantile(replicates, torch.tensor([tail, 1 - tail], dtype=replicates.dtype), dim=-1)
    return Interval(value, low, high)


def median_interval(values: torch.Tensor, confidence: float = 0.95) -> Interval:
    r"""Median over channels with its percentile bootstrap interval, exact: that of infinitely many resamples.

    The median of C draws with replacement is at most the k-th smallest value with the probability that at least half of them
    fall on the k smallest, :math:`P(\mathrm{Bin}(C, k/C) \ge \lceil C/2 \rceil)` [Efron1979]_.

    Args:
        values: real, (\*batch, num_channels); of an even number the lower one of the two in the middle is the median.
        confidence: coverage, between 0 and 1.

    Returns:
        `Interval`, float64, each (\*batch); values that hold a NaN give NaN.
    """
    from scipy.special import betainc

    check_real("confidence", confidence, minimum=1e-6, maximum=1 - 1e-6)
    if values.dim() < 1 or values.shape[-1] < 1:
        raise ShapeError(f"values has shape {tuple(values.shape)}; it must be (*batch, num_channels) with at least 1 channel")
    ordered = values.to("cpu", torch.float64).sort(dim=-1).values
    ordered = torch.where(ordered.isnan().any(dim=-1, keepdim=True), torch.nan, ordered)
    count = ordered.shape[-1]
    half = (count + 1) // 2
    if count == 1:
        nothing = torch.full_like(ordered[..., 0], torch.nan)
        return Interval(ordered[..., 0], nothing, nothing)
    below = torch.from_numpy(betainc(half, count - half + 1, torch.arange(1, count + 1, dtype=torch.float64).numpy() / count))
    tail = (1 - confidence) / 2
    low, high = (min(int((below < level).sum()), count - 1) for level in (tail, 1 - tail))
    return Interval(ordered[..., half - 1], ordered[..., low], ordered[..., high])


def nmse_interval(
    errors: torch.Tensor,
    energies: torch.Tensor,
    *,
    generator: torch.Generator,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Ratio-of-sums NMSE of one or several estimators with its interval (linear).

    Args:
        errors: |h - h_hat|^2 summed over each channel, (\\*estimators, num_channels).
        energies: |h|^2 summed over each channel, (num_channels,).
        generator: source of the resamples.
        num_resamples: bootstrap resamples.
        confidence: coverage of the interval.
    """
    single = errors.dim() == 1
    rows = errors[None] if single else errors.reshape(-1, errors.shape[-1])
    nmse = compare([rows], [energies], generator=generator, num_resamples=num_resamples, confidence=confidence).nmse
    return Interval(*(part[0].reshape(errors.shape[:-1]) for part in nmse))


def compare(
    errors: Sequence[torch.Tensor],
    energies: Sequence[torch.Tensor],
    *,
    generator: torch.Generator,
    reference: int | None = None,
    common: bool = False,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Comparison:
    """Compare E estimators at P points with paired intervals.

    Args:
        errors: for each point, |h - h_hat|^2 summed over each channel, (E, num_channels of the point).
        energies: for each point, |h|^2 summed over each channel, (num_channels of the point,).
        generator: source of the resamples.
        reference: row of the estimator that gaps refer to.
        common: channel c is the same random draw at every point (common random numbers), so points are resampled together.
        num_resamples: bootstrap resamples.
        confidence: coverage of the intervals.

    Raises:
        ShapeError: shapes that do not fit together.
        InvalidValueError: NaN, a negative energy, a channel without energy, or a point without channels.
    """
    return compare_beside(
        errors,
        energies,
        generator=generator,
        reference=reference,
        common=common,
        num_resamples=num_resamples,
        confidence=confidence,
    ).comparison


def compare_beside(
    errors: Sequence[torch.Tensor],
    energies: Sequence[torch.Tensor],
    others: Sequence[torch.Tensor] | None = None,
    *,
    generator: torch.Generator,
    reference: int | None = None,
    common: bool = False,
    num_resamples: int = 2000,
    confidence: float = 0.95,
) -> Beside:
    """`compare`, and on the same resamples the sums of ``others``: for each point (num_rows, num_channels of the point)."""
    _check(errors, energies, reference, common)
    num_estimators = errors[0].shape[0]
    own = 2 * num_estimators + 1
    rows = [_rows(*point) for point in zip(errors, energies, strict=True)]
    if others is not None:
        rows = [torch.cat([mine, other.to(mine)]) for mine, other in zip(rows, others, strict=True)]
    sums, replicates = [row.sum(dim=1, keepdim=True) for row in rows], _replicates(rows, num_resamples, generator, common)
    counts = torch.tensor([energy.numel() for energy in energies], dtype=torch.float64)[:, None, None]
    exact = _statistics(torch.stack([total[:own] for total in sums]), counts, num_estimators, reference)
    resampled = _statistics(torch.stack([copy[:own] for copy in replicates]), counts, num_estimators, reference)
    intervals = [
        None if value is None or copies is None else percentile_interval(value[..., 0], copies, confidence)
        for value, copies in zip(exact, resampled, strict=True)
    ]
    comparison = Comparison(*intervals)  # type: ignore[arg-type]
    return Beside(comparison, [total[own:] for total in sums], [copy[own:] for copy in replicates])


def _replicates(
    rows: Sequence[torch.Tensor], num_resamples: int, generator: torch.Generator, common: bool
) -> list[torch.Tensor]:
    """Resampled sums of each point's rows; NaN where one channel says nothing about spread."""
    if common:
        joined = resampled_sums(torch.cat(list(rows)), num_resamples, generator=generator)
        copies = list(joined.split([row.shape[0] for row in rows]))
    else:
        copies = [resampled_sums(row, num_resamples, generator=generator) for row in rows]
    return [copy if row.shape[1] > 1 else torch.full_like(copy, torch.nan) for copy, row in zip(copies, rows, strict=True)]


def _rows(error: torch.Tensor, energy: torch.Tensor) -> torch.Tensor:
    """Everything that is summed over channels: energy, errors, ratios; (2E + 1, num_channels)."""
    error, energy = error.to("cpu", torch.float64), energy.to("cpu", torch.float64)
    return torch.cat([energy[None], error, error / energy])


def _statistics(
    sums: torch.Tensor, counts: torch.Tensor, num_estimators: int, reference: int | None
) -> tuple[torch.Tensor | None, ...]:
    """All statistics from sums (P, 2E + 1, R); exact ones are the case R = 1."""
    energy, error, ratio = sums.split([1, num_estimators, num_estimators], dim=1)
    nmse = error / energy
    mean_of_ratios = ratio / counts
    if reference is None:
        return nmse, mean_of_ratios, None, None, None
    level = to_db(nmse)
    gap = level - level[:, reference : reference + 1]
    linear = to_db(nmse.mean(dim=0))
    return nmse, mean_of_ratios, gap, gap.mean(dim=0), linear - linear[reference : reference + 1]


def _check(errors: Sequence[torch.Tensor], energies: Sequence[torch.Tensor], reference: int | None, common: bool) -> None:
    if not errors or len(errors) != len(energies):
        raise ShapeError(f"errors has {len(errors)} points and energies {len(energies)}; both need the same number, at least 1")
    shapes = [tuple(error.shape) for error in errors]
    wanted = [(shapes[0][0], energy.numel()) for energy in energies] if shapes[0] else []
    if shapes != wanted:
        raise ShapeError(f"errors has shapes {shapes}; one (num_estimators, num_channels) a point must fit the energies")
    if common and len({shape[1] for shape in shapes}) > 1:
        raise ShapeError(f"common=True needs the same number of channels at every point, got {[s[1] for s in shapes]}")
    if reference is not None:
        check_int("reference", reference, minimum=0, maximum=shapes[0][0] - 1)
    for error, energy in zip(errors, energies, strict=True):
        if not energy.numel():
            raise InvalidValueError("energies holds a point without channels; every point needs at least 1")
        if not bool(torch.isfinite(error).all()) or bool((error < 0).any()):
            raise InvalidValueError("errors holds a negative, NaN or infinite value; squared errors are finite and >= 0")
        if not bool(torch.isfinite(energy).all()) or bool((energy <= 0).any()):
            raise InvalidValueError("energies holds a value that is not finite and above 0; NMSE is undefined for h = 0")
