"""Curves of rates with their intervals: tables on the screen, CSV and pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

#: Colour, marker and line of each scheme.
STYLES = {
    "perfect CSI": ("black", "", "--"),
    "estimated CSI": ("#0072B2", "o", "-"),
    "estimated CSI, 2 bits": ("#009E73", "s", "-"),
    "estimated CSI, 1 bit": ("#E69F00", "^", "-"),
    "random phases": ("#CC79A7", "v", "-"),
    "no surface": ("#7F7F7F", "D", "-"),
    "continuous": ("#0072B2", "o", "none"),
    "2 bits": ("#009E73", "s", "none"),
    "1 bit": ("#E69F00", "^", "none"),
    "random": ("#CC79A7", "v", "none"),
}


class Curve(NamedTuple):
    """Means over channels, and 95 % intervals of them."""

    name: str
    points: Sequence[float]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curve(name: str, points: Sequence[float], samples: Sequence[torch.Tensor]) -> Curve:
    """The curve of one scheme: for every point the values of all channels."""
    means = [float(row.double().mean()) for row in samples]
    halves = [1.96 * float(row.double().std()) / len(row) ** 0.5 for row in samples]
    low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
    return Curve(name, points, means, low, high)


def table(curves: Sequence[Curve], title: str) -> str:
    """Values as text, a line a scheme."""
    lines = [title, f"{'':24s}" + "".join(f"{point:>9g}" for point in curves[0].points)]
    return "\n".join(lines + [f"{c.name:24s}" + "".join(f"{value:>9.2f}" for value in c.value) for c in curves])


def write_csv(panels: Mapping[str, Sequence[Curve]], path: Path) -> Path:
    """All curves in one file, a line a point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["panel", "scheme", "point", "value", "low", "high"])
        for panel, curves in panels.items():
            for c in curves:
                for row in zip(c.points, c.value, c.low, c.high, strict=True):
                    writer.writerow([panel, c.name, *row])
    return path


def draw_panel(axis: Any, curves: Sequence[Curve]) -> None:
    """All schemes with their bands."""
    for c in curves:
        colour, marker, line = STYLES[c.name]
        axis.fill_between(c.points, c.low, c.high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(c.points, c.value, linestyle=line, color=colour, marker=marker, label=c.name)


def draw(rates: Mapping[str, Sequence[Curve]], law: Sequence[Curve], title: str, path: Path) -> Path:
    """Rates over power, rates over elements, and the scaling law with its closed forms."""
    from wichan.evaluation.figure import figure_canvas, save_png

    with figure_canvas(10.5, 3.9, 3) as (picture, axes):
        for axis, curves, label in zip(axes, rates.values(), ("transmit power [dBm]", "elements"), strict=False):
            draw_panel(axis, curves)
            axis.set_xlabel(label)
            axis.set_ylim(bottom=0)
        axes[0].set_ylabel("spectral efficiency [bit/s/Hz]")
        elements = torch.tensor(law[0].points)
        for loss_db, slope in ((0.0, 20), (-0.91, 20), (-3.92, 20), (0.0, 10)):
            axes[2].plot(elements, slope * elements.log10() + loss_db, color="black", linewidth=0.7)
        draw_panel(axes[2], law)
        axes[2].set(xlabel="elements", ylabel="gain over one element [dB]", title="one path: $L^2$, known losses, $L$")
        for axis in axes[1:]:
            axis.set_xscale("log", base=2)
            axis.set_xticks(law[0].points if axis is axes[2] else next(reversed(rates.values()))[0].points)
            axis.xaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        axes[2].legend(loc="upper left", fontsize=8)
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=8)
        picture.suptitle(title, fontsize=9.5)
        written: Path = save_png(picture, path)
    return written
