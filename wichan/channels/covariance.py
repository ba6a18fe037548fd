"""Second-order statistics of a channel: a sum of Kronecker products over antennas, times and frequencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from wichan.channels.base import NORMALIZE
from wichan.channels.covariance_factor import ThinFactor, tucker_factor
from wichan.channels.covariance_terms import DenseTerm, KroneckerTerm, Map, Term, common_batch
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_int,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.grid import OFDMGrid
from wichan.linalg import compress_factor, thin_factor

__all__ = ["ChannelCovariance", "DenseTerm", "KroneckerTerm", "ThinFactor"]

_DENSE_LIMIT = 2**31  # bytes that a dense covariance may take


class ChannelCovariance:
    r"""Second moment :math:`R = E[h h^H] = \sum_c S_c \otimes T_c \otimes F_c` of a zero-mean channel.

    A clustered channel ties angle, delay and Doppler together: every cluster has its own factors, and the sum is no single
    Kronecker product. Line of sight is one more term of rank one. Nothing of size N x N is formed unless `matrix` is called.

    Args:
        terms: `KroneckerTerm` objects of equal sizes. A batch axis holds one covariance for each condition (delay spread,
            Doppler, ...); what has none holds for all conditions.
        num_rx_ant: receive antennas.
        num_tx_ant: transmit antennas.
        normalization: how the channels were scaled: ``None``, ``"ensemble"`` or ``"sample"`` (every sample by its own energy,
            which removes fading; `LMMSE` refuses it unless told otherwise).

    Raises:
        ShapeError: sizes that differ between terms or do not match the antennas, or unequal batches.

    Bytes: 16 (num_ant r_s + num_times r_t + num_subcarriers r_f) a term and condition.

    Example:
        >>> term = KroneckerTerm(torch.ones(1, 1), torch.ones(2, 1), torch.eye(3))
        >>> covariance = ChannelCovariance([term], num_rx_ant=1, num_tx_ant=1)
        >>> covariance.shape, covariance.factor().shape, covariance.is_kronecker
        ((1, 1, 2, 3), torch.Size([6, 3]), True)
    """

    def __init__(self, terms: Sequence[Term], num_rx_ant: int, num_tx_ant: int, *, normalization: str | None = None) -> None:
        self.terms: tuple[Term, ...] = tuple(terms)
        self.num_rx_ant = check_int("num_rx_ant", num_rx_ant, minimum=1)
        self.num_tx_ant = check_int("num_tx_ant", num_tx_ant, minimum=1)
        self.grid: OFDMGrid | None = None  # what a model computed it for, if a model did
        self.normalization = None if normalization is None else check_choice("normalization", normalization, NORMALIZE)
        if not self.terms:
            raise InvalidValueError("terms=[] must hold at least one KroneckerTerm")
        for index, term in enumerate(self.terms):
            if not isinstance(term, (KroneckerTerm, DenseTerm)):
                raise InvalidTypeError(f"terms[{index}] must be a KroneckerTerm, got {type(term).__name__}")
            want = (self.num_rx_ant * self.num_tx_ant, *self.terms[0].sizes[1:])
            if term.sizes != want:
                raise ShapeError(f"terms[{index}] has sizes {term.sizes} (antennas, times, subcarriers); expected {want}")
        self.batch_shape = common_batch([term.batch_shape for term in self.terms])

    @property
    def sizes(self) -> tuple[int, int, int]:
        """``(num_rx_ant * num_tx_ant, num_times, num_subcarriers)``."""
        return self.terms[0].sizes

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(num_rx_ant, num_tx_ant, num_times, num_subcarriers)``."""
        return (self.num_rx_ant, self.num_tx_ant, *self.sizes[1:])

    @property
    def is_kronecker(self) -> bool:
        """Whether R is one Kronecker product."""
        return len(self.terms) == 1 and isinstance(self.terms[0], KroneckerTerm)

    @property
    def device(self) -> torch.device:
        """Where the factors live."""
        term = self.terms[0]
        return term.space.device if isinstance(term, KroneckerTerm) else term.factor.device

    def __repr__(self) -> str:
        return f"ChannelCovariance(shape={self.shape}, batch_shape={tuple(self.batch_shape)}, num_terms={len(self.terms)})"

    def _map(self, function: Map) -> ChannelCovariance:
        return self._with([term.map(function) for term in self.terms])

    def _with(self, terms: Sequence[Term]) -> ChannelCovariance:
        return ChannelCovariance(terms, self.num_rx_ant, self.num_tx_ant, normalization=self.normalization)

    def to(self, device: torch.device | str) -> ChannelCovariance:
        """Return the covariance on another device."""
        return self._map(lambda m: m.to(device))

    def __getitem__(self, index: Any) -> ChannelCovariance:
        """Return the covariance of one condition (an integer), or a batch of some (a slice or a tensor of indices)."""
        if not self.batch_shape:
            raise ShapeError("this covariance has no batch axis to index")
        return self._map(lambda m: m if m.dim() == 2 else m.expand(*self.batch_shape, *m.shape[1:])[index])

    # -- Energy --

    def diagonal(self) -> torch.Tensor:
        r"""Return E|h|^2 of every entry, real float64, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers)."""
        return (
            _total([term.diagonal() for term in self.terms])
            .expand(*self.batch_shape, *self.sizes)
            .unflatten(-3, self.shape[:2])
        )

    def mean_power(self) -> torch.Tensor:
        r"""Return E|h|^2 averaged over all entries, real float64, (\*batch,)."""
        return _total([term.power() for term in self.terms]).expand(self.batch_shape) / math.prod(self.sizes)

    def matrix(self) -> torch.Tensor:
        r"""Return R dense, complex128, (\*batch, N, N); refuses more than 2 GiB."""
        need = 16 * math.prod(self.sizes) ** 2 * math.prod(self.batch_shape)
        if need > _DENSE_LIMIT:
            size = f"{need / 2**30:.1f} GiB"
            raise InvalidValueError(
                f"a dense covariance of shape {self.shape} takes {size}, at most 2 GiB; use factor() instead"
            )
        return _total([term.matrix() for term in self.terms]).expand(*self.batch_shape, -1, -1)

    # -- Thin factors --

    def tucker(self, rtol: float = 1e-7) -> ThinFactor:
        r"""Return the thin factor in Tucker form, :math:`G = (U_S \otimes U_T \otimes U_F) M`, of an unbatched covariance.

        Args:
            rtol: smallest eigenvalue of R to keep, relative to the largest.

        Cost: eigendecompositions of at most the axis lengths or the factors' widths, and for several terms one of the size
        of the core, min(a t f, number of columns).
        """
        rtol = check_real("rtol", rtol, minimum=0.0, maximum=1.0)
        if self.batch_shape:
            raise ShapeError(f"tucker() needs one condition, but batch_shape is {tuple(self.batch_shape)}; index it first")
        kronecker = [term for term in self.terms if isinstance(term, KroneckerTerm)]
        dense = [term for term in self.terms if isinstance(term, DenseTerm)]
        with torch.no_grad():
            factor = tucker_factor(kronecker, [term.factor for term in dense], self.sizes, self.diagonal().flatten(), rtol)
            for term in dense:
                factor.residual.add_(term.lost)
        return factor

    def factor(self, rtol: float = 1e-7) -> torch.Tensor:
        r"""Return a thin G with :math:`G G^H \approx R`: orthogonal columns of descending energy.

        Args:
            rtol: smallest eigenvalue of R to keep, relative to the largest.

        Returns:
            complex128, (\*batch, N, r), rows in the order [rx, tx, time, subcarrier]; conditions of lower rank are padded
            with zero columns.
        """
        if not self.batch_shape:
            return self.tucker(rtol).dense()
        parts = [self[i].factor(rtol) for i in range(self.batch_shape[0])]
        padded = parts[0].new_zeros(len(parts), parts[0].shape[0], max(part.shape[1] for part in parts))
        for row, part in zip(padded, parts, strict=True):
            row[:, : part.shape[1]] = part
        return padded

    def residual(self, rtol: float = 1e-7) -> torch.Tensor:
        r"""Return the energy that ``factor(rtol)`` leaves out, real float64, (\*batch, rx, tx, time, subcarrier)."""
        if not self.batch_shape:
            return self.tucker(rtol).residual.unflatten(0, self.shape)
        return torch.stack([self[i].residual(rtol) for i in range(self.batch_shape[0])])

    def kronecker(self) -> ChannelCovariance:
        r"""Return the approximation :math:`R_S \otimes R_T \otimes R_F / \mathrm{tr}(R)^2` from the three marginals.

        The marginals (partial traces) and the total power are right; what ties the axes together is lost. Exact, and the
        same object, where R is a Kronecker product already.
        """
        if self.is_kronecker:
            return self
        # tr(R)^2 is shared out so that every axis keeps a factor of mean power 1 but the first, which carries tr(R).
        power = self.mean_power() * math.prod(self.sizes)
        scale = torch.where(power > 0, power, torch.ones_like(power)).rsqrt()[..., None, None]
        marginals = zip(*(term.marginals() for term in self.terms), strict=True)
        space, time, frequency = (_stack(parts, self.batch_shape) for parts in marginals)
        return self._with([KroneckerTerm(space, time * scale, frequency * scale)])

    # -- From data --

    @classmethod
    def from_samples(cls, h: torch.Tensor, *, rank: int | None = None, normalization: str | None = None) -> ChannelCovariance:
        r"""Estimate R as the sample second moment :math:`\frac{1}{n} \sum_i h_i h_i^H`.

        Args:
            h: complex, (\*batch, num_rx_ant, num_tx_ant, num_times, num_subcarriers); all batch axes are samples.
            rank: eigenvectors to keep, default all. What a smaller rank leaves out is known to `residual`.
            normalization: ``"sample"`` if every sample was scaled by its own energy.

        An estimator that is given this R takes it for the truth: with few samples its ``err_var`` promises too much (at
        n = 20 for an OFDM slot by 7 dB; some hundreds of samples are enough there).

        Cost: the smaller of the two Gram matrices, n x n or N x N, and its eigendecomposition. Bytes: 16 n N.
        """
        check_finite("h", check_tensor("h", h, kind="complex"))
        if h.dim() < 5 or 0 in h.shape:
            raise ShapeError(f"h has shape {tuple(h.shape)}; it must be (samples, rx, tx, times, subcarriers), no axis empty")
        shape = tuple(h.shape[-4:])
        samples = h.detach().reshape(-1, math.prod(shape)).T.to(torch.complex128)
        return cls._from_factor(samples / math.sqrt(samples.shape[1]), shape, rank, normalization)

    @classmethod
    def from_matrix(
        cls, matrix: torch.Tensor, shape: Sequence[int], *, rank: int | None = None, normalization: str | None = None
    ) -> ChannelCovariance:
        r"""Take a dense covariance.

        Args:
            matrix: complex or real, (N, N) or (batch, N, N), Hermitian positive semi-definite.
            shape: ``(num_rx_ant, num_tx_ant, num_times, num_subcarriers)`` with product N.
            rank: eigenvectors to keep, default all above 1e-15 of the largest.
            normalization: as in the constructor.

        Raises:
            NotPositiveDefiniteError: a clearly negative eigenvalue.
        """
        sizes = tuple(check_int(f"shape[{i}]", n, minimum=1) for i, n in enumerate(shape))
        if len(sizes) != 4:
            raise ShapeError(f"shape={sizes} must be (num_rx_ant, num_tx_ant, num_times, num_subcarriers)")
        check_shape("matrix", check_tensor("matrix", matrix), (math.prod(sizes), math.prod(sizes)))
        if matrix.dim() > 3:
            raise ShapeError(f"matrix has shape {tuple(matrix.shape)}; it may have one batch axis")
        return cls._from_factor(thin_factor(matrix, 1e-15, name="matrix"), sizes, rank, normalization)

    @classmethod
    def _from_factor(
        cls, factor: torch.Tensor, shape: Sequence[int], rank: int | None, normalization: str | None
    ) -> ChannelCovariance:
        factor = compress_factor(factor, 0.0)
        keep = factor.shape[-1] if rank is None else check_int("rank", rank, minimum=1)
        sizes = (shape[0] * shape[1], shape[2], shape[3])
        lost = torch.view_as_real(factor[..., keep:]).square().sum((-2, -1))
        factor = factor[..., :keep]
        # With one axis longer than 1 the matrix is a Kronecker product, and takes the fast path.
        if rank is None and sum(n > 1 for n in sizes) <= 1:
            one = factor.new_ones(1, 1)
            term: Term = KroneckerTerm(*(factor if n > 1 or (i == 0 and max(sizes) == 1) else one for i, n in enumerate(sizes)))
        else:
            term = DenseTerm(factor, sizes, lost)
        return cls([term], shape[0], shape[1], normalization=normalization)


def _total(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, parts)


def _stack(parts: Sequence[torch.Tensor], batch: torch.Size) -> torch.Tensor:
    """Put factors side by side and make them no wider than high."""
    joint = torch.cat([part.expand(*batch, *part.shape[-2:]) for part in parts], dim=-1)
    return compress_factor(joint, 1e-15, name="marginal")
