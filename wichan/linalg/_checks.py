"""Shape and dtype checks that every file of this room shares."""

from __future__ import annotations

import torch

from wichan.errors import InvalidTypeError, ShapeError, check_tensor


def check_numeric(field: str, value: torch.Tensor, *, min_dim: int) -> torch.Tensor:
    """Return ``value`` if it is a real or complex floating-point tensor whose last ``min_dim`` axes are not empty."""
    check_tensor(field, value)
    if not (value.is_floating_point() or value.is_complex()):
        raise InvalidTypeError(f"{field} has dtype {value.dtype}; allowed are single and double precision, real or complex")
    if value.dim() < min_dim or 0 in value.shape[value.dim() - min_dim :]:
        raise ShapeError(f"{field} has shape {tuple(value.shape)}; it needs at least {min_dim} non-empty trailing axes")
    return value


def check_matrix(field: str, value: torch.Tensor) -> torch.Tensor:
    r"""Return ``value`` if it is a batch of matrices (\*batch, m, n)."""
    return check_numeric(field, value, min_dim=2)


def check_square(field: str, value: torch.Tensor) -> torch.Tensor:
    r"""Return ``value`` if it is a batch of square matrices (\*batch, n, n)."""
    check_matrix(field, value)
    if value.shape[-1] != value.shape[-2]:
        raise ShapeError(f"{field} has shape {tuple(value.shape)}; the last two axes must be equal")
    return value


def check_same_precision(field: str, dtype: torch.dtype, other_field: str, other: torch.dtype) -> torch.dtype:
    """Return the common dtype; real meets complex freely, but single precision never meets double silently."""
    if torch.finfo(dtype).eps != torch.finfo(other).eps:
        raise InvalidTypeError(f"{other_field} has dtype {other} but {field} has dtype {dtype}; both must have one precision")
    return torch.promote_types(dtype, other)


def broadcast_batch(field: str, batch: torch.Size, other_field: str, other: torch.Size) -> torch.Size:
    """Return the broadcast of two batch shapes, or raise a one-line `ShapeError`."""
    try:
        return torch.broadcast_shapes(batch, other)
    except RuntimeError:
        raise ShapeError(
            f"{other_field} has batch axes {tuple(other)}; they do not broadcast with {tuple(batch)} of {field}"
        ) from None


def as_columns(rhs: torch.Tensor, size: int, field: str) -> tuple[torch.Tensor, bool]:
    r"""Return ``rhs`` as (\*batch, size, k) and whether it came as one vector (size,)."""
    check_numeric(field, rhs, min_dim=1)
    vector = rhs.dim() == 1
    columns = rhs.unsqueeze(-1) if vector else rhs
    if columns.shape[-2] != size:
        want = f"({size},)" if vector else f"(*batch, {size}, k)"
        raise ShapeError(f"{field} has shape {tuple(rhs.shape)}; it must be {want}")
    return columns, vector
