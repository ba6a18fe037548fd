"""The table of NMSE, bit error rate, SINR, rate or a measure of an IRS: rich on a terminal, aligned plain text elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from wichan.errors import check_choice
from wichan.evaluation.labels import axis_label, point_text, shown_point
from wichan.evaluation.measures import MEASURES
from wichan.evaluation.result import Evaluation
from wichan.evaluation.statistics import Interval

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_GROUPS = ("conditions unknown", "conditions known")
_POINTS_PER_BLOCK = 9
#: What a table can show -> its name, and the width of a column on a terminal.
METRICS = {
    "nmse": ("NMSE [dB]", 7),
    "ber": ("Bit error rate", 9),
    "sinr": ("Effective SINR [dB]", 7),
    "rate": ("Achievable rate [bit/s/Hz]", 7),
} | {name: (measure.title, measure.width) for name, measure in MEASURES.items()}
_RISING = ("sinr", "rate", *(name for name, measure in MEASURES.items() if measure.rising))  # more is better
# Where nobody can know better: what a receiver that knows the channel would have is 0, or nothing.
_NO_KNOWN = ("nmse", *(name for name, measure in MEASURES.items() if not measure.known))
_KNOWN = "known channel"


def _point_text(evaluation: Evaluation, point: float | str) -> str:
    return point_text(shown_point(evaluation.sweep, point))


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


def _level(evaluation: Evaluation, metric: str) -> Interval:
    """What the cells hold; a column after the estimators is a receiver that knows the channel."""
    if metric == "nmse":
        return evaluation.nmse_db
    if metric == "rate":
        return evaluation.measured_rates()
    if metric in MEASURES:
        return MEASURES[metric].shown(evaluation.measured(metric))
    return evaluation.link().ber if metric == "ber" else evaluation.link().sinr_db


def _cell(evaluation: Evaluation, metric: str, level: Interval, point: int, column: int) -> str:
    value = float(level.value[point, column])
    if metric in MEASURES:
        return MEASURES[metric].cell(value)
    if metric != "ber":
        return f"{value:.2f}"
    return f"{value:.2e}" if value > 0 else f"<{1 / evaluation.measured_detail().num_bits[point]:.0e}"


def title(evaluation: Evaluation, metric: str = "nmse") -> str:
    """What the table shows, in one line."""
    source = evaluation.provenance.get("recipe") or evaluation.provenance.get("data") or "channels"
    return f"{METRICS[metric][0]} of {source} against {axis_label(evaluation.sweep)}"


def caption(evaluation: Evaluation, metric: str = "nmse") -> str:
    """Number of channels, widest interval, and what the score is."""
    low, high = min(evaluation.num_channels), max(evaluation.num_channels)
    channels = f"{low}" if low == high else f"{low} to {high}"
    level = _level(evaluation, metric)
    half = (level.high - level.low) / 2
    if metric in MEASURES:
        widest = MEASURES[metric].widest(level)
    elif metric == "ber":
        widest = f"{100 * float((half / level.value).nan_to_num(0.0).max()):.0f} %"
    else:
        widest = f"{float(half.nan_to_num(0.0).max()):.2f} {'bit/s/Hz' if metric == 'rate' else 'dB'}"
    noun = "channel" if high == 1 else "channels"
    if metric in MEASURES and not MEASURES[metric].random:
        return f"{channels} {noun} a point, the same for all; {MEASURES[metric].about}"
    # One channel has no spread to resample: its interval of width 0 would read as certainty.
    intervals = f"95 % intervals at most ±{widest}" if low > 1 else "a point of one channel has no interval"
    text = f"{channels} {noun} a point, the same for all; {intervals}"
    if metric in MEASURES:
        return f"{text}; {MEASURES[metric].about}"
    if metric == "rate":
        return f"{text}; use-and-then-forget bound of maximum-ratio combining, data through the same converters"
    if metric != "nmse":
        options = evaluation.measured_detail().options
        streams = "1 stream" if options.num_streams == 1 else f"{options.num_streams} streams"
        data = f"uncoded {options.modulation}, " if metric == "ber" else ""
        return f"{text}; {data}{streams} after LMMSE equalisation"
    if evaluation.statistics.score_db is not None:
        text += f"; score: mean over points of the gap to {evaluation.reference} [dB]"
    return text


def plain_table(evaluation: Evaluation, metric: str = "nmse") -> str:
    """The table of ``"nmse"``, ``"ber"``, ``"sinr"``, ``"rate"`` or a measure of an IRS as aligned plain text.

    Raises:
        InvalidValueError: another metric, or one that was not measured.
    """
    check_choice("metric", metric, METRICS)
    level = _level(evaluation, metric)
    scored = metric == "nmse" and evaluation.statistics.score_db is not None
    blocks = _blocks(evaluation)
    lines = [title(evaluation, metric)]
    for number, block in enumerate(blocks):
        header = ["estimator", *(_point_text(evaluation, evaluation.points[p]) for p in block)]
        with_score = scored and number == len(blocks) - 1
        table: list[list[str]] = [header + (["score [95 %]"] if with_score else [])]
        for heading, group in _groups(evaluation):
            if heading:
                table.append([heading])
            for e in group:
                cells = [_cell(evaluation, metric, level, p, e) for p in block]
                table.append([evaluation.estimators[e], *cells, *([_score_text(evaluation, e)] if with_score else [])])
        if metric not in _NO_KNOWN:
            table += [["for comparison"], [_KNOWN, *(_cell(evaluation, metric, level, p, -1) for p in block)]]
        lines += ["", *_aligned(table)]
    return "\n".join([*lines, "", caption(evaluation, metric)])


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


def rich_table(evaluation: Evaluation, width: int | None = None, metric: str = "nmse") -> Group:
    """The table for a terminal ``width`` columns wide; the best estimator of each group and point is bold.

    Raises:
        InvalidValueError: another metric than in `plain_table`, or one that was not measured.
    """
    from rich.console import Group
    from rich.text import Text

    check_choice("metric", metric, METRICS)
    names = max(len(name) for name in (*evaluation.estimators, *_GROUPS))
    room = _POINTS_PER_BLOCK if width is None else max(1, (width - names - 15) // METRICS[metric][1])
    blocks = _blocks(evaluation, min(room, _POINTS_PER_BLOCK))
    tables = [_rich_block(evaluation, metric, block, last=block is blocks[-1]) for block in blocks]
    return Group(Text(title(evaluation, metric), style="bold"), *tables, Text(caption(evaluation, metric), style="dim"))


def _rich_block(evaluation: Evaluation, metric: str, block: range, *, last: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    scored = last and metric == "nmse" and evaluation.statistics.score_db is not None
    table = Table(box=SIMPLE_HEAD, padding=0)
    table.add_column("estimator", no_wrap=True)
    for p in block:
        table.add_column(_point_text(evaluation, evaluation.points[p]), justify="right", no_wrap=True)
    if scored:
        table.add_column("score", justify="right", no_wrap=True)
    level = _level(evaluation, metric)
    rank = (-level.value if metric in _RISING else level.value).nan_to_num(torch.inf, posinf=torch.inf, neginf=-torch.inf)
    for index, (heading, group) in enumerate(_groups(evaluation)):
        if index:
            table.add_section()
        if heading:
            table.add_row(Text(heading, style="italic dim"))
        best = rank[:, group].min(dim=1).values
        for e in group:
            styles = ["bold" if rank[p, e] <= best[p] else "" for p in block]
            cells = [Text(_cell(evaluation, metric, level, p, e), style=s) for p, s in zip(block, styles, strict=True)]
            table.add_row(Text(evaluation.estimators[e]), *cells, *([Text(_score_text(evaluation, e, short=True))] * scored))
    if metric not in _NO_KNOWN:
        table.add_section()
        table.add_row(Text(_KNOWN), *(Text(_cell(evaluation, metric, level, p, -1)) for p in block))
    return table
