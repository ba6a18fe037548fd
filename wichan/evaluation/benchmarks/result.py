"""The outcome of a benchmark run: scores of every setting, means with intervals, places, and ways to show and keep them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError, check_choice
from wichan.evaluation.benchmarks.ranking import RANKED, SettingScores, Standing, ranks, resample, setting_scores, standing
from wichan.evaluation.benchmarks.scenarios import CATEGORIES, Setting
from wichan.evaluation.benchmarks.scoring import Job, JobScores
from wichan.evaluation.export import csv_text, json_text
from wichan.evaluation.statistics import Interval, percentile_interval, to_db
from wichan.random import make_generator
from wichan.store.files import write_atomic

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

#: What settings can be chosen by, see `BenchmarkResult.mean`.
AXES = ("category", "cell", "profile", "delay_spread", "speed", "noise", "degree")
FIGURES = ("lines", "radar", "violin")


@dataclass(frozen=True, eq=False)
class BenchmarkResult:
    """Scores of M predictors in S settings.

    Attributes:
        settings: the settings, S.
        predictors: names, M.
        num_samples: samples of each setting.
        scores: by setting, predictor and step, see `SettingScores`.
        copies: bootstrap copies of the settings' scores (mean over steps), score -> (num_resamples, S, M).
        notes: how each predictor was made.
        seconds: spent in each predictor [s].
        provenance: arguments, seed, versions.
        published: whether tables show the published rows too.
    """

    settings: tuple[Setting, ...]
    predictors: tuple[str, ...]
    num_samples: tuple[int, ...]
    scores: SettingScores
    copies: dict[str, torch.Tensor]
    notes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    published: bool = False

    @property
    def duplex(self) -> str:
        """``"tdd"`` or ``"fdd"``."""
        return self.settings[0].duplex

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories that were scored."""
        return tuple(name for name in CATEGORIES if any(s.category == name for s in self.settings))

    def values(self, score: str) -> torch.Tensor:
        """A score of every setting, the mean over steps: (S, M).

        Args:
            score: ``"nmse"`` (mean of ratios over antennas, as published), ``"nmse_pooled"`` (ratio of sums), ``"se"``,
                ``"mse"``.

        Raises:
            UnknownNameError: another score.
        """
        return getattr(self.scores, check_choice("score", score, (*RANKED, "mse"))).mean(-1)

    def select(self, **where: Any) -> list[int]:
        """Numbers of the settings with these values.

        Args:
            **where: axis -> value or several, such as ``category="regular", speed=(1, 10), degree=20``; see `AXES`.

        Raises:
            UnknownNameError: no such axis. InvalidValueError: no setting has these values.
        """
        chosen = matching(self.settings, where)
        if not chosen:
            shown = ", ".join(f"{axis}={wanted!r:.40}" for axis, wanted in where.items())
            raise InvalidValueError(f"no setting of this run has {shown}")
        return chosen

    def axis(self, axis: str, **where: Any) -> list[Any]:
        """Values of an axis among the chosen settings, each once: numbers and profiles rising, names in order of appearance."""
        found = list(dict.fromkeys(axis_value(self.settings[s], axis) for s in self.select(**where)))
        return sorted(found) if axis == "profile" or not isinstance(found[0], str) else found

    def mean(self, score: str = "nmse", **where: Any) -> Interval:
        """Mean of a score over settings, with a paired 95 % interval, each (M,).

        Args:
            score: one of ``"nmse"``, ``"nmse_pooled"``, ``"se"``.
            **where: which settings, see `select`; default all.
        """
        check_choice("score", score, RANKED)
        chosen = self.select(**where)
        value = self.values(score)[chosen].mean(0)
        return percentile_interval(value, self.copies[score][:, chosen].double().mean(1).T)

    def standing(self, score: str = "nmse", **where: Any) -> Standing:
        """Shares of first ranks and mean ranks over settings; arguments as in `mean`."""
        check_choice("score", score, RANKED)
        chosen = self.select(**where)
        return standing(self.values(score)[chosen], self.copies[score][:, chosen], rising=RANKED[score])

    # -- Ways to show and keep it. --

    def rows(self) -> list[dict[str, Any]]:
        """One flat record for each setting and predictor; None where a number does not exist."""
        spread = {name: self._intervals(name) for name in RANKED}
        places = {name: ranks(self.values(name), rising=rising) for name, rising in RANKED.items()}
        records = []
        for s, setting in enumerate(self.settings):
            head: dict[str, Any] = {"setting": setting.name, "duplex": setting.duplex}
            head |= {axis: axis_value(setting, axis) for axis in AXES} | {"num_samples": self.num_samples[s]}
            for m, name in enumerate(self.predictors):
                records.append(head | {"predictor": name} | self._numbers(s, m, spread, places))
        return records

    def _intervals(self, score: str) -> Interval:
        copies = self.copies[score].movedim(0, -1)
        return percentile_interval(self.values(score), copies)

    def _numbers(self, s: int, m: int, spread: dict[str, Interval], places: dict[str, torch.Tensor]) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        for name, interval in spread.items():
            numbers |= {
                key: _number(part[s, m]) for key, part in zip((name, f"{name}_low", f"{name}_high"), interval, strict=True)
            }
            numbers |= {f"{name}_step{p + 1}": _number(value) for p, value in enumerate(getattr(self.scores, name)[s, m])}
            numbers[f"rank_{name}"] = int(places[name][s, m])
        numbers |= {"nmse_db": _number(to_db(self.values("nmse")[s, m])), "mse": _number(self.values("mse")[s, m])}
        return numbers | {"se0": _number(self.scores.se0[s].mean()), "calibration": _number(self.scores.calibration[s, m])}

    def to_dict(self) -> dict[str, Any]:
        """Arguments, notes, and means, places and intervals by category, as plain JSON types."""
        groups = {category: self._summary({"category": category}) for category in self.categories}
        return {
            **self.provenance,
            "predictors": {
                name: {"note": self.notes.get(name, ""), "seconds": self.seconds.get(name)} for name in self.predictors
            },
            "categories": groups,
        }

    def _summary(self, where: dict[str, Any]) -> dict[str, Any]:
        chosen = self.select(**where)
        means = {name: self.mean(name, **where) for name in RANKED}
        places = {name: self.standing(name, **where) for name in RANKED}
        table = {}
        for m, predictor in enumerate(self.predictors):
            entry: dict[str, Any] = {}
            for name in RANKED:
                entry[name] = _entry(means[name], m)
                entry[f"first_by_{name}"] = _entry(places[name].first, m)
                entry[f"rank_by_{name}"] = _entry(places[name].rank, m)
            entry["calibration"] = _number(self.scores.calibration[chosen, m].median())
            table[predictor] = entry
        views = sum(self.num_samples[s] for s in chosen)
        return {"settings": len(chosen), "views": views, "se0": _number(self.scores.se0[chosen].mean()), "predictors": table}

    def to_json(self, path: str | Path | None = None) -> str:
        """JSON text of `to_dict`; also written to ``path`` if given."""
        text = json_text(self.to_dict())
        if path is not None:
            write_atomic(Path(path), (text + "\n").encode())
        return text

    def to_csv(self, path: str | Path | None = None) -> str:
        """CSV text of `rows`, full precision; also written to ``path`` if given."""
        text = csv_text(self.rows())
        if path is not None:
            write_atomic(Path(path), text.encode())
        return text

    def table(self) -> str:
        """All tables as aligned plain text."""
        from wichan.evaluation.benchmarks.table import plain_tables

        return plain_tables(self)

    def figure(self, path: str | Path, kind: str = "lines") -> Path:
        """Write a picture as a PNG (needs matplotlib).

        Args:
            path: file to write, ``*.png``.
            kind: ``"lines"`` (NMSE over SNR, speed, rate of lost snapshots), ``"radar"`` (by profile, delay spread, noise) or
                ``"violin"`` (how a predictor's scores spread over settings).

        Raises:
            UnknownNameError: another kind.
        """
        from wichan.evaluation.benchmarks import figures

        draw = {"lines": figures.line_figure, "radar": figures.radar_figure, "violin": figures.violin_figure}
        return draw[check_choice("kind", kind, FIGURES)](self, path)

    def save(self, folder: str | Path, *, pictures: Sequence[str] = FIGURES) -> list[Path]:
        """Write ``results.csv``, ``summary.json``, ``tables.txt`` and the pictures into ``folder``; returns their paths."""
        for kind in pictures:
            check_choice("pictures", kind, FIGURES)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / name for name in ("results.csv", "summary.json", "tables.txt")]
        self.to_csv(paths[0])
        self.to_json(paths[1])
        write_atomic(paths[2], (self.table() + "\n").encode())
        return paths + [self.figure(folder / f"{kind}.png", kind) for kind in pictures]

    def __str__(self) -> str:
        return self.table()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from wichan.evaluation.benchmarks.table import rich_tables

        yield rich_tables(self, options.max_width)


