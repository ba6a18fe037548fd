"""From CSV to Markdown: what the blocks of ``docs/results.md`` are made with."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

Row = dict[str, str]
FIGURES = Path("docs/figures")


def read(path: Path) -> list[Row]:
    """Lines of a CSV."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def gap(value: str) -> str:
    """Decibels with a sign."""
    return f"{float(value):+.2f}" if value else ""


def picture(source: Path, name: str, text: str) -> str:
    """Copy a figure and return the line that shows it."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, FIGURES / name)
    return f"![{text}](figures/{name})"


def pivot(rows: list[Row], line: str, column: str, value: Callable[[Row], str], first: str, unit: str = "") -> str:
    """A table with one line for each value of ``line`` and one column for each value of ``column``."""
    rows = [row | {column: row[column].removesuffix(".0")} for row in rows]
    columns = list(dict.fromkeys(row[column] for row in rows))
    cells = {(row[line], row[column]): value(row) for row in rows}
    lines = [[name, *(cells.get((name, key), "") for key in columns)] for name in dict.fromkeys(row[line] for row in rows)]
    return markdown([first, *(f"{key}{unit}" for key in columns)], lines)
