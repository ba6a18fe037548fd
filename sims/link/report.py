"""The table on the screen, the CSV and the picture of what was counted."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from link.counts import Pair, Rate, Tally, sign_test, write_json

REFERENCE = "wichan-lmmse"
#: link -> SNR [dB] -> counts, in ascending order
Points = dict[str, dict[float, Tally]]
_RATES = (("bler", "block error rate"), ("ber", "bit error rate"), ("nmse", "NMSE of the channel"))


def rates(tally: Tally, name: str) -> dict[str, Rate]:
    """Block error rate, bit error rate and NMSE of a receiver."""
    return {"bler": tally.bler(name), "ber": tally.ber(name), "nmse": tally.nmse(name)}


def _db(ratio: float) -> float:
    return 10 * math.log10(ratio) if ratio > 0 else -math.inf


def _short(value: float) -> str:
    return f"{value:.3f}" if value >= 0.01 else f"{value:.2e}"


def table(link: str, points: dict[float, Tally], min_errors: int) -> str:
    """Rates of every receiver at every point; ``*`` marks fewer block errors than were asked for."""
    lines = [f"{link}  ({next(iter(points.values())).num_streams} stream(s), 95 % intervals)"]
    lines.append(
        f"{'SNR':>7} {'frames':>7}  {'receiver':14} {'errors':>7}  {'BLER':>25} {'BER':>10} {'NMSE':>10} {'promised':>10}"
    )
    for snr, tally in points.items():
        for index, name in enumerate(tally.receivers):
            found = rates(tally, name)
            bler, errors = found["bler"], tally.block_errors(name)
            head = f"{snr:>4g} dB {tally.frames:>7}" if not index else " " * 15
            span = f"{_short(bler.value)} [{_short(bler.low)}, {_short(bler.high)}]"
            nmse = (f"{_db(value):.2f} dB" if value else "" for value in (found["nmse"].value, tally.promised(name)))
            mark = " " if errors >= min_errors else "*"
            shown = "".join(f" {text:>10}" for text in nmse)
            lines.append(f"{head}  {name:14} {errors:>7}{mark} {span:>25} {_short(found['ber'].value):>10}{shown}".rstrip())
    return "\n".join(lines)


def pair_table(link: str, points: dict[float, Tally], other: str) -> str:
    """Another receiver against wichan's on the same frames, and all points of the link together."""
    lines = [f"{link}: {other} minus {REFERENCE} on the same frames (positive: wichan's is better)"]
    columns = f"{'worse':>6} {'better':>6} {'p':>8}  {'BLER':>31} {'BER':>33} {'NMSE':>9}"
    lines.append(f"{'SNR':>7} {columns}")
    pairs = {snr: tally.pair(other, REFERENCE) for snr, tally in points.items()}
    for snr, pair in pairs.items():
        spans = (f"{rate.value:+.1e} [{rate.low:+.1e}, {rate.high:+.1e}]" for rate in (pair.bler, pair.ber))
        counts = f"{pair.worse:>6} {pair.better:>6} {pair.p_value:>8.1e}"
        lines.append(f"{snr:>4g} dB {counts}  {next(spans):>31} {next(spans):>33} {pair.nmse_db:>+6.2f} dB")
    worse, better = (sum(getattr(pair, field) for pair in pairs.values()) for field in ("worse", "better"))
    lines.append(f"{'all':>7} {worse:>6} {better:>6} {sign_test(worse, better):>8.1e}")
    return "\n".join(lines)


def verdict(points: Points, other: str) -> str:
    """In how many points wichan's receiver is at least as good as another, by estimate, and where its interval leaves no doubt.

    Every interval is one of 95 % by itself, so of many points a few may miss.
    """
    pairs = [tally.pair(other, REFERENCE) for link in points.values() for tally in link.values()]
    parts = []
    for field, label in (("bler", "BLER"), ("ber", "BER"), ("nmse", "NMSE")):
        found = [getattr(pair, field) for pair in pairs]
        good = sum(rate.value >= 0 for rate in found)
        sure, against = sum(rate.low > 0 for rate in found), sum(rate.high < 0 for rate in found)
        parts.append(
            f"{label} not above in {good} of {len(found)} points (95 % interval all below in {sure}, all above in {against})"
        )
    return f"{REFERENCE} against {other}: " + "; ".join(parts)


