"""Linear estimation of a channel from coarsely quantised pilots: least squares and LMMSE after Bussgang."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance
from wichan.errors import InvalidValueError, ShapeError, check_finite, check_noise, check_shape, check_tensor
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_base import Entered, QuantizedEstimator, eagerly
from wichan.estimators.bussgang_filters import (
    NO_FLOOR,
    bussgang_filter,
    check_covariance,
    check_pilots,
    chunks,
    moments,
    squared_product,
)
from wichan.linalg import hermitian_part
from wichan.nn.buffers import ComplexBuffer

_CACHED_LEVELS = 16  # calls with more noise variances than this build their filters and drop them again


class LinearBussgang(QuantizedEstimator):
    """An estimator that is one matrix for each noise variance.

    Args:
        obs: a `wichan.observations.QuantizedPilots`.
        covariance: second moment of the channel, complex128 (N, N).
        no_floor: smallest ``no``, relative to the largest power at a converter.
    """

    is_linear = True
    covariance = ComplexBuffer()

    def __init__(self, obs: Any, covariance: torch.Tensor, *, no_floor: float) -> None:
        super().__init__(obs, no_floor=no_floor)
        self.covariance = covariance.to(self.obs.matrix().device)

    @abstractmethod
    def _build(self, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Filters, complex128 (S, N, M), and their errors, float64 (S, N), for noise variances (S,)."""

    @eagerly
    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M), the converters' output.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes. Each value has a filter of its
                own; those of a call with at most 16 values are kept for the next one.
            conditions: not used.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape). For one
            ``no``, err_var is an expanded view.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        entered = self._enter(r, no)
        if not entered.flat.shape[0]:
            return self._nothing(entered)
        if entered.index is None:
            weight, error = self._filter(entered.levels[0], entered.flat.dtype)
            return self._leave(entered, entered.flat @ weight.mT, error.clone()[None])
        return self._leave(entered, *self._by_level(entered, entered.index))

    def expected_error(self, no: Any) -> torch.Tensor:
        r"""Return err_var without data, float64, (\*no.shape, \*channel_shape); its mean is the MSE that will show."""
        shape = no.shape if isinstance(no, torch.Tensor) else ()
        levels = check_noise(no, shape, dtype=torch.float64, device=self.covariance.device).reshape(-1)
        with torch.no_grad():
            parts = [self._build(levels[some])[1] for some in chunks(len(levels), self.obs)]
        error = torch.cat(parts) if parts else levels.new_zeros(0, math.prod(self.shape))
        return error.reshape(*shape, *self.shape)

    def _filter(self, level: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        def make() -> tuple[torch.Tensor, torch.Tensor]:
            with torch.inference_mode(False), torch.no_grad():
                no = torch.tensor([level], dtype=torch.float64, device=self.covariance.device)
                weight, error = self._build(no)
                return weight[0].to(dtype), error[0].to(weight.to(dtype).real.dtype)

        self._cache.follow(self._sources())
        return self._cache.get((level, dtype), make, lambda made: sum(t.numel() * t.element_size() for t in made))

    def _by_level(self, entered: Entered, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates and errors, (T, N), of observations with several noise variances."""
        order, counts = index.argsort(stable=True), index.bincount(minlength=len(entered.levels)).tolist()
        rows, done = entered.flat.index_select(0, order), 0
        parts, errors = [], []
        for piece, weight, error in self._filters(entered):
            count = sum(counts[piece])
            local = index[order[done : done + count]] - piece.start
            parts.append(_apply_many(weight, rows[done : done + count], local, counts[piece]))
            errors.append(error[local])
            done += count
        back = order.argsort()
        return torch.cat(parts).index_select(0, back), torch.cat(errors).index_select(0, back)

    def _filters(self, entered: Entered) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Filters of all noise variances in pieces: which, (n, N, M), and their errors (n, N)."""
        dtype, real = entered.flat.dtype, entered.flat.real.dtype
        if len(entered.levels) <= _CACHED_LEVELS:
            for i, level in enumerate(entered.levels):
                weight, error = self._filter(level, dtype)
                yield slice(i, i + 1), weight[None], error[None]
            return
        levels = torch.tensor(entered.levels, dtype=torch.float64, device=entered.flat.device)
        for piece in chunks(len(levels), self.obs):
            with torch.no_grad():
                weight, error = self._build(levels[piece])
            yield piece, weight.to(dtype), error.to(real)

    def extra_repr(self) -> str:
        return f"shape={self.shape}"


class BLS(LinearBussgang):
    r"""Least squares after Bussgang's decomposition.

    .. math:: \hat h = (B A)^+ r, \qquad
        \mathrm{err\_var} = \mathrm{diag}\, G\,(C_r - B A C A^H B)\,G^H,\quad G = (B A)^+

    with the gains B of the second moment C that the converters see. It needs no more of C than the gains, and its error
    depends on the correlation between antennas only where A mixes antennas.

    Args:
        obs: a `wichan.observations.QuantizedPilots` whose matrix has full column rank: at least as many pilots as transmit
            antennas.
        covariance: C, (N, N), or a `ChannelCovariance`; default: uncorrelated elements of unit power.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: pilots that do not see the whole channel, a covariance that does not
            fit.

    Cost: a pseudo-inverse, about 8 M N^2 multiply-adds a noise variance; 8 M N FLOP an observation.

    Example:
        >>> from wichan.observations import QuantizedPilots
        >>> obs = QuantizedPilots(torch.eye(4, dtype=torch.complex128))
        >>> BLS(obs).expected_error(0.1)
        tensor([0.7279, 0.7279, 0.7279, 0.7279], dtype=torch.float64)
    """

    def __init__(
        self, obs: Any, covariance: torch.Tensor | ChannelCovariance | None = None, *, no_floor: float = NO_FLOOR
    ) -> None:
        size = _size(obs)
        matrix = torch.eye(size, dtype=torch.complex128) if covariance is None else as_matrix(covariance, size)
        super().__init__(obs, matrix, no_floor=no_floor)
        seen = torch.linalg.matrix_rank(self.obs.matrix().detach().to(torch.complex128))
        if int(seen) < size:
            raise InvalidValueError(
                f"obs.matrix() of shape {tuple(self.obs.matrix().shape)} has rank {int(seen)}: the pilots are singular; "
                f"least squares needs rank N={size}"
            )

    def _build(self, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        matrix = self.obs.matrix().detach().to(torch.complex128)
        covariance = self.covariance.to(torch.complex128).expand(len(no), -1, -1)
        found = moments(self.obs, covariance, no, "exact", self.no_floor)
        gain = self.obs.bussgang_gain(found.cov_y.diagonal(dim1=-2, dim2=-1).real, found.no)
        seen = gain[..., None] * matrix
        # The pseudo-inverse by QR: the normal equations would square the condition of badly chosen pilots.
        q, upper = torch.linalg.qr(seen)
        weight = torch.linalg.solve_triangular(upper, q.mH, upper=True)
        rest = found.output - hermitian_part(seen @ covariance @ seen.mH)
        return weight, squared_product(weight, rest).clamp_min(0)


class BussgangLMMSE(LinearBussgang):
    r"""Linear estimate of least mean square error from coarsely quantised pilots (BLMMSE).

    .. math:: \hat h = C A^H B\, C_r^{-1} r, \qquad \mathrm{err\_var} = \mathrm{diag}(C - C A^H B\, C_r^{-1} B A C)

    with Bussgang's gains B and the exact covariance :math:`C_r` of the converters' output. For a Gaussian channel no linear
    estimate is better; the conditional mean is, unless the converters have infinite resolution (then this is `LMMSE`) or
    there is one antenna with one pilot of one bit. For channels that are Gaussian only given their surroundings, C being an
    average over those, gains and C_r are not theirs, and the error is larger than ``err_var`` says (by 8 % behind one bit at
    20 dB, for one cluster at a random angle); `BussgangMixture` is for them.

    Args:
        obs: a `wichan.observations.QuantizedPilots`.
        covariance: C, (N, N) in the order of the flattened channel, or a `ChannelCovariance`.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: a covariance that is not Hermitian, has no power, or does not fit.

    Cost: a noise variance, M^3/3 + 2 M^2 N complex multiply-adds and the covariance of the output; an observation 8 M N FLOP.

    Source: [Li2017]_.

    Example:
        >>> from wichan.observations import QuantizedPilots, pilot_sequence
        >>> obs = QuantizedPilots.from_sequence(pilot_sequence(2, "angle"), num_rx_ant=1, num_bits=1)
        >>> blmmse = BussgangLMMSE(obs, torch.eye(1, dtype=torch.complex128))
        >>> blmmse.expected_error(0.1)
        tensor([0.2893], dtype=torch.float64)
    """

    def __init__(self, obs: Any, covariance: torch.Tensor | ChannelCovariance, *, no_floor: float = NO_FLOOR) -> None:
        super().__init__(obs, as_matrix(covariance, _size(obs)), no_floor=no_floor)

    @classmethod
    def from_samples(cls, obs: Any, h: torch.Tensor, **options: Any) -> BussgangLMMSE:
        r"""Take the sample second moment of channels, (\*batch, \*channel_shape), for C ("Buss-Scov")."""
        size = _size(obs)
        check_finite("h", check_shape("h", check_tensor("h", h, kind="complex"), obs.channel_shape))
        flat = h.detach().reshape(-1, size).to(torch.complex128)
        if not len(flat):
            raise ShapeError(f"h has shape {tuple(h.shape)}; a second moment needs at least one channel")
        return cls(obs, flat.mT @ flat.conj() / len(flat), **options)

    def _build(self, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        covariance = self.covariance.to(torch.complex128).expand(len(no), -1, -1)
        found = bussgang_filter(self.obs, covariance, no, "exact", self.no_floor)
        return found.weight(), found.error


def as_matrix(covariance: Any, size: int) -> torch.Tensor:
    """Return one covariance, complex128 (N, N)."""
    if isinstance(covariance, ChannelCovariance):
        covariance = covariance.matrix()
    matrix = check_covariance("covariance", covariance, size)
    if matrix.dim() != 2:
        raise ShapeError(
            f"covariance has shape {tuple(matrix.shape)}; one is wanted, ({size}, {size}); BussgangGenie takes more"
        )
    return matrix


def _size(obs: Any) -> int:
    return math.prod(check_pilots(obs).channel_shape)


def _apply_many(weight: torch.Tensor, rows: torch.Tensor, local: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Filter ``rows``, sorted by filter: filter i takes the next ``counts[i]`` of them."""
    if len(weight) == 1:
        return rows @ weight[0].mT
    if len(rows) <= 4 * len(weight):  # few rows each: one batched product beats as many calls
        return (weight.index_select(0, local) @ rows[..., None]).squeeze(-1)
    return torch.cat([some @ one.mT for some, one in zip(rows.split(counts), weight, strict=True)])
