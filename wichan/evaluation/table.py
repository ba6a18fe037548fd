"""The NMSE table: rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wichan.evaluation.result import Evaluation, axis_label, shown_point

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_GROUPS = ("conditions unknown", "conditions known")
_POINTS_PER_BLOCK = 9


def _point_text(evaluation: Evaluation, point: float | str) -> str:
    shown = shown_point(evaluation.sweep, point)
    return shown if isinstance(shown, str) else f"{shown:.4g}"


def _score_text(evaluation: Evaluation, estimator: int, *, short: bool = False) -> str:
    score = evaluation.statistics.score_db
    if score is None:
        return ""
    value, low, high = (float(part[estimator]) for part in score)
    if evaluation.estimators[estimator] == evaluation.reference:
        return "reference"
    if math.isnan(low):
        return f"{value:+.2f}"
    return f"{value:+.2f} ±{(high - low) / 2:.2f}" if short else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"


def _blocks(evaluation: Evaluation, size: int = _POINTS_PER_BLOCK) -> list[range]:
    """Ranges of points that fit one table; a long sweep takes several."""
    total = len(evaluation.points)
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _groups(evaluation: Evaluation) -> list[tuple[str, list[int]]]:
    """Titled groups of estimators, best first; the title is empty when there is one group only."""
    filled = [(title, group) for title, group in zip(_GROUPS, evaluation.ranking, strict=True) if group]
    return filled if len(filled) > 1 else [("", group) for _, group in filled]


def title(evaluation: Evaluation) -> str:
    """What the table shows, in one line."""
    source = evaluation.provenance.get("recipe") or evaluation.provenance.get("data") or "channels"
    return f"NMSE [dB] of {source} against {axis_label(evaluation.sweep)}"


def caption(evaluation: Evaluation) -> str:
    """Number of channels, widest interval, and what the score is."""
    low, high = min(evaluation.num_channels), max(evaluation.num_channels)
    channels = f"{low}" if low == high else f"{low} to {high}"
    level = evaluation.nmse_db
    half = (level.high - level.low).nan_to_num(0.0).max() / 2
    text = f"{channels} channels a point, the same for all; 95 % intervals at most ±{float(half):.2f} dB"
    if evaluation.statistics.score_db is not None:
        text += f"; score: mean over points of the gap to {evaluation.reference} [dB]"
    return text


def plain_table(evaluation: Evaluation) -> str:
    """The table as aligned plain text."""
    scored = evaluation.statistics.score_db is not None
    blocks = _blocks(evaluation)
    lines = [title(evaluation)]
    for number, block in enumerate(blocks):
        header = ["estimator", *(_point_text(evaluation, evaluation.points[p]) for p in block)]
        with_score = scored and number == len(blocks) - 1
        table: list[list[str]] = [header + (["score [95 %]"] if with_score else [])]
        for heading, group in _groups(evaluation):
            if heading:
                table.append([heading])
            for e in group:
                cells = [f"{float(evaluation.nmse_db.value[p, e]):.2f}" for p in block]
                table.append([evaluation.estimators[e], *cells, *([_score_text(evaluation, e)] if with_score else [])])
        lines += ["", *_aligned(table)]
    return "\n".join([*lines, "", caption(evaluation)])


def _aligned(table: list[list[str]]) -> list[str]:
    """Pad columns: first to the left, others to the right; a row of one cell is a heading and sets no width."""
    full = [row for row in table if len(row) > 1]
    widths = [max(len(row[c]) for row in full) for c in range(len(full[0]))]
    lines = []
    for row in table:
        if len(row) == 1:
            lines.append(f"-- {row[0]}")
        else:
            lines.append("  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]))
    return [line.rstrip() for line in lines]


def rich_table(evaluation: Evaluation, width: int | None = None) -> Group:
    """The table for a terminal ``width`` columns wide; the best estimator of each group and point is bold."""
    from rich.console import Group
    from rich.text import Text

    names = max(len(name) for name in (*evaluation.estimators, *_GROUPS))
    room = _POINTS_PER_BLOCK if width is None else max(1, (width - names - 15) // 7)
    blocks = _blocks(evaluation, min(room, _POINTS_PER_BLOCK))
    tables = [_rich_block(evaluation, block, last=block is blocks[-1]) for block in blocks]
    return Group(Text(title(evaluation), style="bold"), *tables, Text(caption(evaluation), style="dim"))


def _rich_block(evaluation: Evaluation, block: range, *, last: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    scored = last and evaluation.statistics.score_db is not None
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("estimator", no_wrap=True)
    for p in block:
        table.add_column(_point_text(evaluation, evaluation.points[p]), justify="right", no_wrap=True)
    if scored:
        table.add_column("score", justify="right", no_wrap=True)
    level = evaluation.nmse_db.value
    for index, (heading, group) in enumerate(_groups(evaluation)):
        if index:
            table.add_section()
        if heading:
            table.add_row(Text(heading, style="italic dim"))
        best = level[:, group].min(dim=1).values
        for e in group:
            cells = [Text(f"{float(level[p, e]):.2f}", style="bold" if level[p, e] <= best[p] else "") for p in block]
            table.add_row(Text(evaluation.estimators[e]), *cells, *([Text(_score_text(evaluation, e, short=True))] * scored))
    return table
