"""Which prior variances are switched off: thresholds relative to the largest of each factor, and the published sets of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import InvalidValueError, ShapeError, check_choice, check_real

#: Thresholds by M-step; "coupled" is any of them with coupled factors.
DEFAULT = {"svd": 1e-3, "am": 1e-2, "single": 1e-2, "mm": 1e-3, "coupled": 1e-2}

#: Published sets: for random dictionaries (the default of each M-step is theirs), for those with unknown noise, and one a
#: factor (patterns, terminal, base station) for channels over a reflecting surface. Where that set has an absolute floor of
#: 1e-4 on vectors of unit norm, it is the relative one here.
PRESETS: dict[str, dict[str, float | tuple[float, ...]]] = {
    "published": dict(DEFAULT),
    "published-unknown-noise": {"svd": 5e-4, "am": 5e-3, "single": 5e-3, "mm": 5e-4, "coupled": 5e-3},
    "published-irs": {
        "svd": 1e-4,
        "am": (1e-2, 1e-1, 1e-3),
        "single": (1e-2, 1e-1, 1e-3),
        "mm": 1e-4,
        "coupled": (1e-2, 1e-1, 1e-2),
    },
}


def thresholds(prune: Any, m_step: str, coupled: bool, num_factors: int) -> tuple[float, ...]:
    """Return one threshold a factor, each in [0, 1).

    Args:
        prune: ``None`` (the M-step's default), a number, one number a factor, or the name of a published set.
        m_step: name of the M-step.
        coupled: whether any factor is coupled.
        num_factors: how many factors there are.
    """
    kind = "coupled" if coupled else m_step
    if prune is None:
        prune = DEFAULT[kind]
    elif isinstance(prune, str):
        prune = PRESETS[check_choice("prune", prune, PRESETS)][kind]
    values = list(prune) if isinstance(prune, Sequence) else [prune] * num_factors
    if len(values) != num_factors:
        raise ShapeError(f"prune has {len(values)} thresholds; the dictionary has {num_factors} factors")
    checked = tuple(check_real("prune", value, minimum=0.0) for value in values)
    if max(checked) >= 1:
        raise InvalidValueError(f"prune={max(checked):g} must be below 1: a factor keeps its largest variance")
    return checked


def switch_off(gammas: Sequence[torch.Tensor], shares: Sequence[float]) -> list[torch.Tensor]:
    """Set to zero what is below its share of the largest in its factor, (B, Nk) each; shapes stay."""
    return [
        torch.where(g >= share * g.amax(-1, keepdim=True), g, 0) if share else g
        for g, share in zip(gammas, shares, strict=True)
    ]
