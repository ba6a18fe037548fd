"""Results as text for machines: JSON without NaN, CSV with one line a record."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any


def json_text(data: Any) -> str:
    """Indented JSON; what it has no type for is written as text.

    Raises:
        ValueError: NaN or an infinity, which JSON cannot hold.
    """
    return json.dumps(data, indent=2, allow_nan=False, default=str)


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """CSV of flat records with the keys of the first one; None is an empty field."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()
