"""Values of every instance, kept on disk, and what is told of them.

A run is one estimator in one study. It is written as it ends and not computed again while its settings stay the same.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kronecker.metrics import SUCCESS

#: point (as text) -> metric -> value of every instance.
Values = dict[str, dict[str, list[float]]]
COLUMNS = ("nmse", "median", "success", "srr", "ser", "iterations", "ms", "no_ratio", "cost", "rises")


@dataclass(frozen=True)
class Row:
    """One estimator at one point.

    Attributes:
        study, estimator, point: which.
        trials: number of instances.
        told: column of `COLUMNS` -> number.
    """

    study: str
    estimator: str
    point: str
    trials: int
    told: Mapping[str, float]


class Runs:
    """The folder of a script.

    Args:
        folder: where values, tables and pictures go.
        fresh: compute again what is there.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder, self.fresh = folder, fresh

    def rows(self, study: str, estimator: str, settings: Mapping[str, Any], compute: Callable[[], Values]) -> list[Row]:
        """The rows of a run, computed only if they are not there with the same settings."""
        path = self.folder / "raw" / f"{study}-{re.sub(r'[^a-z0-9.]+', '-', estimator)}.json"
        wanted = json.loads(json.dumps(dict(settings)))
        if path.exists() and not self.fresh:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["settings"] == wanted:
                return told(study, estimator, kept["values"])
        values = compute()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps({"settings": wanted, "values": values}), encoding="utf-8")
        draft.replace(path)
        return told(study, estimator, values)


def told(study: str, estimator: str, values: Values) -> list[Row]:
    """Means, the median of the NMSE (and of what noise was found) and the share of successes."""
    rows = []
    for point, metrics in values.items():
        numbers = {name: statistics.fmean(found) for name, found in metrics.items()}
        numbers["median"] = statistics.median(metrics["nmse"])
        numbers["success"] = statistics.fmean(value < SUCCESS for value in metrics["nmse"])
        if "no_ratio" in metrics:
            numbers["no_ratio"] = statistics.median(metrics["no_ratio"])
        rows.append(Row(study, estimator, point, len(metrics["nmse"]), numbers))
    return rows


def gather(values: Values, points: Sequence[Any], **metrics: Any) -> None:
    """Add the values of a batch, one instance for each of ``points``."""
    for name, found in metrics.items():
        for point, value in zip(points, found.tolist(), strict=True):
            values.setdefault(f"{point:g}" if isinstance(point, float) else str(point), {}).setdefault(name, []).append(value)


def line(label: str, values: Sequence[float | None]) -> str:
    """One line of numbers; ``None`` is left blank."""
    return f"{label:36s}" + "".join(f"{'' if value is None else format(value, '.3g'):>10s}" for value in values)


def table(
    title: str, rows: Sequence[Row], column: str, beside: Mapping[str, Mapping[str, Sequence[float | None]]] | None = None
) -> str:
    """A table over the points; ``beside`` holds numbers of others: whose -> estimator -> values."""
    points = list(dict.fromkeys(row.point for row in rows))
    lines = [f"\n{title}", f"{'':36s}" + "".join(f"{point:>10s}" for point in points)]
    for name in dict.fromkeys(row.estimator for row in rows):
        own = {row.point: row.told[column] for row in rows if row.estimator == name and column in row.told}
        if not own:
            continue
        lines.append(line(name, [own.get(point) for point in points]))
        for whose, curves in (beside or {}).items():
            if len(curves.get(name, ())) == len(points):
                lines.append(line(f"    {whose}", curves[name]))
    return "\n".join(lines)


def write_csv(rows: Sequence[Row], path: Path, beside: Mapping[tuple[str, str, str, str], float] | None = None) -> Path:
    """A line an estimator and point; numbers of others stand behind, in columns ``published nmse`` and so on.

    ``beside``: (column, study, estimator, point) -> number.
    """
    others = list(dict.fromkeys(key[0] for key in beside or {}))
    used = [column for column in COLUMNS if any(column in row.told for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["study", "estimator", "point", "trials", *used, *others])
        for row in rows:
            own = [f"{row.told[column]:.6g}" if column in row.told else "" for column in used]
            known = [(beside or {}).get((other, row.study, row.estimator, row.point), "") for other in others]
            writer.writerow([row.study, row.estimator, row.point, row.trials, *own, *known])
    return path


@dataclass(frozen=True)
class Panel:
    """One panel of a picture: a column of rows over numeric points.

    Attributes:
        title, rows, column, x_label, y_label: what stands there.
        log_x, log_y: logarithmic axes.
        floor: where a logarithmic axis ends.
        beside: published values, dotted in the same colour: estimator -> (x, y).
    """

    title: str
    rows: Sequence[Row]
    column: str
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = True
    floor: float = 0.0
    beside: Mapping[str, tuple[Sequence[float], Sequence[float | None]]] | None = None


def draw(panels: Sequence[Panel], path: Path, columns: int = 3, beside_label: str = "published") -> Path:
    """All panels with one legend."""
    from wichan.evaluation.figure import MARKERS, PALETTE, figure_canvas, save_png

    names = list(dict.fromkeys(row.estimator for panel in panels for row in panel.rows))
    style = {name: (PALETTE[k % len(PALETTE)], MARKERS[k % len(MARKERS)]) for k, name in enumerate(names)}
    down = -(-len(panels) // columns)
    with figure_canvas(3.3 * columns, 2.7 * down + 0.7, columns, down) as (picture, axes):
        labels: dict[str, Any] = {}
        for axis, panel in zip(axes, panels, strict=False):
            for name in dict.fromkeys(row.estimator for row in panel.rows):
                mine = [row for row in panel.rows if row.estimator == name and panel.column in row.told]
                colour, marker = style[name]
                x, y = [float(row.point) for row in mine], [row.told[panel.column] for row in mine]
                labels[name] = axis.plot(x, y, color=colour, marker=marker, label=name)[0]
                if name in (panel.beside or {}):
                    axis.plot(*panel.beside[name], ":", color=colour, marker=marker, markersize=3, linewidth=1)  # type: ignore[index]
            axis.set(xlabel=panel.x_label, ylabel=panel.y_label, title=panel.title)
            if panel.log_x:
                axis.set_xscale("log")
            if panel.log_y:
                axis.set_yscale("log")
                axis.set_ylim(bottom=max(axis.get_ylim()[0], panel.floor))
        if any(panel.beside for panel in panels):
            labels[beside_label] = axes[0].plot([], [], ":", color="black", marker="o", markersize=3, linewidth=1)[0]
        for spare in axes[len(panels) :]:
            spare.set_visible(False)
        picture.legend(list(labels.values()), list(labels), loc="outside lower center", ncols=5, fontsize=8)
        written: Path = save_png(picture, path)
    return written
