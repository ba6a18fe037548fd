"""The pictures of a benchmark: lines over SNR, speed and losses; a radar over cells and noises; violins over settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wichan.errors import InvalidValueError
from wichan.evaluation.benchmarks.result import BenchmarkResult
from wichan.evaluation.figure import MARKERS, PALETTE, figure_canvas, png_path, save_png
from wichan.evaluation.statistics import Interval, to_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels of the line figure: title, axis, label, factor of the axis, and settings in order of preference.
_LINES: tuple[tuple[str, str, str, float, tuple[dict[str, Any], ...]], ...] = (
    ("noise", "degree", "SNR [dB]", 1.0, ({"category": "regular"}, {"category": "generalization"})),
    (
        "speed",
        "speed",
        "speed [m/s]",
        1.0,
        ({"category": "generalization"}, {"category": "regular"}, {"category": "robustness"}),
    ),
    ("lost snapshots", "degree", "lost [%]", 100.0, ({"category": "robustness", "noise": "drop"},)),
)
_SPOKES: tuple[tuple[str, str, float], ...] = (
    ("profile", "CDL-{}", 1.0),
    ("delay_spread", "{:.0f} ns", 1e9),
    ("noise", "{}", 1.0),
)


def line_figure(result: BenchmarkResult, path: str | Path) -> Path:
    """Mean NMSE over SNR, speed and rate of lost snapshots, with 95 % bands; panels without settings are left out."""
    path = png_path(path)
    panels = []
    for title, axis, label, factor, choices in _LINES:
        for where in choices:
            try:
                values = result.axis(axis, **where)
            except InvalidValueError:
                continue
            panels.append((title, axis, label, factor, where, values))
            break
    if not panels:
        raise InvalidValueError("this run has no settings that the line figure shows (AWGN, speeds, lost snapshots)")
    with figure_canvas(3.3 * len(panels) + 0.6, 3.9, len(panels)) as (figure, axes):
        for place, (title, axis, label, factor, where, values) in zip(axes, panels, strict=True):
            means = [result.mean("nmse", **where | {axis: value}) for value in values]
            _draw_lines(place, result, [value * factor for value in values], means)
            place.set_xlabel(label)
            place.set_title(f"{where['category']}: {title}")
        axes[0].set_ylabel("NMSE (mean of ratios)")
        _finish(figure, axes[0], result)
        return save_png(figure, path)


def _draw_lines(axes: Axes, result: BenchmarkResult, x: list[float], means: list[Interval]) -> None:
    for m, name in enumerate(result.predictors):
        value, low, high = ([float(getattr(mean, part)[m]) for mean in means] for part in ("value", "low", "high"))
        colour = PALETTE[m % len(PALETTE)]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        style = "-" if m < len(PALETTE) else "--"
        axes.plot(x, value, style, color=colour, marker=MARKERS[m % len(MARKERS)], label=name)
    axes.set_yscale("log")
    _plain_log_labels(axes)


def _plain_log_labels(axes: Axes) -> None:
    """0.1, 0.3, 1 instead of powers of ten: the range is often less than two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0) if decades < 0.8 else (1.0, 2.0, 5.0) if decades < 2.2 else (1.0, 3.0)
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def radar_figure(result: BenchmarkResult, path: str | Path) -> Path:
    """Mean NMSE [dB] for every profile, delay spread and noise, one spoke each; farther out is better."""
    path = png_path(path)
    spokes = [
        (axis, value, text.format(value if factor == 1.0 else value * factor))
        for axis, text, factor in _SPOKES
        for value in result.axis(axis)
    ]
    levels = torch.stack([-to_db(result.mean("nmse", **{axis: value}).value) for axis, value, _ in spokes])
    low = 5 * math.floor(float(levels.min()) / 5)
    angles = [2 * math.pi * k / len(spokes) for k in range(len(spokes))]
    with figure_canvas(5.4, 5.6, 1, subplot_kw={"projection": "polar"}) as (figure, made):
        axes: Any = made[0]  # polar, which the type of all axes does not tell
        for m, name in enumerate(result.predictors):
            around = [*levels[:, m].tolist(), float(levels[0, m])]
            colour = PALETTE[m % len(PALETTE)]
            style = "-" if m < len(PALETTE) else "--"
            axes.plot([*angles, angles[0]], around, style, color=colour, marker=MARKERS[m % len(MARKERS)], label=name)
        axes.set_theta_zero_location("N")
        axes.set_theta_direction(-1)
        axes.set_xticks(angles, [label for _, _, label in spokes])
        axes.tick_params(axis="x", pad=9)
        top = 5 * math.ceil(float(levels.max()) / 5 + 1e-9)
        axes.set_ylim(low - 2.5, top)
        ticks = list(range(low, top + 1, 5))
        axes.set_yticks(ticks, [f"{-level:g} dB" for level in ticks], fontsize=7.5, color="#555555")
        axes.set_rlabel_position(180 / len(spokes))
        axes.set_title("mean NMSE, farther out is better", pad=18)
        _finish(figure, axes, result, columns=4)
        return save_png(figure, path)


def violin_figure(result: BenchmarkResult, path: str | Path) -> Path:
    """How the NMSE of settings [dB] spreads, for every predictor, with the median; one panel a category."""
    path = png_path(path)
    levels = to_db(result.values("nmse"))
    count, names = len(result.categories), result.predictors
    with figure_canvas(max(2.6, 0.62 * len(names) + 0.9) * count + 0.4, 4.0, count, sharey=True) as (figure, axes):
        for place, category in zip(axes, result.categories, strict=True):
            chosen = levels[result.select(category=category)]
            _draw_violins(place, chosen)
            place.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
            place.set_title(f"{category}: {len(chosen):,} settings")
            place.grid(visible=False, axis="x")
        axes[0].set_ylabel("NMSE of a setting [dB]")
        figure.suptitle(_title(result), fontsize=9.5)
        return save_png(figure, path)


def _draw_violins(axes: Axes, levels: torch.Tensor) -> None:
    for m, column in enumerate(levels.T):
        colour = PALETTE[m % len(PALETTE)]
        if len(column) > 1 and float(column.max() - column.min()) > 1e-6:
            parts = axes.violinplot(column.tolist(), [m], widths=0.85, showextrema=False)
            for body in parts["bodies"]:  # type: ignore[attr-defined]
                body.set(facecolor=colour, alpha=0.45, edgecolor=colour)
        low, middle, high = (float(column.quantile(q)) for q in (0.25, 0.5, 0.75))
        axes.plot([m, m], [low, high], color=colour, linewidth=3.0, solid_capstyle="butt")
        axes.plot([m], [middle], "o", color="white", markeredgecolor=colour, markeredgewidth=1.2, markersize=5.5)


def _finish(figure: Figure, axes: Axes, result: BenchmarkResult, columns: int = 6) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), columns))
    figure.suptitle(_title(result), fontsize=9.5)


def _title(result: BenchmarkResult) -> str:
    counts = sorted(set(result.num_samples))
    samples = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return f"CSI-RRG, {result.duplex.upper()}: {samples} samples a setting"
