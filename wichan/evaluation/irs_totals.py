"""What is added up for recipes of kind ``irs``: errors of patterns and symbols, support, spectral efficiency, run time."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from wichan.beamforming.irs_rate import data_share
from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int, check_real
from wichan.evaluation.detail import Outcome
from wichan.evaluation.irs_metrics import (
    beam_gains,
    link_rate,
    nmse_per_pattern,
    qpsk_symbol_error_rate,
    support_recovery_rate,
)
from wichan.evaluation.measures import MEASURES
from wichan.evaluation.statistics import Interval, median_interval, percentile_interval

if TYPE_CHECKING:
    from wichan.evaluation.feeds import Feed, Sample
    from wichan.evaluation.setting import Setting

#: Metrics that are means over channels, so that sums suffice for their intervals.
_MEANS = ("nmse-pattern", "srr", "ser", "se", "time")
#: How the noise of the data phase is set for ``ser``.
SER_NOISE = ("received", "transmitted")


@dataclass(frozen=True)
class IRSOptions:
    """How the metrics of a recipe of kind ``irs`` are measured.

    Args:
        coherence: channel uses over which the channel stays the same, of which the training takes its share: for ``se``.
        threshold: coefficients above this part of the largest one count as found: for ``srr``.
        ser_noise: for ``ser``. ``"received"``: in every pattern the noise is such that a receiver that knows the channel has
            the SNR of the training behind its beams. ``"transmitted"``: power and noise of the training are kept, so that the
            gain of both arrays comes on top of that SNR, and a pattern that cancels the channel suffers.
    """

    coherence: int = 1000
    threshold: float = 1e-4
    ser_noise: str = "received"

    def __post_init__(self) -> None:
        check_int("coherence", self.coherence, minimum=1)
        check_real("threshold", self.threshold, minimum=0.0, maximum=1 - 1e-12)
        check_choice("ser_noise", self.ser_noise, SER_NOISE)


def check_irs(options: Any) -> IRSOptions:
    """Options of ``irs=``; None for the defaults."""
    if options is not None and not isinstance(options, IRSOptions):
        raise InvalidTypeError(f"irs must be IRSOptions or None, got {type(options).__name__}")
    return options or IRSOptions()


def open_irs_totals(
    feeds: Sequence[Feed], num_estimators: int, metrics: Sequence[str] | None, options: IRSOptions
) -> Sequence[IRSTotals | None]:
    """What each feed is measured for beside NMSE; None: nothing.

    Args:
        feeds: of a recipe of kind ``irs``.
        num_estimators: estimators that run.
        metrics: names of `wichan.evaluation.measures.MEASURES`; None for all that the link has but the run time, which no
            seed repeats.
        options: how.

    Raises:
        InvalidValueError: a metric that the link does not have.
    """
    from wichan.evaluation.irs_baselines import has_support

    if metrics is None:
        known = all(has_support(feed.setting) for feed in feeds)
        metrics = [name for name in MEASURES if name != "time" and (known or name != "srr")]
    if not metrics:
        return [None for _ in feeds]
    return [IRSTotals(feed, num_estimators, metrics, options) for feed in feeds]


def _share(setting: Setting, coherence: int) -> float:
    """What is left for data, refused where that is nothing."""
    pilots = setting.irs.pilot_uses
    if pilots >= coherence:
        raise InvalidValueError(
            f"metric='se': coherence={coherence} must be more than {pilots}, the channel uses of the training of recipe "
            f"{setting.recipe.name!r}"
        )
    return data_share(pilots, coherence)


class IRSTotals:
    """Adds up the metrics of one feed, batch by batch.

    Args:
        feed: channels of a recipe of kind ``irs``.
        num_estimators: E.
        metrics: which of `wichan.evaluation.measures.MEASURES`.
        options: how.

    Attributes:
        timed: whether run times are wanted, so that estimators should be warm.

    Raises:
        InvalidValueError: a support rate of channels that have no paths to tell; pilots that fill the coherence time.
    """

    def __init__(self, feed: Feed, num_estimators: int, metrics: Sequence[str], options: IRSOptions) -> None:
        from wichan.evaluation.irs_baselines import TrueSupport

        # A copy: the estimators' own stays where they put it.
        self._observation = copy.deepcopy(feed.setting.irs).to(feed.device)
        self._options, self._num_estimators = options, num_estimators
        self._metrics = tuple(metrics)
        self.timed = "time" in metrics
        # Training that leaves no time for data is refused before the work.
        self._share = _share(feed.setting, options.coherence) if "se" in metrics else 1.0
        self._support = TrueSupport(feed.setting, "metric 'srr'") if "srr" in metrics else None
        self._values: list[dict[str, list[torch.Tensor]]] = [{name: [] for name in self._metrics} for _ in feed.points]

    def add(self, sample: Sample, energy: torch.Tensor, outcomes: Sequence[Outcome]) -> None:
        """Add a batch; ``energy`` is not needed."""
        values = self._measured(sample, outcomes)
        for point in sample.point.unique().tolist():
            here = (sample.point == point).cpu()
            for name, columns in values.items():
                self._values[point][name].append(columns.cpu()[:, here])

    def _measured(self, sample: Sample, outcomes: Sequence[Outcome]) -> dict[str, torch.Tensor]:
        """Every metric of every channel, (columns, n): one column an estimator, and one more that knows the channel."""
        size = len(sample.h)
        found = dict.fromkeys(self._metrics, torch.empty(0))
        if {"nmse-pattern", "nmse-median"} & set(found):
            ratios = torch.stack([nmse_per_pattern(one.h_hat.to(sample.h), sample.h) for one in outcomes])
            found |= {name: ratios for name in found if name.startswith("nmse-")}
        if {"ser", "se"} & set(found):
            found |= self._beamformed(sample, [*(one.h_hat.to(sample.h) for one in outcomes), sample.h])
        if "srr" in found:
            found["srr"] = torch.stack([self._recovered(sample, one) for one in outcomes])
        if "time" in found:
            seconds = torch.tensor([one.seconds / size for one in outcomes], dtype=torch.float64)
            found["time"] = seconds[:, None].expand(-1, size)
        return found

    def _beamformed(self, sample: Sample, estimates: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Symbol errors and spectral efficiency over the beams of each estimate, means over patterns and subcarriers."""
        known = beam_gains(sample.h, sample.h)
        noise = sample.no.double().reshape(-1, 1, 1).expand_as(known.expected)
        snr = self._training_snr(sample)
        behind = known.expected.square() / snr if self._options.ser_noise == "received" else noise
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in ("ser", "se") if name in self._metrics}
        for h_hat in estimates:
            gains = beam_gains(sample.h, h_hat)
            if "ser" in rows:
                rows["ser"].append(qpsk_symbol_error_rate(gains.gain, behind, gains.expected).mean(dim=(-2, -1)))
            if "se" in rows:
                rows["se"].append(self._share * link_rate(gains.gain, noise).mean(dim=(-2, -1)))
        return {name: torch.stack(parts) for name, parts in rows.items()}

    def _training_snr(self, sample: Sample) -> torch.Tensor:
        """What the training's SNR came out as, channel by channel: float64 (n, 1, 1)."""
        clean = self._observation.project(sample.h)
        power = clean.abs().double().square().flatten(1).mean(dim=1)
        return (power / sample.no.double().clamp_min(1e-290)).reshape(-1, 1, 1)

    def _recovered(self, sample: Sample, outcome: Outcome) -> torch.Tensor:
        """Support recovery of one estimator, float64 (n,); NaN where it has no coefficients on a dictionary that is known."""
        assert self._support is not None
        if outcome.coefficients is not None:
            support = self._support(sample.conditions, outcome.dictionary)
            if support is not None and support.shape == outcome.coefficients.shape:
                return support_recovery_rate(outcome.coefficients, support, self._options.threshold)
        return torch.full((len(sample.h),), torch.nan, dtype=torch.float64, device=sample.h.device)

    def rows(self) -> list[torch.Tensor]:
        """What is summed over channels, for each point (columns of all means, n)."""
        return [
            torch.cat([torch.cat(values[name], dim=1) for name in self._means] or [self._nothing(values)])
            for values in self._values
        ]

    @property
    def _means(self) -> list[str]:
        return [name for name in self._metrics if name in _MEANS]

    def _nothing(self, values: Mapping[str, Sequence[torch.Tensor]]) -> torch.Tensor:
        """No row at all, of as many channels as there are."""
        count = sum(part.shape[1] for part in next(iter(values.values()), ()))
        return torch.zeros(0, count, dtype=torch.float64)

    def result(
        self, sums: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], num_channels: Sequence[int]
    ) -> dict[str, Interval]:
        """Metrics, each (P, E) or (P, E + 1), from sums of `rows`, exact (rows, 1) and resampled (rows, R), for each point."""
        count = torch.tensor(num_channels, dtype=torch.float64)[:, None, None]
        exact, resampled = (torch.stack(list(parts)) / count for parts in (sums, copies))
        sizes = [self._num_estimators + (name in ("ser", "se")) for name in self._means]
        parts = zip(self._means, exact.split(sizes, dim=1), resampled.split(sizes, dim=1), strict=True)
        found = {name: percentile_interval(value[..., 0], many) for name, value, many in parts}
        for name, level in found.items():
            if not MEASURES[name].random:  # one measurement of a batch, whatever its channels
                nothing = torch.full_like(level.value, torch.nan)
                found[name] = Interval(level.value, nothing, nothing)
        if "nmse-median" in self._metrics:
            medians = [median_interval(torch.cat(values["nmse-median"], dim=1)) for values in self._values]
            found["nmse-median"] = Interval(*(torch.stack(fields) for fields in zip(*medians, strict=True)))
        return {name: found[name] for name in self._metrics}
