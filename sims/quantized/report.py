"""Tables on the screen, CSV and pictures of curves."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantized.study import PERFECT, Curve

#: Colour, marker and line of each estimator.
STYLES = {
    "bls": ("tab:gray", "x", "-"),
    "blmmse": ("tab:brown", "s", "-"),
    "bussgang-gmm": ("tab:blue", "o", "-"),
    "bussgang-gmm circulant": ("tab:cyan", "v", "-"),
    "bussgang-gmm toeplitz": ("tab:olive", "<", "-"),
    "bussgang-gmm from pilots": ("tab:purple", "D", "-"),
    "bussgang-mfa": ("tab:orange", "^", "-"),
    "bussgang-vae": ("tab:pink", "P", "-"),
    "bussgang-genie": ("black", "", "--"),
    "cme-gibbs": ("tab:red", "*", "-"),
    PERFECT: ("black", "", ":"),
}


def table(curves: Sequence[Curve], title: str, known: Mapping[str, Sequence[float]] | None = None) -> str:
    """Values as text; ``known`` values of another implementation stand below their curve."""
    width = 11
    lines = [title, f"{'':28s}" + "".join(f"{shown(point):>{width}s}" for point in curves[0].points)]
    for curve in curves:
        lines.append(f"{curve.name:28s}" + "".join(f"{value:>{width}.4g}" for value in curve.value))
        if known and curve.name in known and len(known[curve.name]) == len(curve.value):
            lines.append(f"{'    independent code':28s}" + "".join(f"{value:>{width}.4g}" for value in known[curve.name]))
    return "\n".join(lines)


def shown(point: Any) -> str:
    """A point as tables and axes print it."""
    return "∞" if isinstance(point, float) and math.isinf(point) else f"{point:g}" if isinstance(point, float) else str(point)


def write_csv(panels: Mapping[str, Sequence[Curve]], path: Path) -> Path:
    """All curves in one file, a line a point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["panel", "estimator", "point", "value", "low", "high"])
        for panel, curves in panels.items():
            for curve in curves:
                for row in zip(curve.points, curve.value, curve.low, curve.high, strict=True):
                    writer.writerow([panel, curve.name, *row])
    return path


def draw_panel(
    axis: Any, curves: Sequence[Curve], *, x_label: str, title: str, log_x: bool = False, log_y: bool = True, even: bool = False
) -> None:
    """One panel; ``even`` puts the points side by side at equal distances (bits with infinity)."""
    ticks = list(curves[0].points)
    for curve in curves:
        colour, marker, line = STYLES[curve.name]
        x = list(range(len(ticks))) if even else [float(point) for point in curve.points]
        axis.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(x, curve.value, line, color=colour, marker=marker, markersize=4.5, label=curve.name)
    if even:
        axis.set_xticks(range(len(ticks)), [shown(point) for point in ticks])
    elif log_x:
        axis.set_xscale("log", base=10 if ticks[-1] > 1000 else 2)
        axis.set_xticks(ticks, [f"{point:g}" for point in ticks])
        axis.minorticks_off()
    if log_y:
        axis.set_yscale("log")
    axis.set_xlabel(x_label)
    axis.set_title(title, fontsize=10)


def draw(panels: Mapping[str, tuple[Sequence[Curve], Mapping[str, Any]]], y_label: str, path: Path, columns: int = 3) -> Path:
    """All panels in one picture: title -> (curves, options of `draw_panel`)."""
    from wichan.evaluation.figure import figure_canvas, save_png

    rows = -(-len(panels) // columns)
    across = min(columns, len(panels))
    with figure_canvas(3.7 * across, 3.2 * rows + 0.6, across, rows) as (picture, axes):
        labels: dict[str, Any] = {}
        for place, (title, (curves, options)) in enumerate(panels.items()):
            draw_panel(axes[place], curves, title=title, **options)
            handles, names = axes[place].get_legend_handles_labels()
            labels |= dict(zip(names, handles, strict=True))
            if place % across == 0:
                axes[place].set_ylabel(y_label)
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        picture.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=5, fontsize=8)
        written: Path = save_png(picture, path)
    return written
