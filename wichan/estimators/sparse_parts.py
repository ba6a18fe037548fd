"""Batches of sparse problems solved in parts that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch

from wichan.estimators.sparse import Solution

_PART_BYTES = {"cpu": 2**27, "cuda": 2**33}  # what the arrays over all coefficients of one part may take


def solve_in_parts(solve: Callable[..., Solution], bytes_each: float, *rows: torch.Tensor | None) -> Solution:
    """Call ``solve`` with some instances at a time and put the answers together.

    Args:
        solve: takes what ``rows`` holds, for some instances.
        bytes_each: what one instance takes.
        rows: tensors whose first axis are the instances, the first of them given; ``None`` stays ``None``.
    """
    first = rows[0]
    assert first is not None
    step = max(1, int(_PART_BYTES.get(first.device.type, 2**27) // max(bytes_each, 1)))
    if step >= len(first):
        return solve(*rows)
    parts = []
    for start in range(0, len(first), step):
        parts.append(solve(*(None if row is None else row[start : start + step] for row in rows)))
    return Solution(**{field.name: _joined([getattr(part, field.name) for part in parts]) for field in fields(Solution)})


def _joined(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], tuple):
        return tuple(_joined(list(items)) for items in zip(*values, strict=True))
    if values[0].dim() == 2 and len({value.shape[1] for value in values}) > 1:  # histories end with the last of their part
        longest = max(value.shape[1] for value in values)
        values = [torch.nn.functional.pad(value, (0, longest - value.shape[1]), value=math.nan) for value in values]
    return torch.cat(values)
