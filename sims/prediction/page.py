"""The blocks of ``docs/results.md`` about CSI prediction, from the CSV files of ``sims/csi_rrg.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from blocks import Row, markdown, picture, read

from wichan.evaluation.benchmarks.literature import published_rows

FOLDER = Path("csi_rrg")
GENIES = {"wiener-genie-cell": "told the channel model and speed", "wiener-genie-geometry": "told every ray but its phase"}


def small(value: float | None) -> str:
    """Two significant digits; nothing for nothing."""
    if value is None:
        return ""
    return f"{value:.2g}" if value < 1 else f"{value:.2f}"


def mean(rows: Iterable[Row], column: str = "nmse") -> float | None:
    """Mean of a column, over settings."""
    values = [float(row[column]) for row in rows if row[column]]
    return sum(values) / len(values) if values else None


def _rows(folder: Path, name: str) -> list[Row]:
    return read(folder / FOLDER / name / "results.csv")


def _predictors(rows: Sequence[Row], key: Callable[[str], float | None]) -> list[str]:
    """Predictors, the best first, references last."""
    names = list(dict.fromkeys(row["predictor"] for row in rows))
    return sorted(names, key=lambda name: (name in GENIES, key(name) or 0.0))


def _label(name: str) -> str:
    return f"{name}: {GENIES[name]}" if name in GENIES else name


def _by(rows: list[Row], axis: str, points: Sequence[str], headers: Sequence[str], first: str, table: str, duplex: str) -> str:
    """Means over settings, a column a value of an axis and one of all; the published rows below."""
    chosen = [row for row in rows if row[axis] in points]
    lines = []
    for name in _predictors(chosen, lambda name: mean(row for row in chosen if row["predictor"] == name)):
        mine = [row for row in chosen if row["predictor"] == name]
        cells = [small(mean(row for row in mine if row[axis] == point)) for point in points]
        lines.append([_label(name), *cells, small(mean(mine))])
    values = [value if axis == "profile" else float(value) for value in points]
    for name, numbers in published_rows(table, duplex, [*values, "mean"]).items():
        lines.append([f"*{name}, published*", *(small(number) for number in numbers)])
    return markdown([first, *headers, "mean"], lines)


def speed(folder: Path, duplex: str) -> str:
    """Regular settings at 20 dB, by speed."""
    rows = [row for row in _rows(folder, duplex) if row["category"] == "regular" and float(row["degree"]) == 20]
    if (folder / FOLDER / f"{duplex}_references").exists():
        rows += _rows(folder, f"{duplex}_references")
    points = sorted({row["speed"] for row in rows}, key=float)
    headers = [f"{float(point):g} m/s" for point in points]
    return _by(rows, "speed", points, headers, f"{duplex.upper()}, NMSE at 20 dB", "regular-20db-speed", duplex)


def snr(folder: Path, duplex: str) -> str:
    """Regular settings, by SNR."""
    rows = [row for row in _rows(folder, duplex) if row["category"] == "regular"]
    points = sorted({row["degree"] for row in rows}, key=float)
    headers = [f"{float(point):g} dB" for point in points]
    return _by(rows, "degree", points, headers, f"{duplex.upper()}, NMSE over SNR", "regular-snr", duplex)


def places(folder: Path, duplex: str) -> str:
    """Shares of first ranks and mean ranks, receivers only."""
    rows = [row for row in _rows(folder, duplex) if row["predictor"] not in GENIES]
    categories = list(dict.fromkeys(row["category"] for row in rows))
    best: dict[tuple[str, str], int] = {}
    for score, rising in (("nmse", True), ("se", False)):
        by_setting: dict[str, list[Row]] = {}
        for row in rows:
            by_setting.setdefault(row["setting"], []).append(row)
        for group in by_setting.values():
            ordered = sorted(group, key=lambda row: float(row[score]) * (1 if rising else -1))
            key = (ordered[0]["predictor"], f"{score} {ordered[0]['category']}")
            best[key] = best.get(key, 0) + 1
    columns = [f"{score} {category}" for score in ("nmse", "se") for category in categories]
    totals = {column: sum(best.get((name, column), 0) for name in {row["predictor"] for row in rows}) for column in columns}
    names = _predictors(rows, lambda name: -sum(best.get((name, column), 0) for column in columns))
    lines = [[name, *(f"{100 * best.get((name, c), 0) / totals[c]:.0f} %" for c in columns)] for name in names]
    return markdown([f"{duplex.upper()}, share of first ranks by", *columns], lines)


def tables(folder: Path, duplex: str) -> str:
    """All tables and figures of a duplex mode."""
    home = folder / FOLDER / duplex
    parts = [speed(folder, duplex), snr(folder, duplex), places(folder, duplex)]
    parts.append(picture(home / "lines.png", f"csi_rrg_{duplex}_lines.png", f"NMSE over SNR, speed and loss, {duplex.upper()}"))
    parts.append(picture(home / "violin.png", f"csi_rrg_{duplex}_violin.png", f"NMSE of all settings, {duplex.upper()}"))
    return "\n\n".join(parts)


def departure(folder: Path) -> str:
    """Doppler by the angles of the end that moves."""
    rows = [row for row in _rows(folder, "tdd_departure") if row["category"] == "regular" and float(row["degree"]) == 20]
    points = sorted({row["speed"] for row in rows}, key=float)
    headers = [f"{float(point):g} m/s" for point in points]
    return _by(rows, "speed", points, headers, "TDD, the terminal's angles, NMSE at 20 dB", "", "tdd")


BLOCKS: dict[str, Callable[[Path], str]] = {
    "prediction-tdd": lambda folder: tables(folder, "tdd"),
    "prediction-fdd": lambda folder: tables(folder, "fdd"),
    "prediction-departure": departure,
}
