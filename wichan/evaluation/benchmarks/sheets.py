"""What the tables of a benchmark hold, before it is set in plain text or on a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wichan.errors import InvalidValueError
from wichan.evaluation.benchmarks.literature import published_rows
from wichan.evaluation.benchmarks.result import BenchmarkResult, matching
from wichan.evaluation.benchmarks.scenarios import settings
from wichan.evaluation.statistics import Interval

_TRAINING_SPEEDS = (1.0, 10.0, 30.0)
_SPEEDS = (1.0, 3.0, 6.0, 10.0, 15.0, 30.0, 45.0)


@dataclass
class Sheet:
    """One table.

    Attributes:
        title: what it shows.
        header: names of the columns, the first that of the rows.
        rows: cells as text.
        best: places (row, column) of the best of our predictors in each column.
        caption: one line below.
        published: rows from here on are published numbers; None: there are none.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]] = field(default_factory=set)
    caption: str = ""
    published: int | None = None


@dataclass(frozen=True)
class _Plan:
    """A table of mean NMSE over one axis."""

    key: str
    title: str
    axis: str
    where: dict[str, Any]
    only: tuple[float, ...] | None = None
    mean: bool = False


_PLANS = (
    _Plan(
        "regular-20db-speed",
        "Regular cells at 20 dB, by speed [m/s]",
        "speed",
        {"category": "regular", "degree": 20.0},
        mean=True,
    ),
    _Plan("regular-snr", "Regular cells, by SNR [dB]", "degree", {"category": "regular"}),
    _Plan("regular-profile", "Regular cells, by CDL profile", "profile", {"category": "regular"}),
    _Plan("regular-delay", "Regular cells, by delay spread [ns]", "delay_spread", {"category": "regular"}),
    _Plan("robustness-phase", "Phase noise, by its SNR [dB]", "degree", {"category": "robustness", "noise": "phase"}),
    _Plan("robustness-burst", "Bursts, by their SNR [dB]", "degree", {"category": "robustness", "noise": "burst"}),
    _Plan("robustness-drop", "Lost snapshots, by rate [%]", "degree", {"category": "robustness", "noise": "drop"}),
    _Plan("generalization-profile", "Generalization, by CDL profile", "profile", {"category": "generalization"}),
    _Plan("generalization-delay", "Generalization, by delay spread [ns]", "delay_spread", {"category": "generalization"}),
    _Plan("generalization-speed", "Generalization, by speed [m/s]", "speed", {"category": "generalization"}, only=_SPEEDS),
)
#: Tables whose published rows are means over the training speeds only.
_AT_TRAINING_SPEEDS = ("generalization-profile", "generalization-delay")
_NEEDED = {"regular": 162, "robustness": 486, "generalization": 3060}


def sheets(result: BenchmarkResult) -> list[Sheet]:
    """All tables of a result; those that there are no settings for are left out."""
    tables = [_places(result, category) for category in result.categories]
    for plan in _PLANS:
        where = dict(plan.where)
        full = sum(s.category == "generalization" for s in result.settings) == _NEEDED["generalization"]
        note = ""
        if plan.key in _AT_TRAINING_SPEEDS and full:
            where["speed"], note = _TRAINING_SPEEDS, ", speeds 1, 10 and 30 m/s"
        try:
            values = result.axis(plan.axis, **where)
        except InvalidValueError:
            continue
        values = [value for value in values if plan.only is None or any(math.isclose(value, kept) for kept in plan.only)]
        if values:
            tables.append(_over(result, plan, where, values, note))
    return tables


def _places(result: BenchmarkResult, category: str) -> Sheet:
    """Means and places in a category, best mean rank first."""
    where = {"category": category}
    nmse, pooled, se = (result.mean(score, **where) for score in ("nmse", "nmse_pooled", "se"))
    places, gains = result.standing("nmse", **where), result.standing("se", **where)
    order = sorted(range(len(result.predictors)), key=lambda m: float(places.rank.value[m]))
    chosen = result.select(**where)
    rows = [
        [
            result.predictors[m],
            _with_interval(nmse, m),
            _nmse(float(pooled.value[m])),
            f"{float(se.value[m]):.3f}",
            _percent(places.first, m),
            _rank(places.rank, m),
            _percent(gains.first, m),
            _rank(gains.rank, m),
            _ratio(float(result.scores.calibration[chosen, m].median())),
        ]
        for m in order
    ]
    views = sum(result.num_samples[s] for s in chosen)
    se0 = float(result.scores.se0[chosen].mean())
    caption = f"{len(chosen):,} settings, {views:,} views; SE with the true channel {se0:.3f} bit/s/Hz; [95 % intervals]; "
    caption += "calibration: real over claimed squared error, the median of settings"
    header = ["predictor", "NMSE", "pooled", "SE", "1st by NMSE %", "rank by NMSE", "1st by SE %", "rank by SE", "calibration"]
    title = f"{category.capitalize()} ({result.duplex.upper()})"
    sheet = Sheet(title, header, rows, {(0, 0)} if rows else set(), caption)
    return _with_shares(sheet, result, category) if result.published else sheet


