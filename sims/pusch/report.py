"""Measured points on disk, and the table, CSV file and picture made of them."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import torch

from pusch.cases import CASES, SOURCES, Case
from pusch.crossing import TARGET, estimate_crossing
from pusch.receivers import LABELS, NAMES


class Store:
    """Counts of every point, kept after each one: ``{case: {receiver: {offset: [delivered blocks of run 0, 1, ...]}}}``.

    Args:
        path: JSON file; read if it is there.
        settings: what the counts depend on. A file with other settings is refused.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.counts: dict[str, dict[str, dict[int, list[int]]]] = {}
        if path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["settings"] != settings:
                raise ValueError(f"{path} was made with {found['settings']}, now {settings}; choose another --output")
            for case, rows in found["counts"].items():
                self.counts[case] = {name: {int(k): v for k, v in row.items()} for name, row in rows.items()}

    def row(self, case: str, name: str) -> dict[int, list[int]]:
        """Counts by offset [dB] from the requirement."""
        return self.counts.setdefault(case, {}).setdefault(name, {})

    def throughput(self, case: str, name: str, least: int = 1) -> dict[int, float]:
        """Mean throughput by offset, of points with at least ``least`` runs."""
        row, most = self.row(case, name), self.settings["opportunities"]
        return {k: sum(v) / len(v) / most for k, v in sorted(row.items()) if len(v) >= least}

    def save(self, **more: Any) -> None:
        """Write everything, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        content = {"settings": self.settings, "sources": SOURCES, **more, "counts": self.counts}
        draft.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        os.replace(draft, self.path)


def runs_of(store: Store, case: Case, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """SNR [dB] (P,) and throughput of every run (P, R), both float64, over the runs that all points have."""
    row = {k: v for k, v in sorted(store.row(case.name, name).items()) if v}
    shared = min((len(v) for v in row.values()), default=0)
    snr_db = torch.tensor([case.requirement_db + k for k in row], dtype=torch.float64)
    values = [v[:shared] for v in row.values()]
    return snr_db, torch.tensor(values, dtype=torch.float64) / store.settings["opportunities"]


def summarize(store: Store) -> list[dict[str, Any]]:
    """One row a case that has been measured: requirement, and crossing and margin of every receiver."""
    rows = []
    for case in CASES.values():
        if case.name not in store.counts:
            continue
        row: dict[str, Any] = {
            "case": case.name,
            "profile": case.profile,
            "num_rx_ant": case.num_rx_ant,
            "channel": case.channel.name,
            "modulation": case.channel.modulation,
            "requirement_db": case.requirement_db,
            "other_version_db": case.other_db,
        }
        for name in NAMES:
            snr_db, runs = runs_of(store, case, name)
            if len(snr_db) < 2 or not float(runs.mean(1).min()) < TARGET <= float(runs.mean(1).max()):
                continue
            found = estimate_crossing(snr_db, runs)
            row[name] = found._asdict()
            row[name]["margin_db"] = case.requirement_db - found.snr_db
            row[name]["slots"] = runs.shape[1] * store.settings["opportunities"]
        rows.append(row)
    return rows


def _cell(found: dict[str, float] | None) -> str:
    if found is None:
        return "–"
    half = (found["high"] - found["low"]) / 2
    return f"{found['snr_db']:.1f} ± {half:.1f}" if math.isfinite(half) else f"{found['snr_db']:.1f}"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table; SNR in dB with 95 % intervals."""
    head = ["case", "requirement", "wichan practical", "margin", "wichan genie", "Sionna LS", "perfect CSI", "slots"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        own = row.get("practical")
        name = f"{row['profile']}, 1x{row['num_rx_ant']}, {row['channel']} ({row['modulation']})"
        margin = "–" if own is None else f"**{own['margin_db']:+.1f}**"
        slots = "–" if own is None else str(own["slots"])
        cells = [name, f"{row['requirement_db']:.1f}", _cell(own), margin]
        cells += [_cell(row.get(other)) for other in NAMES[1:]]
        lines.append("| " + " | ".join([*cells, slots]) + " |")
    return "\n".join(lines)


def write_csv(store: Store, path: Path) -> None:
    """Every measured point: throughput with its standard error over runs."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = ["case", "profile", "num_rx_ant", "channel", "requirement_db", "receiver", "snr_db", "slots", "throughput"]
        writer.writerow([*names, "standard_error"])
        for case in CASES.values():
            for name in NAMES if case.name in store.counts else ():
                snr_db, runs = runs_of(store, case, name)
                fixed = [case.name, case.profile, case.num_rx_ant, case.channel.name, case.requirement_db, name]
                for point, values in zip(snr_db.tolist(), runs, strict=True):
                    slots = values.numel() * store.settings["opportunities"]
                    error = float(values.std()) / values.numel() ** 0.5
                    writer.writerow([*fixed, f"{point:.1f}", slots, f"{float(values.mean()):.5f}", f"{error:.5f}"])


def draw(store: Store, path: Path) -> None:
    """Throughput over SNR for every case, with the target and the requirement."""
    from wichan.evaluation.figure import figure_canvas, save_png

    shown = [case for case in CASES.values() if case.name in store.counts]
    columns = min(len(shown), 3)
    rows = -(-len(shown) // columns)
    with figure_canvas(max(3.1 * columns, 5.6), 2.6 * rows + 0.9, 1) as (figure, single):
        single[0].remove()
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes, case in zip(panels.flatten(), shown, strict=False):
            _panel(axes, store, case)
        for axes in panels.flatten()[len(shown) :]:
            axes.set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel("SNR per receive antenna [dB]")
        for axes in panels[:, 0]:
            axes.set_ylabel("share of maximum throughput")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns < 3 else 3)
        save_png(figure, path)


def _panel(axes: Any, store: Store, case: Case) -> None:
    from wichan.evaluation.figure import MARKERS, PALETTE

    for i, name in enumerate(NAMES):
        snr_db, runs = runs_of(store, case, name)
        if not len(snr_db):
            continue
        mean, error = runs.mean(1), 1.96 * runs.std(1) / runs.shape[1] ** 0.5
        axes.fill_between(snr_db, mean - error, mean + error, color=PALETTE[i], alpha=0.15, linewidth=0)
        style = "--" if name in ("genie", "perfect") else "-"
        axes.plot(snr_db, mean, style, color=PALETTE[i], marker=MARKERS[i], label=LABELS[name])
    axes.axhline(TARGET, color="#555555", linewidth=0.8)
    axes.plot([case.requirement_db], [TARGET], "*", color="black", markersize=11, label="TS 38.104 requirement", zorder=5)
    axes.set_title(f"{case.profile}, {case.num_rx_ant} Rx, {case.channel.modulation}")
