"""What is added up beside the squared errors: the detail of an OFDM link, the rate of a quantised one, measures of an IRS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from wichan.errors import InvalidValueError, WichanError
from wichan.evaluation.detail import DetailOptions, DetailTotals, Outcome, merged_details, point_index
from wichan.evaluation.irs_totals import IRSOptions, IRSTotals, open_irs_totals
from wichan.evaluation.statistics import Beside, Interval, percentile_interval

if TYPE_CHECKING:
    from wichan.evaluation.feeds import Feed, Sample


class Totals(Protocol):
    """Sums over the channels of a feed, batch by batch."""

    def add(self, sample: Sample, energy: torch.Tensor, outcomes: Sequence[Outcome]) -> None:
        """Add a batch."""

    def rows(self) -> list[torch.Tensor] | None:
        """What is summed over channels, for each point (num_rows, n); None where there is nothing."""


def open_totals(
    feeds: Sequence[Feed],
    num_estimators: int,
    detail: DetailOptions | None,
    metrics: Sequence[str],
    *,
    given: bool,
    irs: IRSOptions | None = None,
) -> list[Totals | None]:
    """What each feed is measured for beside NMSE; None: nothing.

    Args:
        feeds: one, or one for every value of a swept setting; their kind decides.
        num_estimators: estimators that run.
        detail: options of the detail; None for none.
        metrics: what was asked for, checked.
        given: whether somebody asked; if not, ``detail`` says whether a rate is measured where the link has one, and what an
            IRS has.
        irs: options for kind ``irs``; None for the defaults.

    Raises:
        InvalidValueError: a metric that needs the detail which was left out, a point to show that is not there, a rate of a
            link without a data phase.
    """
    recipe = feeds[0].setting.recipe
    if recipe.kind == "ofdm":
        missing = [metric for metric in metrics if metric != "nmse"]
        if missing and detail is None:
            raise InvalidValueError(f"metrics={missing[0]!r} needs detail=True")
        if detail is None:
            return [None for _ in feeds]
        if len(feeds) > 1:  # the point that pictures show is one of all
            point_index([point for feed in feeds for point in feed.points], detail.point)
            detail = replace(detail, point=None)
        return [DetailTotals(feed, num_estimators, detail) for feed in feeds]
    if recipe.kind == "irs":
        wanted = [metric for metric in metrics if metric != "nmse"] if given or detail is None else None
        return list(open_irs_totals(feeds, num_estimators, wanted, irs or IRSOptions()))
    if "rate" not in metrics and (given or detail is None):
        return [None for _ in feeds]
    try:
        return [RateTotals(feed, num_estimators) for feed in feeds]
    except WichanError as error:
        if given:
            raise InvalidValueError(f"metric='rate' does not apply to recipe {recipe.name!r}: {error}") from None
        return [None for _ in feeds]


class RateTotals:
    """Adds up the terms of `wichan.evaluation.rate.rate_uatf`; the last of the E + 1 columns knows the channel."""

    def __init__(self, feed: Feed, num_estimators: int) -> None:
        from wichan.evaluation.rate import data_observation

        self._obs = feed.setting.quantized
        data_observation(self._obs)  # a link without a data phase is found before the work
        self._num_estimators = num_estimators
        self._terms: list[list[torch.Tensor]] = [[] for _ in feed.points]

    def add(self, sample: Sample, energy: torch.Tensor, outcomes: Sequence[Outcome]) -> None:
        """Add a batch; ``energy`` is not needed."""
        from wichan.evaluation.rate import rate_terms

        estimates = torch.stack([*(outcome.h_hat.to(sample.h) for outcome in outcomes), sample.h])
        gain, power = (part.cpu() for part in rate_terms(sample.h, estimates, sample.no, self._obs))
        values = torch.stack([gain.real, gain.imag, power])  # (3, E + 1, n, streams)
        for point in sample.point.unique().tolist():
            self._terms[point].append(values[:, :, (sample.point == point).cpu()].movedim(2, -1))

    def rows(self) -> list[torch.Tensor]:
        """Real and imaginary part of the gain, and the power, of every column and stream: (3 (E + 1) streams, n)."""
        return [torch.cat(parts, dim=-1).flatten(0, 2) for parts in self._terms]

    def result(self, sums: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], num_channels: Sequence[int]) -> Interval:
        """The rate [bit/s/Hz], (P, E + 1), from sums of `rows`, exact (rows, 1) and resampled (rows, R), for each point."""
        count = torch.tensor(num_channels, dtype=torch.float64)[:, None, None]
        exact, resampled = (self._rate(torch.stack(list(parts)) / count) for parts in (sums, copies))
        return percentile_interval(exact[..., 0], resampled)

    def _rate(self, means: torch.Tensor) -> torch.Tensor:
        from wichan.evaluation.rate import rate_from_means

        real, imaginary, power = means.unflatten(1, (3, self._num_estimators + 1, -1)).movedim(3, -1).unbind(1)
        return rate_from_means(torch.complex(real, imaginary), power)


def joined_rows(totals: Sequence[Totals | None]) -> list[torch.Tensor] | None:
    """Rows of all points; None where one of the feeds has none."""
    rows = [None if one is None else one.rows() for one in totals]
    return None if any(part is None for part in rows) else [row for part in rows if part is not None for row in part]


def joined_results(
    totals: Sequence[Totals | None],
    beside: Beside,
    num_channels: Sequence[int],
    points: Sequence[float | str],
    options: DetailOptions | None,
) -> dict[str, Any]:
    """Fields of an `Evaluation` that hold what was added up: ``detail``, ``rates`` or ``measures``."""
    single = len(totals) == 1
    parts = [slice(None) if single else slice(i, i + 1) for i in range(len(totals))]
    results = [
        None if one is None else one.result(beside.sums[part], beside.replicates[part], num_channels[part])  # type: ignore[attr-defined]
        for one, part in zip(totals, parts, strict=True)
    ]
    found = [result for result in results if result is not None]
    if len(found) < len(results):
        return {}
    if isinstance(totals[0], DetailTotals):
        return {"detail": found[0] if single or options is None else merged_details(found, points, options)}
    if isinstance(totals[0], IRSTotals):
        return {"measures": {name: _joined([result[name] for result in found]) for name in found[0]}}
    return {"rates": _joined(found)}


def _joined(intervals: Sequence[Interval]) -> Interval:
    """Intervals of several points, one after the other."""
    return Interval(*(torch.cat(fields) for fields in zip(*intervals, strict=True)))
