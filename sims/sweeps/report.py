"""Tables on the screen, CSV, and pictures."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from sweeps.lineup import BANK, GENIE, STYLES, line_style
from sweeps.mismatch import Wrong
from wichan.evaluation import Evaluation, Interval
from wichan.evaluation.figure import figure_canvas, save_png
from wichan.evaluation.labels import axis_label, shown_point

_CONDITIONS = {"delay_spread": "delay spread", "max_doppler": "Doppler"}


# -- Scores. --


def score(result: Evaluation, name: str) -> tuple[float, float, float]:
    """Mean over the points of the gap to the genie [dB], with its 95 % interval."""
    found = result.statistics.score_db
    assert found is not None  # the genie is always run
    value, low, high = (float(part[result.estimators.index(name)]) for part in found)
    return value, low, high


def score_rows(results: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """One line an estimator: what it is told, its score in every sweep, their mean, and that relative to the bank."""
    rows = []
    first = next(iter(results.values()))
    bank = [score(result, BANK)[0] for result in results.values()] if BANK in first.estimators else None
    for name, told in zip(first.estimators, first.told, strict=True):
        row: dict[str, Any] = {"estimator": name, "told": " ".join(told)}
        for sweep, result in results.items():
            row |= dict(zip((sweep, f"{sweep}_low", f"{sweep}_high"), score(result, name), strict=True))
        values = [row[sweep] for sweep in results]
        row["mean_to_genie_db"] = sum(values) / len(values)
        row["mean_to_bank_db"] = row["mean_to_genie_db"] - sum(bank) / len(bank) if bank else None
        rows.append(row)
    # Those that are told conditions are ranked apart: the two groups do not answer the same question.
    return sorted(rows, key=lambda row: (bool(row["told"]), row["mean_to_genie_db"]))


def score_table(rows: list[dict[str, Any]], sweeps: list[str], title: str) -> str:
    """The scores as text."""
    lines = [title, f"{'':24s}" + "".join(f"{sweep:>26s}" for sweep in sweeps) + f"{'mean':>8s}{'to bank':>9s}   told"]
    told = False
    for row in rows:
        if row["told"] and not told:
            lines.append("  told the conditions:")
            told = True
        cells = (f"{row[s]:+.2f} [{row[f'{s}_low']:+.2f}, {row[f'{s}_high']:+.2f}]" for s in sweeps)
        bank = "" if row["mean_to_bank_db"] is None else f"{row['mean_to_bank_db']:+.2f}"
        text = "".join(f"{cell:>26s}" for cell in cells)
        lines.append(f"{row['estimator']:24s}{text}{row['mean_to_genie_db']:>+8.2f}{bank:>9s}   {row['told']}".rstrip())
    return "\n".join(lines)


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    """A CSV of flat records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# -- Pictures. --


def _curves(axis: Any, result: Evaluation, level: Interval, *, skip: tuple[str, ...] = ()) -> None:
    """One statistic of every estimator with its band."""
    x = [float(shown_point(result.sweep, point)) for point in result.points]
    for e, name in enumerate(result.estimators):
        if name in skip:
            continue
        colour, marker = STYLES[name]
        value, low, high = (part[:, e].tolist() for part in level)
        axis.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        style = line_style(name, result.told[e])
        axis.plot(x, value, style, color=colour, marker=marker, markersize=4.5, label=_label(name, result.told[e]))


def _label(name: str, told: tuple[str, ...]) -> str:
    return f"{name} (told)" if told else name


def _gaps(result: Evaluation) -> Interval:
    assert result.statistics.gap_db is not None
    return result.statistics.gap_db


def _legend(picture: Any, axis: Any, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=columns)


def _gap_limit(axis: Any, results: list[Evaluation], skip: tuple[str, ...]) -> None:
    """From just below zero to the largest gap of those that are drawn."""
    top = 1.0
    for result in results:
        shown = [e for e, name in enumerate(result.estimators) if name not in skip]
        top = max(top, float(_gaps(result).value[:, shown].max()))
    axis.set_ylim(-0.4, min(top, 14.0) + 0.4)


def draw_sweeps(results: dict[str, Evaluation], path: Path, num_channels: int) -> Path:
    """NMSE over each condition, and below it the gap to the genie; least squares would squash the lower row."""
    skip = ("ls", GENIE)
    with figure_canvas(3.5 * len(results), 7.2, len(results), 2, sharey="row") as (picture, axes):
        for column, (sweep, result) in enumerate(results.items()):
            upper, lower = axes[column], axes[column + len(results)]
            _curves(upper, result, result.nmse_db)
            _curves(lower, result, _gaps(result), skip=skip)
            lower.axhline(0, color="black", linestyle="--")
            lower.set_xlabel(axis_label(sweep))
            _gap_limit(lower, list(results.values()), skip)
        axes[0].set_ylabel("NMSE [dB]")
        axes[len(results)].set_ylabel("gap to the genie [dB]")
        _legend(picture, axes[0], 4)
        title = (
            f"ofdm-siso, the other conditions drawn from the recipe: {num_channels} channels a point, bands are 95 % intervals"
        )
        picture.suptitle(title, fontsize=9.5)
        return save_png(picture, path)


