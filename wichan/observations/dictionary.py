"""A dictionary with Kronecker structure: measurements, channels and coefficients as small arrays, never as one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_shape,
    check_tensor,
)
from wichan.linalg.kronecker import kron, mode_product

# A column this far below the longest of its factor is a zero that was computed in floating point.
ZERO_COLUMN = 1e-10
MAX_DENSE = 1 << 27


def mode_products(x: torch.Tensor, matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    r"""Multiply every axis behind the batch by its own matrix: :math:`X \times_1 H_1 \times_2 H_2 \cdots \times_I H_I`.

    Args:
        x: (\*batch, N1, ..., NI).
        matrices: I matrices (Mk, Nk) of one dtype, that of ``x``, shared by the batch.

    Returns:
        (\*batch, M1, ..., MI).

    Cost: 2 (8 for complex) FLOP times Mk for each element that stands before mode k is multiplied; modes that shrink most
    (or grow least) come first.
    """
    lead = x.shape[: x.dim() - len(matrices)]
    if math.prod(lead) == 1:
        # H X^T of a row-major X puts the result in front, row-major again: after I plain products the axes are in order.
        for matrix in reversed(matrices):
            x = matrix @ x.reshape(-1, matrix.shape[-1]).mT
        return x.reshape(*lead, *(matrix.shape[-2] for matrix in matrices))
    order = sorted(range(len(matrices)), key=lambda k: matrices[k].shape[-2] / matrices[k].shape[-1])
    for k in order:
        x = mode_product(x, matrices[k], len(lead) + k)
    return x


class KroneckerDictionary(nn.Module):
    r"""Coefficients to measurements and to channels, one small matrix an axis.

    .. math:: y = (H_1 \otimes H_2 \otimes \dots \otimes H_I)\, x, \qquad h = (S_1 \otimes S_2 \otimes \dots \otimes S_I)\, x

    The last factor runs fastest, so that :math:`y` as an array (M1, ..., MI) is the coefficients' array (N1, ..., NI) with
    every axis multiplied by its factor. Nothing of size M x N is ever made, except by `dense`.

    Args:
        measurement: the factors :math:`H_k`, real or complex, (Mk, Nk).
        synthesis: the factors :math:`S_k`, (Ck, Nk): what a coefficient adds to the channel. ``None``: the channel is x.
        names: a name for every factor, to address it; default ``"mode0"``, ``"mode1"``, ...
        grids: the shape of the grid that a factor's columns stand for, ``(18,)`` or ``(18, 18)``, the last axis fastest;
            ``None`` for columns without neighbours. Columns beyond the grid (a direct link) stand alone, at the end.
        periodic: whether the ends of a factor's grid are neighbours; default no.
        channel_order: order of the factors' axes in the channel; default as they come.

    Attributes:
        factors, synthesis: tuples of matrices (``synthesis`` is ``None`` where the channel is x).
        names, grids, periodic: as given, one entry a factor.
        num_rows, num_atoms: (M1, ..., MI) and (N1, ..., NI).
        channel_shape: shape of the channel.
        is_complex: whether any factor is.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: no factors, no matrix, NaN, a zero column, sizes that do not fit.

    Source: [He2024]_.

    Example:
        >>> dictionary = KroneckerDictionary([torch.ones(2, 3), torch.eye(4)])
        >>> dictionary.measure(torch.ones(5, 3, 4)).shape
        torch.Size([5, 8])
    """

    def __init__(
        self,
        measurement: Sequence[torch.Tensor],
        synthesis: Sequence[torch.Tensor] | None = None,
        *,
        names: Sequence[str] | None = None,
        grids: Sequence[Sequence[int] | None] | None = None,
        periodic: Sequence[bool] | None = None,
        channel_order: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        given = _check_factors("measurement", measurement)
        count = len(given)
        self.num_rows = tuple(int(factor.shape[0]) for factor in given)
        self.num_atoms = tuple(int(factor.shape[1]) for factor in given)
        self.names = _check_names(names, count)
        _check_columns(given, self.names)
        self.grids = _check_grids(grids, self.num_atoms)
        self.periodic = (False,) * count if periodic is None else _per_factor("periodic", [bool(p) for p in periodic], count)
        made = None if synthesis is None else _check_factors("synthesis", synthesis)
        if made is not None and [factor.shape[1] for factor in made] != list(self.num_atoms):
            found = tuple(int(factor.shape[1]) for factor in made)
            raise ShapeError(f"synthesis has {found} columns; it must have as many as measurement, {self.num_atoms}")
        self.channel_order = _check_order(channel_order, count)
        sizes = self.num_atoms if made is None else tuple(int(factor.shape[0]) for factor in made)
        self.channel_shape = tuple(sizes[k] for k in self.channel_order)
        self.has_synthesis = made is not None
        self.is_complex = any(factor.is_complex() for factor in (*given, *(made or ())))
        self._store("measurement", given)
        self._store("synthesis", made or [])

    # Factors are real buffers [..., 2] where they are complex, as `wichan.nn.buffers.ComplexBuffer` keeps them.
    def _store(self, label: str, matrices: Sequence[torch.Tensor]) -> None:
        double = torch.complex128 if self.is_complex else torch.float64
        for index, matrix in enumerate(matrices):
            value = matrix.to(double)
            value = torch.view_as_real(value.resolve_conj()).contiguous() if self.is_complex else value
            self.register_buffer(f"{label}{index}", value)

    def _matrices(self, label: str) -> tuple[torch.Tensor, ...]:
        stored = [getattr(self, f"{label}{index}") for index in range(len(self.num_rows))]
        return tuple(torch.view_as_complex(value) for value in stored) if self.is_complex else tuple(stored)

    @property
    def factors(self) -> tuple[torch.Tensor, ...]:
        """The measurement factors :math:`H_k`, (Mk, Nk), double precision unless the module was cast."""
        return self._matrices("measurement")

    @property
    def synthesis(self) -> tuple[torch.Tensor, ...] | None:
        """The synthesis factors :math:`S_k`, (Ck, Nk), or ``None`` where the channel is x."""
        return self._matrices("synthesis") if self.has_synthesis else None

    @property
    def num_measurements(self) -> int:
        """M = M1 ... MI."""
        return math.prod(self.num_rows)

    @property
    def num_coefficients(self) -> int:
        """N = N1 ... NI."""
        return math.prod(self.num_atoms)

    @property
    def column_norms(self) -> tuple[torch.Tensor, ...]:
        """Euclidean norms of the measurement factors' columns, real, (Nk,) each."""
        return tuple(torch.linalg.vector_norm(factor, dim=0) for factor in self.factors)

    def index(self, factor: str | int) -> int:
        """Position of a factor that is given by name or position."""
        if isinstance(factor, str):
            return self.names.index(check_choice("factor", factor, self.names))
        count = len(self.names)
        return check_int("factor", factor, minimum=-count, maximum=count - 1) % count

    def to_grid(self, y: torch.Tensor) -> torch.Tensor:
        r"""Measurements as an array: (\*batch, M) to (\*batch, M1, ..., MI); a view."""
        self._check("y", y, (self.num_measurements,))
        return y.unflatten(-1, self.num_rows)

    def measure(self, x: torch.Tensor) -> torch.Tensor:
        r"""Measurements of coefficients, (\*batch, N1, ..., NI) to (\*batch, M); dtype in is dtype out."""
        self._check("x", x, self.num_atoms)
        return mode_products(x, self._cast(self.factors, x)).flatten(-len(self.num_rows))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        r"""The adjoint of `measure`, :math:`H^H y`: (\*batch, M) to (\*batch, N1, ..., NI)."""
        return mode_products(self.to_grid(y), [factor.mH for factor in self._cast(self.factors, y)])

    def channel(self, x: torch.Tensor) -> torch.Tensor:
        r"""Channels of coefficients, (\*batch, N1, ..., NI) to (\*batch, \*channel_shape)."""
        self._check("x", x, self.num_atoms)
        synthesis = self.synthesis
        return self.to_channel(x if synthesis is None else mode_products(x, self._cast(synthesis, x)))

    def to_channel(self, array: torch.Tensor) -> torch.Tensor:
        r"""Axes in the order of the factors, (\*batch, C1, ..., CI), to the order of the channel; no arithmetic."""
        count = len(self.num_rows)
        if array.dim() < count:
            raise ShapeError(f"array has shape {tuple(array.shape)}; it must have an axis for each of {count} factors")
        lead = array.dim() - count
        return array.permute(*range(lead), *(lead + k for k in self.channel_order))

    def dense(self) -> torch.Tensor:
        """The matrix H, (M, N): for tests and for estimators without structure.

        Raises:
            InvalidValueError: more than 2^27 entries (2 GiB in double precision).
        """
        entries = self.num_measurements * self.num_coefficients
        if entries > MAX_DENSE:
            raise InvalidValueError(
                f"the dense dictionary would have {self.num_measurements} x {self.num_coefficients} entries; "
                f"at most {MAX_DENSE} are allowed"
            )
        return kron(*self.factors)

    def _check(self, name: str, value: torch.Tensor, trailing: tuple[int, ...]) -> torch.Tensor:
        check_tensor(name, value, kind="complex" if self.is_complex else "any")
        if not (value.is_complex() or value.is_floating_point()):
            raise InvalidTypeError(f"{name} has dtype {value.dtype}; it must be floating-point or complex")
        return check_shape(name, value, trailing)

    @staticmethod
    def _cast(matrices: Sequence[torch.Tensor], like: torch.Tensor) -> list[torch.Tensor]:
        return [matrix.to(like.dtype) for matrix in matrices]

    def extra_repr(self) -> str:
        sizes = ", ".join(f"{n}: {m} x {a}" for n, m, a in zip(self.names, self.num_rows, self.num_atoms, strict=True))
        return f"{sizes}, channel_shape={self.channel_shape}"