def _row(link: str, snr: float, tally: Tally, name: str, min_errors: int) -> dict[str, Any]:
    found = rates(tally, name)
    row: dict[str, Any] = {"link": link, "snr_db": snr, "receiver": name, "frames": tally.frames}
    row |= {"blocks": tally.frames * tally.num_streams, "block_errors": tally.block_errors(name)}
    row["enough_errors"] = int(row["block_errors"] >= min_errors)
    for key, rate in found.items():
        row |= {key: rate.value, f"{key}_low": rate.low, f"{key}_high": rate.high}
    row["err_var_over_power"] = tally.promised(name)
    has_pair = REFERENCE in tally.receivers and name != REFERENCE
    pair: Pair | None = tally.pair(name, REFERENCE) if has_pair else None
    row |= {f"frames_{word}": getattr(pair, word) if pair else "" for word in ("worse", "better")}
    row["p_value"] = pair.p_value if pair else ""
    for key, _ in _RATES:
        rate = getattr(pair, key) if pair else ("", "", "")
        row |= dict(zip((f"{key}_minus_wichan", f"{key}_minus_low", f"{key}_minus_high"), rate, strict=True))
    return row


def write_csv(points: Points, path: Path, min_errors: int) -> list[dict[str, Any]]:
    """One line a link, SNR and receiver; returns the lines."""
    rows = [
        _row(link, snr, tally, name, min_errors)
        for link, found in points.items()
        for snr, tally in found.items()
        for name in tally.receivers
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


def write_summary(points: Points, path: Path, about: dict[str, Any], min_errors: int) -> None:
    """CSV and JSON of the same lines; the JSON says how they came about."""
    rows = write_csv(points, path.with_suffix(".csv"), min_errors)
    clean = [{key: value for key, value in row.items() if value != ""} for row in rows]
    write_json(path.with_suffix(".json"), about | {"rows": clean})


def draw(points: Points, path: Path, labels: dict[str, str], subtitle: str, min_errors: int) -> Path:
    """BLER, BER and NMSE over SNR, a column a link; hollow markers have fewer block errors than were asked for."""
    from wichan.evaluation.figure import figure_canvas, save_png

    with figure_canvas(2.9 * len(points) + 0.6, 7.4, 1) as (figure, _):
        figure.clear()
        axes = figure.subplots(3, len(points), squeeze=False, sharex="col", sharey="row")
        for column, (link, found) in enumerate(points.items()):
            for row, (key, label) in enumerate(_RATES):
                _curves(axes[row, column], found, key, labels, min_errors)
                if not column:
                    axes[row, column].set_ylabel(label if key != "nmse" else f"{label} [dB]")
            axes[0, column].set_title(link)
            axes[-1, column].set_xlabel("SNR of a stream at an antenna [dB]")
        handles = {text: handle for axis in axes.flat for handle, text in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=4 if len(points) > 1 else 2)
        figure.suptitle(textwrap.fill(subtitle, 44 * len(points)), fontsize=9.5)
        return save_png(figure, path)


def _curves(axis: Any, points: dict[float, Tally], key: str, labels: dict[str, str], min_errors: int) -> None:
    from wichan.evaluation.figure import MARKERS, PALETTE

    names: Sequence[str] = next(iter(points.values())).receivers
    snr = np.array(list(points))
    for name in names:
        style = list(labels).index(name)
        band = np.array([rates(tally, name)[key] for tally in points.values()])
        seen = band[:, 0] > 0
        if not seen.any():
            continue
        band = 10 * np.log10(band.clip(1e-12)) if key == "nmse" else band
        colour, marker = PALETTE[style], MARKERS[style]
        few = np.array([tally.block_errors(name) < min_errors for tally in points.values()]) & seen & (key != "nmse")
        axis.fill_between(snr[seen], band[seen, 1], band[seen, 2], color=colour, alpha=0.2, linewidth=0)
        axis.plot(snr[seen], band[seen, 0], color=colour, marker=marker, label=labels[name])
        axis.plot(snr[few], band[few, 0], marker, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=1.0)
    if key != "nmse":
        axis.set_yscale("log")
