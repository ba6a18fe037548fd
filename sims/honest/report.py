"""Tables on the screen, CSV, and the picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from honest.runs import KINDS, LABELS, MODELS, Run
from wichan.evaluation import Evaluation, figure

GRID_TO_PILOT_DB = 10 * math.log10(1680 / 80)  # elements of the grid over those that are not silent
#: kind -> NMSE of the genie [dB] with its interval.
Bounds = dict[str, tuple[float, float, float]]


def write_training(runs: dict[str, Run], bounds: Bounds, path: Path) -> None:
    """One line for every validation of every run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["channels", "step", "frames", "seconds", "nmse_db", "genie_db", "genie_low_db", "genie_high_db"])
        for kind, run in runs.items():
            bound = [f"{level:.4f}" for level in bounds[kind]]
            for row in run.curve:
                head = [kind, int(row["step"]), int(row["frames"]), f"{row['seconds']:.1f}"]
                writer.writerow([*head, f"{row['val_nmse_db']:.4f}", *bound])


def write_tests(found: dict[str, Evaluation], path: Path) -> None:
    """One line for every kind of test channels, SNR and estimator."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["tested_on", "grid_snr_db", "estimator", "nmse_db", "low_db", "high_db", "gap_to_genie_db"])
        for kind, result in found.items():
            for row in result.rows():
                numbers = (row[name] for name in ("nmse_db", "nmse_db_low", "nmse_db_high", "gap_db"))
                writer.writerow([kind, row["point"], row["estimator"], *(f"{number:.4f}" for number in numbers)])


def table(found: dict[str, Evaluation], bounds: Bounds, runs: dict[str, Run]) -> None:
    """What came out, in words and numbers."""
    print("\nvalidation NMSE over all conditions, best weights")
    for kind, run in runs.items():
        best = min(row["val_nmse_db"] for row in run.curve)
        last = run.curve[-1]
        spent = f"{last['frames']:,.0f} frames, {last['seconds'] / 60:.1f} min"
        genie = f"{bounds[kind][0]:.2f} dB [{bounds[kind][1]:.2f}, {bounds[kind][2]:.2f}]"
        print(f"  {LABELS[kind]:28s}{best:8.2f} dB, genie {genie}: {best - bounds[kind][0]:+.2f} dB   ({spent})")
    for kind, result in found.items():
        print(f"\ntested on {LABELS[kind]} ({result.num_channels[0]} a point); NMSE [dB] over the recipe's SNR")
        print(f"{'trained on':30s}" + "".join(f"{point:>9g}" for point in result.points) + "   mean gap to genie [dB]")
        for e, name in enumerate(result.estimators):
            levels = "".join(f"{float(value):9.2f}" for value in result.nmse_db.value[:, e])
            assert result.statistics.score_db is not None
            score, low, high = (float(part[e]) for part in result.statistics.score_db)
            gap = f"{score:+10.2f} [{low:+.2f}, {high:+.2f}]" if name != "lmmse-genie" else ""
            print(f"{LABELS.get(name, 'genie for honest fading'):30s}{levels}{gap}")


def draw(runs: dict[str, Run], bounds: Bounds, found: dict[str, Evaluation], path: Path) -> None:
    """Left: while training. Right: after it, on both kinds of channels."""
    colours = dict(zip(KINDS, figure.PALETTE[1::-1], strict=False))
    with figure.figure_canvas(10.4, 4.6, 3, sharey=True) as (picture, axes):
        for kind, run in runs.items():
            x = [row["frames"] / 1000 for row in run.curve]
            y = [row["val_nmse_db"] for row in run.curve]
            axes[0].plot(x, y, color=colours[kind], marker="o", markersize=3, label=f"trained on {LABELS[kind]}")
            level, low, high = bounds[kind]
            style = "--" if kind == "independent" else ":"
            where = "" if kind == "independent" else ", applied to the frozen channels"
            axes[0].axhspan(low, high, color="#777777", alpha=0.15, linewidth=0)
            axes[0].axhline(level, color="black", linestyle=style, label=f"genie LMMSE for honest fading{where}")
        seen = [float(level) for result in found.values() for level in result.nmse_db.value.flatten()]
        seen += [row["val_nmse_db"] for run in runs.values() for row in run.curve[len(run.curve) // 4 :]]
        axes[0].set_ylim(min(seen) - 1.5, max(seen) + 1.5)
        axes[0].set_xlabel("training frames [thousand]")
        axes[0].set_ylabel("NMSE [dB]")
        axes[0].set_title("while training: validated on channels\nof the kind it is trained on")
        for axis, (kind, result) in zip(axes[1:], found.items(), strict=True):
            _over_snr(axis, result, colours, "--" if kind == "independent" else ":")
            axis.set_title(f"afterwards: tested on\n{LABELS[kind]}")
        handles, labels = axes[0].get_legend_handles_labels()
        picture.legend(handles, labels, loc="outside lower center", ncols=2)
        model = runs["frozen"].config.model
        frames = max(run.curve[-1]["frames"] for run in runs.values()) / 1000
        many = next(iter(found.values())).num_channels[0]
        title = f"{MODELS[model]}, told the conditions, {frames:.0f},000 training frames; {many} frames a point, bands 95 %"
        picture.suptitle(title, fontsize=9.5)
        figure.save_png(picture, path)


def _over_snr(axis: Any, result: Evaluation, colours: dict[str, str], genie_style: str) -> None:
    x = [float(point) for point in result.points]
    for e, name in enumerate(result.estimators):
        value, low, high = (part[:, e].tolist() for part in result.nmse_db)
        colour = colours.get(name, "black")
        axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
        if name in colours:
            axis.plot(x, value, color=colour, marker="o")
        else:
            axis.plot(x, value, color=colour, linestyle=genie_style)
            # Nothing that has not seen the channels before can lie in here.
            axis.fill_between(x, value, -60, color="#D55E00", alpha=0.06, linewidth=0)
    axis.text(0.03, 0.03, "shaded: below the bound", transform=axis.transAxes, fontsize=7.5, color="#8A4B2A")
    axis.set_xlabel("SNR over the whole grid, as published [dB]")
    top = axis.secondary_xaxis("top", functions=(lambda s: s + GRID_TO_PILOT_DB, lambda s: s - GRID_TO_PILOT_DB))
    top.set_xlabel("SNR of a pilot [dB]", fontsize=8)
