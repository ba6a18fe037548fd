"""Checks for parameters that may differ from sample to sample: delay spread, Doppler, speed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_real, unknown_name


def per_sample(field: str, value: Any, batch_size: int | None = None, *, minimum: float = 0.0) -> torch.Tensor:
    """Return a condition as float64, () for a number or (batch_size,) for a tensor; finite and at least ``minimum``."""
    if not isinstance(value, torch.Tensor):
        return torch.tensor(check_real(field, value, minimum=minimum), dtype=torch.float64)
    if value.is_complex() or value.dtype == torch.bool:
        raise InvalidTypeError(f"{field} has dtype {value.dtype}; it must be real")
    if value.dim() > 1 or (value.dim() == 1 and batch_size is not None and value.shape[0] != batch_size):
        allowed = "(batch_size,)" if batch_size is None else f"({batch_size},)"
        raise ShapeError(f"{field} has shape {tuple(value.shape)}; it must be () or {allowed}")
    value = value.to(device="cpu", dtype=torch.float64)  # parameters are drawn and kept on the CPU
    if value.numel() and not bool((torch.isfinite(value) & (value >= minimum)).all()):
        raise InvalidValueError(
            f"{field} holds values that are NaN, infinite or below {minimum:g}; all must be at least {minimum:g}"
        )
    return value


def check_delay_spread(value: Any) -> float:
    """Return an RMS delay spread in seconds; beyond a millisecond it is a slip of the unit."""
    spread = check_real("delay_spread", value, minimum=0.0)
    if spread > 1e-3:
        raise InvalidValueError(f"delay_spread={spread:g} must be at most 0.001 (in seconds: 100 ns is 100e-9)")
    return spread


def check_max_doppler(value: Any) -> float:
    """Return a maximum Doppler shift in Hz, at most 10 MHz."""
    return check_real("max_doppler", value, minimum=0.0, maximum=1e7)


def refuse_unknown(unknown: dict[str, Any], known: Iterable[str]) -> None:
    """Raise for the first condition that the model does not know."""
    if unknown:
        raise unknown_name("condition", next(iter(unknown)), known)
