"""The tables of a benchmark: rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from wichan.evaluation.benchmarks.result import BenchmarkResult
from wichan.evaluation.benchmarks.sheets import Sheet, caption_of, sheets

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_INTERVAL = re.compile(r" \[[^]]*\]")


def plain_tables(result: BenchmarkResult) -> str:
    """All tables as aligned plain text."""
    blocks = [
        "\n".join([sheet.title, *_aligned(sheet), *([sheet.caption] if sheet.caption else [])]) for sheet in sheets(result)
    ]
    return "\n\n".join([*blocks, "\n".join(caption_of(result))])


def _aligned(sheet: Sheet) -> list[str]:
    table = [sheet.header, *sheet.rows]
    widths = [max(len(row[c]) for row in table) for c in range(len(sheet.header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def rich_tables(result: BenchmarkResult, width: int | None = None) -> Group:
    """All tables for a terminal ``width`` columns wide; the best of our predictors in each column is bold, published rows dim.

    Where a table is too wide its intervals are left out, and if that does not do, it goes on below itself.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Table | Text] = []
    for sheet in sheets(result):
        parts.append(Text(sheet.title, style="bold"))
        parts += [_rich(piece) for piece in fitted_sheets(sheet, width)]
        parts += [Text(sheet.caption, style="dim"), Text()]
    return Group(*parts, *(Text(line, style="dim") for line in caption_of(result)))


def fitted_sheets(sheet: Sheet, width: int | None) -> list[Sheet]:
    """A table, or the same without intervals, or in pieces side by side, each at most ``width`` characters wide."""
    if width is None or sum(_widths(sheet)) <= width:
        return [sheet]
    bare = replace(sheet, rows=[[_INTERVAL.sub("", cell) for cell in row] for row in sheet.rows])
    widths = _widths(bare)
    pieces, first = [], 1
    while first < len(widths):
        last, used = first, widths[0]
        while last < len(widths) and (last == first or used + widths[last] <= width):
            used += widths[last]
            last += 1
        kept = [0, *range(first, last)]
        best = {(r, kept.index(c)) for r, c in sheet.best if c in kept}
        rows = [[row[c] for c in kept] for row in bare.rows]
        pieces.append(replace(bare, header=[bare.header[c] for c in kept], rows=rows, best=best))
        first = last
    return pieces


def _widths(sheet: Sheet) -> list[int]:
    """Characters of each column, with the blanks beside it."""
    return [max(len(row[c]) for row in [sheet.header, *sheet.rows]) + 3 for c in range(len(sheet.header))]


def _rich(sheet: Sheet) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False)
    for number, name in enumerate(sheet.header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for r, row in enumerate(sheet.rows):
        if r == sheet.published:
            table.add_section()
        dim = sheet.published is not None and r >= sheet.published
        styles = ["dim" if dim else "bold" if (r, c) in sheet.best else "" for c in range(len(row))]
        table.add_row(*(Text(cell, style=style) for cell, style in zip(row, styles, strict=True)))
    return table
