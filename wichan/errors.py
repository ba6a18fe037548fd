"""Typed errors and the checks that raise them.

Every message is one line and says three things: the argument, the value that came, and what is allowed.
Checks run once, at the public boundary. Checks that look at tensor *values* are skipped under
``torch.compile``, so that compiled and eager code compute the same thing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch  # imported inside the checks: a command that only prints help starts without it


class WichanError(Exception):
    """Base of all errors that wichan raises on purpose."""


class InvalidValueError(WichanError, ValueError):
    """An argument has the right type but a value that is not allowed."""


class InvalidTypeError(WichanError, TypeError):
    """An argument has a type that is not allowed."""


class ShapeError(InvalidValueError):
    """Tensor shapes do not fit together."""


class UnknownNameError(InvalidValueError):
    """A name (recipe, estimator, key, ...) is not known."""


class NotPositiveDefiniteError(WichanError, ArithmeticError):
    """A matrix that must be Hermitian positive definite is not, even after jitter."""


class StoreError(WichanError, RuntimeError):
    """A data set or a weight file is damaged, incomplete, foreign, locked, or cannot be written."""


class MissingDependencyError(WichanError, ImportError):
    """An optional package is needed; the message names the extra to install."""


class WichanWarning(UserWarning):
    """Base of all warnings that wichan emits on purpose."""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_name(field: str, value: Any, allowed: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown name; suggests the nearest known one."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return UnknownNameError(f"{field}={_shown(value)} is unknown{hint} (known: {shown})")


def check_choice(field: str, value: Any, allowed: Iterable[str]) -> Any:
    """Return ``value`` if it is one of ``allowed``; else raise `UnknownNameError` with the nearest name."""
    names = list(allowed)
    if value not in names:
        raise unknown_name(field, value, names)
    return value


def check_int(field: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return ``value`` as an int within the bounds (bools and floats are refused)."""
    if isinstance(value, bool) or not (isinstance(value, int) or hasattr(value, "__index__")):
        raise InvalidTypeError(f"{field}={_shown(value)} must be an integer, got {type(value).__name__}")
    number = int(value)
    if minimum is not None and number < minimum:
        raise InvalidValueError(f"{field}={number} must be at least {minimum}")
    if maximum is not None and number > maximum:
        raise InvalidValueError(f"{field}={number} must be at most {maximum}")
    return number


def check_real(
    field: str, value: Any, *, minimum: float | None = None, maximum: float | None = None, positive: bool = False
) -> float:
    """Return ``value`` as a finite float within the bounds."""
    if isinstance(value, (bool, str)) or value is None:
        raise InvalidTypeError(f"{field}={_shown(value)} must be a real number, got {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"{field}={_shown(value)} must be a real number, got {type(value).__name__}") from None
    if not math.isfinite(number):
        raise InvalidValueError(f"{field}={number} must be finite")
    if positive and number <= 0:
        raise InvalidValueError(f"{field}={number:g} must be greater than 0")
    if minimum is not None and number < minimum:
        raise InvalidValueError(f"{field}={number:g} must be at least {minimum:g}")
    if maximum is not None and number > maximum:
        raise InvalidValueError(f"{field}={number:g} must be at most {maximum:g}")
    return number


def check_tensor(field: str, value: Any, *, kind: str = "any") -> torch.Tensor:
    """Return ``value`` if it is a tensor of ``kind`` ("complex", "real", "any"); half precision is refused."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise InvalidTypeError(f"{field} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype in (torch.float16, torch.bfloat16, torch.complex32):
        raise InvalidTypeError(f"{field} has dtype {value.dtype}; allowed are single and double precision")
    if kind == "complex" and not value.is_complex():
        raise InvalidTypeError(f"{field} has dtype {value.dtype}; allowed are torch.complex64 and torch.complex128")
    if kind == "real" and not value.is_floating_point():
        raise InvalidTypeError(f"{field} has dtype {value.dtype}; allowed are torch.float32 and torch.float64")
    return value


def check_finite(field: str, value: torch.Tensor) -> torch.Tensor:
    """Raise if ``value`` holds NaN or infinity (skipped under ``torch.compile``)."""
    import torch

    if torch.compiler.is_compiling():
        return value
    # One reduction instead of a mask the size of the tensor: a sum is finite only if every term is,
    # and the rare overflow of a finite sum is settled by the exact test.
    total = value.detach().abs().sum() if value.is_complex() else value.detach().sum()
    if not math.isfinite(float(total)):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise InvalidValueError(f"{field} holds {bad} NaN or infinite of {value.numel()} values; all must be finite")
    return value


def check_shape(field: str, value: torch.Tensor, trailing: tuple[int | None, ...]) -> torch.Tensor:
    """Raise unless the last axes of ``value`` equal ``trailing`` (``None`` matches any size)."""
    have = tuple(value.shape[max(value.dim() - len(trailing), 0) :])
    if len(have) != len(trailing) or any(w is not None and w != g for w, g in zip(trailing, have, strict=True)):
        want = ", ".join("*" if w is None else str(w) for w in trailing)
        raise ShapeError(f"{field} has shape {tuple(value.shape)}; the last axes must be ({want})")
    return value


def check_noise(
    no: Any, batch_shape: torch.Size | tuple[int, ...], *, dtype: torch.dtype, device: torch.device | str, field: str = "no"
) -> torch.Tensor:
    """Return the noise variance as a real tensor that broadcasts to ``batch_shape`` from the left.

    A number, or a tensor whose shape equals the first axes of ``batch_shape`` (Sionna's habit); missing axes are
    appended, so that ``(B,)`` works for a batch ``(B, R)``. Values must be finite and not negative.
    """
    import torch

    if isinstance(no, (bool, str)) or no is None:
        raise InvalidTypeError(f"{field}={_shown(no)} must be a number or a real tensor, got {type(no).__name__}")
    if isinstance(no, torch.Tensor) and no.is_complex():
        raise InvalidTypeError(f"{field} has dtype {no.dtype}; a noise variance is real")
    try:
        tensor = torch.as_tensor(no, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"{field}={_shown(no)} must be a number or a real tensor, got {type(no).__name__}") from None
    if not torch.compiler.is_compiling():
        low, high = (float(v) for v in torch.aminmax(tensor.detach())) if tensor.numel() else (0.0, 0.0)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InvalidValueError(f"{field} holds NaN or infinite values; a noise variance must be finite and at least 0")
        if low < 0:
            raise InvalidValueError(f"{field}={low:g} must be at least 0")
        if high > 1e30:  # products with it would overflow single precision
            raise InvalidValueError(f"{field}={high:g} must be at most 1e30")
    if tensor.dim() == 1 and tensor.shape[0] == 1:
        tensor = tensor.reshape(())
    if tensor.dim() > len(batch_shape):
        raise ShapeError(f"{field} has shape {tuple(tensor.shape)}; it must fit the batch {tuple(batch_shape)}")
    for have, want in zip(tensor.shape, batch_shape, strict=False):
        if have not in (1, want):
            raise ShapeError(f"{field} has shape {tuple(tensor.shape)}; it must fit the batch {tuple(batch_shape)}")
    if tensor.dim():
        tensor = tensor.reshape(*tensor.shape, *([1] * (len(batch_shape) - tensor.dim())))
    return tensor


def check_generator(field: str, value: Any) -> torch.Generator:
    """Return ``value`` if it is a `torch.Generator`; randomness is always an argument."""
    import torch

    if not isinstance(value, torch.Generator):
        raise InvalidTypeError(f"{field} must be a torch.Generator, got {type(value).__name__}")
    return value