def draw_profiles(result: Evaluation, path: Path) -> Path:
    """The gap to each profile's own genie, estimators side by side; hollow: told the conditions."""
    shown = [e for e, name in enumerate(result.estimators) if name not in ("ls", GENIE)]
    with figure_canvas(9.2, 4.6, 1) as (picture, axes):
        for place, e in enumerate(shown):
            name, told = result.estimators[e], result.told[e]
            colour, marker = STYLES[name]
            value, low, high = (part[:, e].numpy() for part in _gaps(result))
            x = [point + 0.8 * ((place + 0.5) / len(shown) - 0.5) for point in range(len(result.points))]
            face = "white" if told else colour
            axes[0].errorbar(
                x,
                value,
                [(value - low).clip(0), (high - value).clip(0)],
                linestyle="",
                color=colour,
                marker=marker,
                markersize=6,
                markerfacecolor=face,
                markeredgecolor=colour,
                markeredgewidth=1.0,
                elinewidth=1.0,
                label=_label(name, told),
            )
        axes[0].axhline(0, color="black", linestyle="--", label=f"{GENIE}, of each profile (told)")
        axes[0].set_xticks(range(len(result.points)), [f"TDL-{point}" for point in result.points])
        axes[0].set_ylabel("gap to the genie [dB]")
        _gap_limit(axes[0], [result], ("ls", GENIE))
        _legend(picture, axes[0], 4)
        count = result.num_channels[0]
        title = f"Profiles that were not trained on: made for TDL-A, tested on TDL-A to E; {count} channels each, bars 95 %"
        picture.suptitle(title, fontsize=9.5)
        return save_png(picture, path)


def draw_densities(results: dict[str, Evaluation], path: Path) -> Path:
    """NMSE over SNR for two pilot patterns."""
    with figure_canvas(4.4 * len(results), 4.8, len(results), sharey=True) as (picture, axes):
        for axis, (name, result) in zip(axes, results.items(), strict=True):
            _curves(axis, result, result.nmse_db)
            axis.set_title(name)
            axis.set_xlabel(axis_label(result.sweep))
        axes[0].set_ylabel("NMSE [dB]")
        _legend(picture, axes[0], 4)
        picture.suptitle("Two pilot patterns; the networks are trained for the first", fontsize=9.5)
        return save_png(picture, path)


# -- Mismatch. --


def mismatch_rows(result: Evaluation, wrongs: list[Wrong]) -> list[dict[str, Any]]:
    """One line an error; those told nothing, and the truth, have no condition."""
    known = {wrong.name: wrong for wrong in wrongs}
    rows = []
    for name in result.estimators:
        wrong = known.get(name)
        row: dict[str, Any] = {"method": wrong.method if wrong else name, "condition": wrong.condition if wrong else ""}
        row |= {"percent": wrong.percent if wrong else 0, "random": int(wrong.random) if wrong else 0}
        rows.append(row | dict(zip(("gap_db", "gap_low", "gap_high"), score(result, name), strict=True)))
    return rows


def mismatch_table(rows: list[dict[str, Any]]) -> str:
    """Gaps to the genie that is told the truth."""
    lines = [f"{'method':24s}{'wrong':14s}{'error':>10s}   gap to the genie that is told the truth [dB]"]
    for row in rows:
        size = f"{'+-' if row['random'] else ''}{row['percent']:{'' if row['random'] else '+'}d} %" if row["condition"] else ""
        gap = f"{row['gap_db']:+.2f} [{row['gap_low']:+.2f}, {row['gap_high']:+.2f}]"
        lines.append(f"{row['method']:24s}{_CONDITIONS.get(row['condition'], ''):14s}{size:>10s}   {gap}")
    return "\n".join(lines)


def draw_mismatch(rows: list[dict[str, Any]], path: Path, count: int) -> Path:
    """Gap over the size of the error: lines for a bias, hollow markers for random errors, level lines for the untold."""
    methods = list(dict.fromkeys(row["method"] for row in rows if row["condition"]))
    levels = {row["method"]: row["gap_db"] for row in rows if not row["condition"]}
    with figure_canvas(9.2, 4.6, 2, sharey=True) as (picture, axes):
        for axis, (condition, label) in zip(axes, _CONDITIONS.items(), strict=True):
            for method in methods:
                _errors_of(axis, [row for row in rows if row["method"] == method], condition)
            for name, level in levels.items():
                if name not in methods:
                    axis.axhline(level, color=STYLES[name][0], linewidth=1.1, label=f"{name}, told nothing")
            axis.set_xlabel(f"error of the told {label} [%]")
        axes[0].plot(
            [], [], "o", markerfacecolor="white", markeredgecolor="#555555", markeredgewidth=1.0, label="random, up to ±x %"
        )
        axes[0].set_ylabel("gap to the genie told the truth [dB]")
        _legend(picture, axes[0], 3)
        picture.suptitle(f"Conditions that are told wrong (mean over SNRs, {count} channels each, bands 95 %)", fontsize=9.5)
        return save_png(picture, path)


def _errors_of(axis: Any, rows: list[dict[str, Any]], condition: str) -> None:
    name = rows[0]["method"]
    colour, marker = STYLES[name]
    truth = [row for row in rows if not row["condition"]]
    line = sorted(truth + [r for r in rows if r["condition"] == condition and not r["random"]], key=lambda r: r["percent"])
    x = [row["percent"] for row in line]
    axis.fill_between(x, [r["gap_low"] for r in line], [r["gap_high"] for r in line], color=colour, alpha=0.15, linewidth=0)
    style = line_style(name, ("told",))
    axis.plot(
        x, [row["gap_db"] for row in line], style, color=colour, marker=marker, markersize=4.5, label=_label(name, ("told",))
    )
    for row in rows:
        if row["condition"] == condition and row["random"]:
            shape = marker or "o"
            axis.plot(
                row["percent"], row["gap_db"], shape, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.0
            )
