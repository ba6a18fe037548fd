"""Published numbers beside ours: rows of tables, kept as data with their source."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("published.json")


@functools.cache
def published_tables() -> dict[str, Any]:
    """The data file: ``source``, and ``tables`` name -> duplex mode -> ``columns`` and ``rows``."""
    found: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    return found


def published_rows(table: str, duplex: str, columns: Sequence[Any]) -> dict[str, list[float | None]]:
    """Published rows of a table, arranged under our columns.

    Args:
        table: such as ``"regular-20db-speed"``.
        duplex: ``"tdd"`` or ``"fdd"``.
        columns: values of our columns, in SI units, and ``"mean"``.

    Returns:
        method -> numbers, None where nothing was published; empty where there is no such table.
    """
    found = published_tables()["tables"].get(table, {}).get(duplex)
    if found is None:
        return {}
    places = [_place(found["columns"], column) for column in columns]
    return {
        method: [None if place is None else numbers[place] for place in places]
        for method, numbers in found["rows"].items()
        if any(place is not None and numbers[place] is not None for place in places)
    }


def _place(columns: list[Any], wanted: Any) -> int | None:
    for number, column in enumerate(columns):
        text = isinstance(column, str) or isinstance(wanted, str)
        if column == wanted if text else abs(column - wanted) <= 1e-6 * abs(column):
            return number
    return None