def make_result(
    jobs: Sequence[Job], scores: Sequence[JobScores], predictors: Sequence[str], num_ant: int, **facts: Any
) -> BenchmarkResult:
    """Put the scores of all jobs together; ``facts`` are further fields of `BenchmarkResult`."""
    generator = make_generator(0, "csi-rrg-bootstrap")
    seconds = sum(score.seconds for score in scores)
    return BenchmarkResult(
        settings=tuple(setting for job in jobs for setting in job.settings),
        predictors=tuple(predictors),
        num_samples=tuple(job.num_samples for job in jobs for _ in job.settings),
        scores=setting_scores(scores, num_ant),
        copies=resample(scores, generator=generator),
        seconds={name: float(spent) for name, spent in zip(predictors, seconds, strict=True)},  # type: ignore[arg-type]
        **facts,
    )


def matching(settings: Sequence[Setting], where: Mapping[str, Any]) -> list[int]:
    """Numbers of the settings with the values of ``where``: axis -> value or several.

    Raises:
        UnknownNameError: no such axis.
    """
    chosen = list(range(len(settings)))
    for axis, wanted in where.items():
        check_choice("axis", axis, AXES)
        allowed = wanted if isinstance(wanted, Collection) and not isinstance(wanted, str) else (wanted,)
        chosen = [s for s in chosen if any(_same(axis_value(settings[s], axis), value) for value in allowed)]
    return chosen


def axis_value(setting: Setting, axis: str) -> Any:
    """Where a setting stands on one of `AXES`."""
    if axis == "cell":
        return setting.cell.name
    return getattr(setting.cell, axis) if axis in ("profile", "delay_spread", "speed") else getattr(setting, axis)


def _same(value: Any, wanted: Any) -> bool:
    if isinstance(value, str) or isinstance(wanted, str):
        return value == wanted
    return math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-15)


def _number(value: torch.Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _entry(interval: Interval, m: int) -> dict[str, float | None]:
    return dict(zip(("value", "low", "high"), (_number(part[m]) for part in interval), strict=True))
