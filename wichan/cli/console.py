"""What the command prints: results on stdout, everything else on stderr, one JSON object where ``--json`` asks for it."""

from __future__ import annotations

import functools
import json
import math
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

_STYLES = {"error": "bold red", "warning": "bold yellow"}


@functools.cache
def stderr() -> Console:
    """The one console on stderr: messages printed on it do not tear a running progress bar. Rich minds NO_COLOR."""
    return Console(stderr=True, highlight=False, markup=False)


def stdout() -> Console:
    """A console on stdout."""
    return Console(highlight=False, markup=False)


def is_terminal() -> bool:
    """Whether results go to a terminal (tables may use lines and colours) or to a file or pipe (plain text)."""
    return stdout().is_terminal


def message(kind: str, text: str) -> None:
    """Print ``KIND: text`` on stderr, on one line whatever ``text`` holds."""
    stderr().print(Text.assemble((f"{kind}: ", _STYLES.get(kind, "")), one_line(text)), soft_wrap=True)


def one_line(text: object) -> str:
    """``text`` with all white space, line breaks too, made single blanks."""
    return " ".join(str(text).split())


def say(text: str) -> None:
    """Print a line of result on stdout, never wrapped."""
    print(text, file=sys.stdout)


def show(renderable: RenderableType) -> None:
    """Print a rich table or text on stdout."""
    stdout().print(renderable)


def emit_json(value: Any) -> None:
    """Print one JSON object on stdout; NaN and infinity, which JSON does not have, become null."""
    print(json.dumps(_jsonable(value), indent=2, allow_nan=False), file=sys.stdout)


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if hasattr(value, "tolist"):
        return _jsonable(value.tolist())
    return str(value)


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show each warning as one line ``warning: ...``, without file names and source code."""
    from wichan.errors import WichanWarning

    def show_one(text: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        message("warning", str(text))

    with warnings.catch_warnings():
        warnings.simplefilter("default", WichanWarning)
        warnings.showwarning = show_one  # type: ignore[assignment]
        yield


def human_bytes(count: float) -> str:
    """A byte count in decimal units: ``"1.50 GB"``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 999.5 else f"{count:,.0f} TB"


def human_seconds(seconds: float) -> str:
    """A duration as people say it: ``"12 s"``, ``"3 min 20 s"``, ``"2 h 05 min"``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def key_values(rows: dict[str, Any]) -> str:
    """Aligned ``key  value`` lines."""
    width = max((len(key) for key in rows), default=0)
    return "\n".join(f"{key.ljust(width)}  {value}".rstrip() for key, value in rows.items())


def plain_rows(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns of text, the header first."""
    table = [header, *rows]
    widths = [max(len(row[c]) for row in table) for c in range(len(header))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """A rich table on a terminal, aligned text elsewhere."""
    if not is_terminal():
        say(plain_rows(header, rows))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    show(table)
