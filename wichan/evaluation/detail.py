"""More than one number a point: NMSE of every resource element, calibration of ``err_var``, and what a detector makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int
from wichan.evaluation.detection import DrawSource, Link, pick, systematic
from wichan.evaluation.modulation import MODULATIONS, QAM
from wichan.evaluation.statistics import RATIO_FLOOR, Interval, percentile_interval, to_db
from wichan.grid import OFDMGrid
from wichan.metrics import Calibration, calibration

if TYPE_CHECKING:
    from wichan.evaluation.feeds import Feed, Sample

NUM_BINS = 10
_CALIBRATION_ELEMENTS = 1 << 16  # of a point and estimator, spread over all its frames


@dataclass(frozen=True)
class DetailOptions:
    """How the detail of an evaluation is measured.

    Args:
        modulation: of the data, ``"qpsk"``, ``"16qam"``, ``"64qam"`` or ``"256qam"``.
        num_elements: data elements of each frame that are equalised and detected, evenly spread with a random shift; None for
            all. Channels differ far more than the elements of one channel, so a part serves as well as all.
        num_streams: unit-power streams, one a transmit antenna; default as many as both ends can serve,
            min(num_rx_ant, num_tx_ant). With more antennas than streams, elements take the antennas in turn.
        point: the point that pictures show, one of ``points``; default the middle one.
    """

    modulation: str = "16qam"
    num_elements: int | None = 240
    num_streams: int | None = None
    point: float | str | None = None

    def __post_init__(self) -> None:
        check_choice("modulation", self.modulation, MODULATIONS)
        for name in ("num_elements", "num_streams"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), minimum=1)


class LinkStatistics(NamedTuple):
    """What a receiver makes of each estimate; the last of the E + 1 columns knows the channel.

    Attributes:
        ber: wrong bits over bits, hard decisions without a code, (P, E + 1). Where no bit is wrong, ``high`` is NaN.
        sinr_db: effective SINR [dB]: the one whose log2(1 + SINR) is the mean over elements and channels, (P, E + 1).
        mean_sinr_db: plain mean of the SINR [dB], (P, E + 1); strong channels rule it.
        loss_db: ``sinr_db`` of the known channel less that of the estimate, paired, (P, E + 1).
    """

    ber: Interval
    sinr_db: Interval
    mean_sinr_db: Interval
    loss_db: Interval


@dataclass(frozen=True)
class Detail:
    """Detail of an evaluation of E estimators at P points.

    Attributes:
        options: how it was measured, defaults filled in.
        point: position of the point that pictures show.
        grid: the OFDM lattice.
        mask: where pilots are, bool (T, F).
        resource_elements: sum |h - h_hat|^2 / sum |h|^2 over channels and antennas, linear, (P, E, T, F); None where pilots or
            grid change from point to point.
        reliability: calibration by decile of ``err_var``, each field (P, E, 10); NaN where an estimator claims none.
        link: bit errors and SINR, or None where every element carries a pilot.
        num_bits: bits counted at each point.
    """

    options: DetailOptions
    point: int
    grid: OFDMGrid
    mask: torch.Tensor
    resource_elements: torch.Tensor | None
    reliability: Calibration
    link: LinkStatistics | None
    num_bits: tuple[int, ...]


class Outcome(NamedTuple):
    """What an estimator made of a batch.

    Attributes:
        h_hat: the estimate.
        err_var: claimed variance or None.
        error: squared error over antennas, (n, T, F).
        seconds: wall time that it took.
        coefficients: of a sparse estimator, else None.
        dictionary: what these refer to; None: not known.
    """

    h_hat: torch.Tensor
    err_var: torch.Tensor | None
    error: torch.Tensor
    seconds: float = math.nan
    coefficients: torch.Tensor | None = None
    dictionary: Any = None


def point_index(points: Sequence[float | str], point: Any, field: str = "point") -> int:
    """Position of a point; None is the middle one. A number may be rounded to the 3 digits that a table shows."""
    if point is None:
        return len(points) // 2
    for index, known in enumerate(points):
        if known == point:
            return index
        numbers = isinstance(known, (int, float)) and isinstance(point, (int, float)) and not isinstance(point, bool)
        if numbers and abs(float(known) - float(point)) <= 1e-3 * abs(float(known)):
            return index
    shown = ", ".join(f"{p:.4g}" if isinstance(p, float) else str(p) for p in points)
    raise InvalidValueError(f"{field}={point!r} is not among the points: {shown}")


def check_detail(detail: Any) -> DetailOptions | None:
    """Options of ``detail=``: True for the defaults, False or None for no detail."""
    if isinstance(detail, DetailOptions):
        return detail
    if detail is None or isinstance(detail, bool):
        return DetailOptions() if detail else None
    raise InvalidTypeError(f"detail must be True, False or DetailOptions, got {type(detail).__name__}")


class DetailTotals:
    """Adds up the detail batch by batch; see `Detail`."""

    def __init__(self, feed: Feed, num_estimators: int, options: DetailOptions) -> None:
        setting = feed.setting
        source, observation = setting.link.source, setting.observation
        limit = min(source.num_rx_ant, source.num_tx_ant)
        streams = limit if options.num_streams is None else options.num_streams
        check_int("num_streams", streams, minimum=1, maximum=source.num_tx_ant)
        mask = observation.mask.cpu()
        qam = QAM(options.modulation)
        self._link = Link(mask, qam, options.num_elements, streams, source.num_tx_ant)
        self.point = point_index(feed.points, options.point)
        self.options = replace(
            options, num_elements=self._link.num_elements or None, num_streams=streams, point=feed.points[self.point]
        )
        self.grid, self.mask = setting.grid, mask
        count = len(feed.points)
        sizes = (streams, source.num_rx_ant, self._link.num_elements)
        # Points that share their channels share data and noise too.
        keys = [0] * count if feed.common else list(range(count))
        self._sources = [DrawSource(qam, sizes, setting.seed, key) for key in keys]
        self._energy = torch.zeros(count, *mask.shape, dtype=torch.float64)
        self._error = torch.zeros(count, num_estimators, *mask.shape, dtype=torch.float64)
        self._sums: list[list[torch.Tensor]] = [[] for _ in range(count)]
        antennas = source.num_rx_ant * source.num_tx_ant
        frame = max(1, _CALIBRATION_ELEMENTS * count // (feed.total * antennas))
        self._kept = min(frame, mask.numel())
        Claims = list[list[tuple[torch.Tensor, torch.Tensor]]]
        self._claims: list[Claims] = [[[] for _ in range(num_estimators)] for _ in range(count)]

    def add(self, sample: Sample, energy: torch.Tensor, outcomes: Sequence[Outcome]) -> None:
        """Add a batch; ``energy`` is |h|^2 over antennas, float64 (n, T, F)."""
        start = 0
        runs, counts = sample.point.unique_consecutive(return_counts=True)
        for point, count in zip(runs.tolist(), counts.tolist(), strict=True):
            here = slice(start, start + count)
            self._energy[point] += energy[here].sum(dim=0).cpu()
            self._error[point] += torch.stack([outcome.error[here].sum(dim=0) for outcome in outcomes]).cpu()
            draws = self._sources[point].take(count)
            h, no = sample.h[here], sample.no[here]
            pairs = [(one.h_hat[here], None if one.err_var is None else one.err_var[here]) for one in outcomes]
            if self._link.num_elements:
                self._sums[point].append(self._link.measure(h, pairs, no, draws))
            places = systematic(draws.offset[:, 1], self._kept, self.mask.numel()).to(h.device)
            truth = pick(h, places)
            for e, (h_hat, err_var) in enumerate(pairs):
                if err_var is not None:
                    error = (pick(h_hat, places) - truth).cpu().flatten()
                    self._claims[point][e].append((error, pick(err_var, places).cpu().flatten()))
            start += count

    def rows(self) -> list[torch.Tensor] | None:
        """What is summed over channels, for each point float64 (3 (E + 1), n); None where there is no data."""
        if not self._link.num_elements:
            return None
        return [torch.cat(parts, dim=-1).flatten(0, 1) for parts in self._sums]

    def result(self, sums: Sequence[torch.Tensor], copies: Sequence[torch.Tensor], num_channels: Sequence[int]) -> Detail:
        """The detail from sums of `rows`, exact (rows, 1) and resampled (rows, R), for each point."""
        link = None
        if self._link.num_elements and sums[0].numel():
            frames = torch.tensor(num_channels, dtype=torch.float64)[:, None, None]
            exact = self._statistics(torch.stack(list(sums)), frames)
            resampled = self._statistics(torch.stack(list(copies)), frames)
            intervals = [percentile_interval(value[..., 0], many) for value, many in zip(exact, resampled, strict=True)]
            ber = intervals[0]
            # A resample of channels without a wrong bit has none either: that says nothing about how rare they are.
            intervals[0] = ber._replace(high=torch.where(ber.value > 0, ber.high, torch.nan))
            link = LinkStatistics(*intervals)
        return Detail(
            self.options,
            self.point,
            self.grid,
            self.mask,
            self._error / self._energy[:, None].clamp_min(RATIO_FLOOR),
            self._reliability(),
            link,
            tuple(self._link.bits_per_frame * n for n in num_channels),
        )

    def _statistics(self, sums: torch.Tensor, frames: torch.Tensor) -> list[torch.Tensor]:
        wrong, information, sinr = sums.unflatten(1, (3, -1)).unbind(1)
        level = to_db(torch.exp2(information / (frames * self._link.symbols_per_frame)) - 1)
        mean = to_db(sinr / (frames * self._link.symbols_per_frame))
        return [wrong / (frames * self._link.bits_per_frame), level, mean, level[:, -1:] - level]

    def _reliability(self) -> Calibration:
        tables = [[_calibration(claims) for claims in of_point] for of_point in self._claims]
        fields = zip(*[zip(*of_point, strict=True) for of_point in tables], strict=True)
        return Calibration(*(torch.stack([torch.stack(row) for row in field]) for field in fields))


def merged_details(details: Sequence[Detail], points: Sequence[float | str], options: DetailOptions) -> Detail:
    """The detail of several links, one a point, as that of one evaluation."""
    first = details[0]
    shown = point_index(points, options.point)
    alike = all(one.grid == first.grid and torch.equal(one.mask, first.mask) for one in details)
    maps = [one.resource_elements for one in details if one.resource_elements is not None]
    links = [one.link for one in details if one.link is not None]
    link = None
    if len(links) == len(details):
        link = LinkStatistics(*(Interval(*map(torch.cat, zip(*column, strict=True))) for column in zip(*links, strict=True)))
    return Detail(
        replace(first.options, point=points[shown]),
        shown,
        first.grid,
        first.mask,
        torch.cat(maps) if alike and len(maps) == len(details) else None,
        Calibration(*map(torch.cat, zip(*(one.reliability for one in details), strict=True))),
        link,
        tuple(count for one in details for count in one.num_bits),
    )


def _calibration(claims: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Calibration:
    """Calibration by decile; a claim of 0, which no error can be divided by, is left out."""
    if claims:
        error, variance = (torch.cat(parts) for parts in zip(*claims, strict=True))
        sure = variance > 0
        if int(sure.sum()) >= NUM_BINS:
            return calibration(error[sure], variance[sure], torch.zeros_like(error[sure]), NUM_BINS)
    nothing = torch.full((NUM_BINS,), torch.nan, dtype=torch.float64)
    return Calibration(nothing, nothing, nothing, nothing, torch.zeros(NUM_BINS, dtype=torch.int64), nothing)
