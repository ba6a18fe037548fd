"""What a channel covariance is a sum of: Kronecker terms, and at most a few dense ones learned from data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from wichan.channels.covariance_factor import squared
from wichan.errors import InvalidTypeError, ShapeError, check_finite, check_tensor
from wichan.linalg import compress_factor, kron

Sizes = tuple[int, int, int]
Map = Callable[[torch.Tensor], torch.Tensor]


def check_factor(name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a thin factor as complex128 (n, r) or (B, n, r), finite and not empty."""
    check_tensor(name, value)
    if not (value.is_complex() or value.is_floating_point()):
        raise InvalidTypeError(f"{name} has dtype {value.dtype}; allowed are single and double precision, real or complex")
    if value.dim() not in (2, 3) or 0 in value.shape:
        raise ShapeError(f"{name} has shape {tuple(value.shape)}; it must be (n, r) or (batch, n, r), no axis empty")
    factor = value.to(torch.complex128).resolve_conj()
    check_finite(name, torch.view_as_real(factor))
    return factor


def common_batch(shapes: Sequence[torch.Size]) -> torch.Size:
    """Broadcast batch shapes of at most one axis, or raise one line."""
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        raise ShapeError(f"batch axes {[tuple(s) for s in shapes]} of the factors do not broadcast") from None


@dataclass(frozen=True, eq=False)
class KroneckerTerm:
    r"""One term :math:`S \otimes T \otimes F` of a covariance, each factor given thin: :math:`S = A A^H` and so on.

    Args:
        space: complex128, (num_ant, r_s) with num_ant = num_rx_ant * num_tx_ant; antenna pair ``rx * num_tx_ant + tx``.
        time: complex128, (num_times, r_t).
        frequency: complex128, (num_subcarriers, r_f).
            Each may have a leading batch axis, one entry a condition; a factor without it holds for all conditions. Items
            of lower rank are padded with zero columns. Other real or complex dtypes are converted.

    Raises:
        InvalidValueError: NaN or infinity.
        ShapeError: not a matrix, an empty axis, or unequal batches.
    """

    space: torch.Tensor
    time: torch.Tensor
    frequency: torch.Tensor

    def __post_init__(self) -> None:
        for name in ("space", "time", "frequency"):
            object.__setattr__(self, name, check_factor(name, getattr(self, name)))
        common_batch([m.shape[:-2] for m in self.factors])

    @property
    def factors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``(space, time, frequency)``."""
        return self.space, self.time, self.frequency

    @property
    def sizes(self) -> Sizes:
        """``(num_ant, num_times, num_subcarriers)``."""
        return self.space.shape[-2], self.time.shape[-2], self.frequency.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """Broadcast of the batch axes of the three factors."""
        return common_batch([m.shape[:-2] for m in self.factors])

    def map(self, function: Map) -> KroneckerTerm:
        """Return the term with ``function`` applied to every tensor."""
        return KroneckerTerm(*(function(m) for m in self.factors))

    def diagonal(self) -> torch.Tensor:
        r"""Return the diagonal, real float64, (\*batch, num_ant, num_times, num_subcarriers)."""
        s, t, f = (squared(m).sum(-1) for m in self.factors)
        return s[..., :, None, None] * t[..., None, :, None] * f[..., None, None, :]

    def power(self) -> torch.Tensor:
        r"""Return the trace, real float64, (\*batch,)."""
        # A norm needs no array of squares, which for thousands of conditions would be as large as the factors.
        s, t, f = (torch.linalg.vector_norm(torch.view_as_real(m), dim=(-3, -2, -1)).square() for m in self.factors)
        return s * t * f

    def marginals(self) -> list[torch.Tensor]:
        """Return factors of the three partial traces."""
        energy = [squared(m).sum((-2, -1)) for m in self.factors]
        rest = (energy[1] * energy[2], energy[0] * energy[2], energy[0] * energy[1])
        return [m * w.sqrt()[..., None, None] for m, w in zip(self.factors, rest, strict=True)]

    def matrix(self) -> torch.Tensor:
        r"""Return the dense term, complex128, (\*batch, N, N)."""
        return kron(*(m @ m.mH for m in self.factors))


@dataclass(frozen=True, eq=False)
class DenseTerm:
    r"""A term :math:`G G^H` without structure, as data gives it.

    Args:
        factor: complex128, (N, r) or (batch, N, r), rows in the order antennas, times, subcarriers.
        sizes: ``(num_ant, num_times, num_subcarriers)`` with product N.
        lost: real float64, (N,) or (batch, N): energy known to be missing from G G^H, where the rank was limited.
    """

    factor: torch.Tensor
    sizes: Sizes
    lost: torch.Tensor

    @property
    def batch_shape(self) -> torch.Size:
        """Batch axes of the factor."""
        return self.factor.shape[:-2]

    def map(self, function: Map) -> DenseTerm:
        """Return the term with ``function`` applied to every tensor."""
        # ``lost`` passes as (N, 1), so that a function sees batch axes in the same place as in the factor.
        return DenseTerm(function(self.factor), self.sizes, function(self.lost.unsqueeze(-1)).squeeze(-1))

    def diagonal(self) -> torch.Tensor:
        r"""Return the diagonal, real float64, (\*batch, num_ant, num_times, num_subcarriers)."""
        return squared(self.factor).sum(-1).unflatten(-1, self.sizes)

    def power(self) -> torch.Tensor:
        r"""Return the trace, real float64, (\*batch,)."""
        return squared(self.factor).sum((-2, -1))

    def marginals(self) -> list[torch.Tensor]:
        """Return factors of the three partial traces, from the unfoldings of the columns along each axis."""
        columns = self.factor.unflatten(-2, self.sizes)
        return [compress_factor(columns.movedim(axis, -4).flatten(-3), 1e-15) for axis in (-4, -3, -2)]

    def matrix(self) -> torch.Tensor:
        r"""Return the dense term, complex128, (\*batch, N, N)."""
        return self.factor @ self.factor.mH


Term = KroneckerTerm | DenseTerm