def _check_factors(label: str, factors: Any) -> list[torch.Tensor]:
    if isinstance(factors, torch.Tensor) or not isinstance(factors, Sequence):
        raise InvalidTypeError(f"{label} must be a list or tuple of matrices, got {type(factors).__name__}")
    if not factors:
        raise InvalidValueError(f"{label}=[] must hold at least one matrix")
    for index, factor in enumerate(factors):
        name = f"{label}[{index}]"
        check_tensor(name, factor)
        if not (factor.is_complex() or factor.is_floating_point()):
            raise InvalidTypeError(f"{name} has dtype {factor.dtype}; it must be floating-point or complex")
        if factor.dim() != 2 or 0 in factor.shape:
            raise ShapeError(f"{name} has shape {tuple(factor.shape)}; it must be (rows, columns), both at least 1")
        check_finite(name, factor)
    return list(factors)


def _check_columns(factors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
    for index, factor in enumerate(factors):
        norms = torch.linalg.vector_norm(factor.detach(), dim=0)
        weak = torch.nonzero(norms <= ZERO_COLUMN * norms.max()).flatten()
        if weak.numel():
            raise InvalidValueError(
                f"measurement[{index}] ({names[index]!r}) has {weak.numel()} zero of {norms.numel()} columns, the first is "
                f"{int(weak[0])}; nothing can be measured of its coefficients"
            )


def _per_factor(label: str, values: Sequence[Any], count: int) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != count:
        shown = values if isinstance(values, str) or not hasattr(values, "__len__") else f"{len(values)} entries"
        raise InvalidValueError(f"{label} has {shown}; it must be a list with one entry for each of {count} factors")
    return tuple(values)


def _check_names(names: Any, count: int) -> tuple[str, ...]:
    if names is None:
        return tuple(f"mode{index}" for index in range(count))
    found = _per_factor("names", names, count)
    if len(set(found)) != count or not all(isinstance(name, str) and name for name in found):
        raise InvalidValueError(f"names={found} must be {count} different words")
    return found


def _check_grids(grids: Any, num_atoms: tuple[int, ...]) -> tuple[tuple[int, ...] | None, ...]:
    if grids is None:
        return (None,) * len(num_atoms)
    found: list[tuple[int, ...] | None] = []
    for index, (grid, columns) in enumerate(zip(_per_factor("grids", grids, len(num_atoms)), num_atoms, strict=True)):
        if grid is None:
            found.append(None)
            continue
        shape = tuple(check_int(f"grids[{index}]", size, minimum=1) for size in grid)
        if not shape or math.prod(shape) > columns:
            raise InvalidValueError(
                f"grids[{index}]={shape} must have at most as many points as the factor's {columns} columns"
            )
        found.append(shape)
    return tuple(found)


def _check_order(order: Any, count: int) -> tuple[int, ...]:
    if order is None:
        return tuple(range(count))
    found = tuple(check_int("channel_order", k) for k in order)
    if sorted(found) != list(range(count)):
        raise InvalidValueError(f"channel_order={found} must hold each of 0 to {count - 1} once")
    return found