def _with_shares(sheet: Sheet, result: BenchmarkResult, category: str) -> Sheet:
    """Add published shares of first ranks (among the published methods)."""
    shares = {key: published_rows(f"first-{key}", result.duplex, [category]) for key in ("nmse", "se")}
    methods = list(dict.fromkeys([*shares["nmse"], *shares["se"]]))
    sheet.published = len(sheet.rows)
    for method in methods:
        nmse, se = (_shown(shares[key].get(method, [None])[0], ".1f") for key in ("nmse", "se"))
        sheet.rows.append([f"{method} (published)", "", "", "", nmse, "", se, "", ""])
    return sheet


def _over(result: BenchmarkResult, plan: _Plan, where: dict[str, Any], values: list[Any], note: str) -> Sheet:
    """Mean NMSE over one axis."""
    columns = [result.mean("nmse", **where | {plan.axis: value}) for value in values]
    keys: list[Any] = list(values)
    if plan.mean and len(values) > 1:
        columns.append(result.mean("nmse", **where))
        keys.append("mean")
    rows = [[name, *(_nmse(float(column.value[m])) for column in columns)] for m, name in enumerate(result.predictors)]
    best = {(int(column.value.argmin()), number + 1) for number, column in enumerate(columns)}
    header = ["NMSE", *(axis_text(plan.key, plan.axis, key) for key in keys)]
    widest = max(float(((column.high - column.low) / 2 / column.value).nan_to_num(0.0).max()) for column in columns)
    spread = f"95 % intervals at most ±{100 * widest:.0f} %" if widest > 0 else "no intervals from one sample"
    sheet = Sheet(f"{plan.title}{note}", header, rows, best, spread)
    if result.published:
        sheet.published = len(rows)
        for method, numbers in published_rows(plan.key, result.duplex, keys).items():
            sheet.rows.append([f"{method} (published)", *(_shown(number, "") for number in numbers)])
        if len(sheet.rows) > sheet.published:
            sheet.caption += _coverage(result, plan, where, values)
    return sheet


def _coverage(result: BenchmarkResult, plan: _Plan, where: dict[str, Any], values: list[Any]) -> str:
    """A warning where the published rows are means over other settings than ours; empty where they are not."""
    theirs = dict(plan.where)
    if plan.key in _AT_TRAINING_SPEEDS:
        theirs["speed"] = _TRAINING_SPEEDS
    every = settings(result.duplex, [plan.where["category"]])
    wanted = {every[s].name for s in matching(every, theirs | {plan.axis: values})}
    have = {result.settings[s].name for s in result.select(**where | {plan.axis: values})}
    if have == wanted:
        return ""
    return (
        f"; published rows are means over {len(wanted):,} settings, of which this run has {len(have & wanted):,}"
        + (f" and {len(have - wanted):,} others" if have - wanted else "")
        + ": not the same average"
    )


def axis_text(key: str, axis: str, value: Any) -> str:
    """A value of an axis as tables show it: ns for delay spreads, percent for lost snapshots."""
    if isinstance(value, str):
        return value
    if axis == "delay_spread":
        return f"{value * 1e9:.0f}"
    return f"{100 * value:.0f}" if key == "robustness-drop" else f"{value:g}"


def _nmse(value: float) -> str:
    if value >= 0.01:
        return f"{value:.3f}"
    return f"{value:.4f}" if value >= 0.001 or value == 0 else f"{value:.0e}"


def _shown(number: float | None, form: str) -> str:
    return "" if number is None else (_nmse(number) if not form else format(number, form))


def _with_interval(interval: Interval, m: int) -> str:
    value, low, high = (float(part[m]) for part in interval)
    return _nmse(value) if math.isnan(low) else f"{_nmse(value)} [{_nmse(low)}, {_nmse(high)}]"


def _percent(interval: Interval, m: int) -> str:
    value, low, high = (100 * float(part[m]) for part in interval)
    return f"{value:.1f}" if math.isnan(low) else f"{value:.1f} [{low:.0f}, {high:.0f}]"


def _rank(interval: Interval, m: int) -> str:
    value, low, high = (float(part[m]) for part in interval)
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _ratio(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def caption_of(result: BenchmarkResult) -> Sequence[str]:
    """Lines below all tables: what the numbers are."""
    counts = sorted(set(result.num_samples))
    samples = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    plural = "" if counts == [1] else "s"
    lines = [
        f"CSI-RRG, {result.duplex.upper()}: {samples} sample{plural} a setting, the same channels and noise for everybody.",
        "NMSE: mean over antennas of ratios, linear, mean over steps (as published); pooled: of sums; SE [bit/s/Hz] at 10 dB.",
    ]
    if result.published:
        lines.append(
            "(published): other channels of the same law, other noise; places among the published methods. Published CDL-D"
        )
        lines.append(
            "stands at 0.7 dB more SNR than it says: there the power of the direct path does not count when noise is set."
        )
        changed = result.provenance.get("channels", {}).get("overrides") or {}
        if changed:
            shown = ", ".join(f"{key}={value}" for key, value in changed.items())
            lines.append(
                f"This run changed the recipe ({shown}): the published numbers are of other channels and do not compare."
            )
    return lines
