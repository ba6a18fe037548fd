"""The outcome of an evaluation: numbers, where they come from, and ways to show and keep them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError, check_choice
from wichan.evaluation.export import csv_text, json_text
from wichan.evaluation.measures import MEASURES
from wichan.evaluation.statistics import Comparison, Interval, to_db

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from wichan.evaluation.detail import Detail, LinkStatistics
    from wichan.metrics import Calibration

#: What `Evaluation.figure` can draw.
FIGURE_KINDS = ("nmse", "resource_elements", "calibration", "ber", "sinr", "rate", *MEASURES)


@dataclass(frozen=True)
class Evaluation:
    r"""NMSE of E estimators at P points, all on the same channels.

    Attributes:
        sweep: the condition that changes from point to point, a key such as ``"snr_db"``.
        points: its values in SI units (or names, for a condition such as ``profile``).
        estimators: names, in the order in which they were asked for.
        told: for each estimator the conditions that it is told beside the noise variance; empty: none.
        reference: the estimator that gaps refer to, or None.
        num_channels: channels at each point.
        statistics: values with intervals, see `Comparison`.
        calibration: sum |h - h_hat|^2 / sum err_var, (P, E): 1 for an estimator that knows its error, NaN where it
            claims none.
        notes: for each estimator how it was made.
        provenance: recipe, seed, versions, device.
        detail: what ``detail=True`` measured beside, see `Detail`; None without.
        rates: achievable rate of a quantised link [bit/s/Hz], (P, E + 1), by use-and-then-forget; the last column is a receiver
            that knows the channel. None where it was not measured.
        measures: of an IRS, name -> (P, E), or (P, E + 1) where a receiver that knows the channel comes last; see
            `wichan.evaluation.measures.MEASURES`. Errors are ratios, run times seconds; NaN where an estimator has no such
            number.
    """

    sweep: str
    points: tuple[float | str, ...]
    estimators: tuple[str, ...]
    told: tuple[tuple[str, ...], ...]
    reference: str | None
    num_channels: tuple[int, ...]
    statistics: Comparison
    calibration: torch.Tensor
    notes: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    detail: Detail | None = None
    rates: Interval | None = None
    measures: Mapping[str, Interval] = field(default_factory=dict)

    @property
    def nmse_db(self) -> Interval:
        """Ratio-of-sums NMSE with its interval [dB], each (P, E)."""
        return Interval(*(to_db(part) for part in self.statistics.nmse))

    def measured_detail(self) -> Detail:
        """The detail.

        Raises:
            InvalidValueError: an evaluation that was run without.
        """
        if self.detail is None:
            raise InvalidValueError("detail=False: this evaluation holds NMSE only; run it again with detail=True")
        return self.detail

    def link(self) -> LinkStatistics:
        """Bit errors and SINR, (P, E + 1); the last column is a receiver that knows the channel.

        Raises:
            InvalidValueError: no detail, or pilots on every resource element.
        """
        link = self.measured_detail().link
        if link is None:
            raise InvalidValueError("every resource element carries a pilot: there is no data to count bit errors on")
        return link

    @property
    def ber(self) -> Interval:
        """Uncoded bit error rate after LMMSE equalisation with each estimate, (P, E)."""
        return Interval(*(part[:, :-1] for part in self.link().ber))

    @property
    def sinr_db(self) -> Interval:
        """Effective SINR after that equaliser [dB], (P, E): the one whose log2(1 + SINR) is the mean over elements."""
        return Interval(*(part[:, :-1] for part in self.link().sinr_db))

    def measured_rates(self) -> Interval:
        """`rates`.

        Raises:
            InvalidValueError: an evaluation without.
        """
        if self.rates is None:
            raise InvalidValueError("no rate was measured; run again with metrics=('nmse', 'rate') on a quantised link")
        return self.rates

    def measured(self, name: str) -> Interval:
        """One of `measures`.

        Raises:
            InvalidValueError: not measured. UnknownNameError: no such measure.
        """
        if check_choice("metric", name, MEASURES) not in self.measures:
            raise InvalidValueError(f"{name} was not measured; run again with metrics=('nmse', {name!r}) on an IRS link")
        return self.measures[name]

    @property
    def rate(self) -> Interval:
        """Achievable rate with each estimate [bit/s/Hz], (P, E), see `wichan.evaluation.rate_uatf`."""
        return Interval(*(part[:, :-1] for part in self.measured_rates()))

    @property
    def resource_elements(self) -> torch.Tensor:
        """NMSE of every resource element, sum |h - h_hat|^2 / sum |h|^2 over channels and antennas, (P, E, T, F).

        Raises:
            InvalidValueError: no detail, or pilots that change from point to point.
        """
        elements = self.measured_detail().resource_elements
        if elements is None:
            raise InvalidValueError(f"pilots or grid change with {self.sweep}: there is no one map of resource elements")
        return elements

    @property
    def reliability(self) -> Calibration:
        """Claimed against real error by decile of ``err_var``, each field (P, E, 10); NaN for who claims none."""
        return self.measured_detail().reliability

    @property
    def ranking(self) -> list[list[int]]:
        """Estimators, best first: those that are told nothing, then those that are told the conditions."""
        order = self.statistics.score_db.value if self.statistics.score_db else self.nmse_db.value.mean(dim=0)
        best_first = sorted(range(len(self.estimators)), key=lambda index: float(order[index]))
        return [[i for i in best_first if not self.told[i]], [i for i in best_first if self.told[i]]]

    def rows(self) -> list[dict[str, Any]]:
        """One flat record for each estimator and point, in SI units; None where a number does not exist."""
        rows = []
        for e, name in enumerate(self.estimators):
            for p, point in enumerate(self.points):
                row: dict[str, Any] = {
                    "sweep": self.sweep,
                    "point": _plain(point),
                    "estimator": name,
                    "told": " ".join(self.told[e]),
                }
                row["num_channels"] = self.num_channels[p]
                rows.append(row | self._numbers(p, e) | self._scores(e))
        return rows

    def _numbers(self, point: int, estimator: int) -> dict[str, Any]:
        stats = self.statistics
        return (
            _flat("nmse", stats.nmse, (point, estimator))
            | _flat("nmse_db", self.nmse_db, (point, estimator))
            | _flat("nmse_mean_of_ratios", stats.nmse_mean_of_ratios, (point, estimator))
            | _flat("gap_db", stats.gap_db, (point, estimator))
            | {"calibration": _number(self.calibration[point, estimator])}
            | self._link_numbers(point, estimator)
            | self._rate_numbers(point, estimator)
            | self._measure_numbers(point, estimator)
        )

    def _measure_numbers(self, point: int, estimator: int) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for metric, interval in self.measures.items():
            name = metric.replace("-", "_")
            numbers |= _flat(name, interval, (point, estimator))
            if MEASURES[metric].known:
                numbers[f"{name}_perfect"] = _number(interval.value[point, -1])
        return numbers

    def _rate_numbers(self, point: int, estimator: int) -> dict[str, Any]:
        if self.rates is None:
            return {}
        return _flat("rate", self.rates, (point, estimator)) | {"rate_perfect": _number(self.rates.value[point, -1])}

    def _link_numbers(self, point: int, estimator: int) -> dict[str, Any]:
        """Columns of the detail; none without it."""
        if self.detail is None or self.detail.link is None:
            return {}
        numbers: dict[str, Any] = {}
        for name, interval in self.detail.link._asdict().items():
            numbers |= _flat(name, interval, (point, estimator))
            if name != "loss_db":
                numbers[f"{name}_perfect"] = _number(interval.value[point, -1])
        return numbers | {"num_bits": self.detail.num_bits[point]}

    def _decile_numbers(self, point: int, estimator: int) -> dict[str, Any]:
        if self.detail is None:
            return {}
        table = self.detail.reliability
        deciles = {name: [_number(x) for x in field[point, estimator]] for name, field in table._asdict().items()}
        return {"deciles": None if deciles["mean_err_var"][0] is None else deciles}

    def _scores(self, estimator: int) -> dict[str, Any]:
        stats = self.statistics
        return _flat("score_db", stats.score_db, (estimator,)) | _flat("linear_gap_db", stats.linear_gap_db, (estimator,))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types."""
        results = [
            {"name": name, "told": list(self.told[e]), "note": self.notes.get(name, "")}
            | self._scores(e)
            | {
                "points": [
                    {"point": _plain(point)} | self._numbers(p, e) | self._decile_numbers(p, e)
                    for p, point in enumerate(self.points)
                ]
            }
            for e, name in enumerate(self.estimators)
        ]
        settings = {} if self.detail is None else {"detail": asdict(self.detail.options)}
        return {
            **self.provenance,
            "sweep": self.sweep,
            "points": [_plain(point) for point in self.points],
            "num_channels": list(self.num_channels),
            "reference": self.reference,
            **settings,
            "ranking": [[self.estimators[i] for i in group] for group in self.ranking],
            "estimators": results,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON text; also written to ``path`` if given."""
        text = json_text(self.to_dict())
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_csv(self, path: str | Path | None = None) -> str:
        """CSV text, one line for each estimator and point, full precision; also written to ``path`` if given."""
        text = csv_text(self.rows())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def table(self, metric: str = "nmse") -> str:
        """The table of ``"nmse"``, ``"ber"``, ``"sinr"``, ``"rate"`` or one of `measures` as aligned plain text."""
        from wichan.evaluation.table import plain_table

        return plain_table(self, metric)

    def figure(self, path: str | Path, kind: str = "nmse", *, point: float | str | None = None) -> Path:
        """Write a picture as a PNG (needs matplotlib).

        Args:
            path: file to write, ``*.png``.
            kind: ``"nmse"`` for the curves with their bands; of the detail ``"resource_elements"``, ``"calibration"``,
                ``"ber"`` or ``"sinr"``; ``"rate"`` of a quantised link; one of `measures`.
            point: for ``"resource_elements"`` and ``"calibration"``: the point to show, one of ``points``.

        Raises:
            InvalidValueError: an unknown kind or point, or a picture of a detail that was not measured.
        """
        check_choice("kind", kind, FIGURE_KINDS)
        if kind == "nmse":
            from wichan.evaluation.figure import curve_figure

            return curve_figure(self, path)
        if kind in MEASURES:
            from wichan.evaluation.measure_figure import measure_figure

            return measure_figure(self, path, kind)
        from wichan.evaluation.detail_figure import FIGURES

        return FIGURES[kind](self, path) if kind in ("ber", "sinr", "rate") else FIGURES[kind](self, path, point=point)

    def _repr_png_(self) -> bytes:
        """In a notebook, an evaluation shows itself as its figure."""
        from wichan.evaluation.figure import curve_png

        return curve_png(self)

    def save(self, folder: str | Path, name: str | None = None, *, kinds: Sequence[str] = ()) -> list[Path]:
        """Write ``NAME.csv``, ``NAME.json`` and ``NAME.png`` into ``folder``; returns their paths.

        Args:
            folder: made if it is not there.
            name: default ``evaluate_SWEEP``.
            kinds: further pictures as in `figure`, each ``NAME_KIND.png``; `drawable` names those that can be drawn.
        """
        for kind in kinds:
            check_choice("kinds", kind, FIGURE_KINDS)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / (name or f"evaluate_{self.sweep}")
        paths = [stem.with_name(stem.name + suffix) for suffix in (".csv", ".json", ".png")]
        self.to_csv(paths[0])
        self.to_json(paths[1])
        self.figure(paths[2])
        return paths + [self.figure(stem.with_name(f"{stem.name}_{kind}.png"), kind) for kind in kinds if kind != "nmse"]

    @property
    def drawable(self) -> tuple[str, ...]:
        """Kinds of pictures beside NMSE that there are numbers for."""
        if self.detail is None:
            return (*(() if self.rates is None else ("rate",)), *self.measures)
        claimed = not bool(self.detail.reliability.mean_err_var.isnan().all())
        kinds = {
            "resource_elements": self.detail.resource_elements is not None,
            "calibration": claimed,
            "ber": self.detail.link is not None,
        }
        kinds["sinr"] = kinds["ber"]
        return tuple(kind for kind in FIGURE_KINDS if kinds.get(kind))

    def __str__(self) -> str:
        return self.table()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from wichan.evaluation.table import rich_table

        yield rich_table(self, options.max_width)


def _plain(point: float | str) -> float | str:
    """A point as JSON has it: infinity, as of a converter without quantisation, is a word."""
    return "inf" if point == math.inf else point


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _flat(name: str, interval: Interval | None, index: tuple[int, ...]) -> dict[str, Any]:
    keys = (name, f"{name}_low", f"{name}_high")
    if interval is None:
        return dict.fromkeys(keys)
    return {key: _number(part[index]) for key, part in zip(keys, interval, strict=True)}
