"""Linear minimum mean square error estimation of a channel from pilots."""

from __future__ import annotations

import math
from typing import Any

import torch

from wichan.channels.covariance import ChannelCovariance, KroneckerTerm
from wichan.errors import (
    InvalidTypeError,
    InvalidValueError,
    ShapeError,
    check_choice,
    check_finite,
    check_noise,
    check_real,
    check_shape,
    check_tensor,
)
from wichan.estimators.base import Estimate, Estimator
from wichan.estimators.filter_module import FilterModule
from wichan.estimators.mismatched import KroneckerFilter, SuccessiveFilter, TrueError, exact_filter
from wichan.estimators.spectral import SeparableFilter
from wichan.estimators.stored_covariance import StoredCovariance
from wichan.nn.buffers import ComplexBuffer
from wichan.observations.ofdm import OFDMPilots

STRUCTURES = ("joint", "kronecker", "separable")
_SMALL = 8192  # channel entries up to which rank is cheap enough to leave nothing out
_CHUNK_BYTES = 2**26  # what the filters of one chunk of conditions may take


class LMMSE(Estimator):
    r"""Linear minimum mean square error estimate of a zero-mean channel with known second moment.

    With :math:`y = P h + n`, :math:`R = E[h h^H]` and white noise of variance no,

    .. math:: \hat h = R P^H (P R P^H + \mathrm{no}\, I)^{-1} y, \qquad
        \mathrm{err\_var} = \mathrm{diag}\big(R - R P^H (P R P^H + \mathrm{no}\, I)^{-1} P R\big),

    which is the conditional mean where h is Gaussian. It is computed in the eigenmodes of what the pilots see
    [Edfors1998]_, from a thin factor :math:`R = G G^H` in complex128: :math:`G^H P^H P G = U \Lambda U^H`,
    :math:`V = G U`, :math:`B = U^H G^H P^H`,

    .. math:: \hat h = V (\Lambda + \mathrm{no}\, I)^{-1} B y, \qquad
        \mathrm{err\_var}_n = \sum_k |V_{nk}|^2 \frac{\mathrm{no}}{\mathrm{no} + \lambda_k} + \rho_n ,

    with :math:`\rho` the energy that the thin factor leaves out. A new ``no`` is a new diagonal; ``err_var`` depends on ``no``
    only, is computed once for each distinct value, and is a sum of positive terms. Where R is one Kronecker product and the
    pilots are symbols x subcarriers of equal power from one antenna, every axis is decomposed on its own and the same
    answer costs tens of kFLOP a frame.

    Args:
        obs: the pilots. Pilots that are learned enter as they are now: no gradient flows into them through the filter, and
            a call after they have changed is refused (build a new LMMSE).
        covariance: R on the grid of ``obs``. With a batch of B conditions, frame b of the first batch axis of ``y`` is
            estimated with condition b; filters are then built in each call, in chunks of at most 64 MiB.
        structure: ``"joint"``, exact; ``"kronecker"``, the filter for the product of the marginals
            (`ChannelCovariance.kronecker`), an approximation unless R is one product; ``"separable"``, one-dimensional filters
            along frequency, time and receive antennas in turn (`SuccessiveFilter`). Each reports the error that it really
            makes under R: for every entry joint is the least. For one product kronecker equals joint and separable is
            worse; for a sum of products either may be the better one.
        rtol: smallest eigenvalue of R that the joint filter keeps, relative to the largest; default 1e-14 for up to 8192
            channel entries and 1e-10 above. What is cut off counts as noise at the pilots and as error everywhere.
        no_floor: smallest ``no`` in use, relative to the largest eigenvalue that the pilots see; ``no=0`` means this.
        allow_sample_normalized: accept a covariance of channels that were each scaled by their own energy. They are no
            longer Gaussian and their energy is known, so ``err_var`` is not calibrated.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: an observation or covariance that does not fit, or has no power.

    Cost: see `SeparableFilter` and `JointFilter`. Bytes a frame: y read once, h_hat written once.

    Sources: Kay, *Fundamentals of Statistical Signal Processing I*, 1993, section 12.5; Edfors, Sandell, van de Beek,
    Wilson, Börjesson, "OFDM channel estimation by singular value decomposition", IEEE Trans. Commun. 46(7), 1998.

    Example:
        >>> from wichan.channels import TDL
        >>> from wichan.grid import OFDMGrid
        >>> grid = OFDMGrid(num_ofdm_symbols=14, num_subcarriers=24, subcarrier_spacing=15e3)
        >>> model, g = TDL("A", delay_spread=100e-9, max_doppler=100.0), torch.Generator().manual_seed(7)
        >>> obs = OFDMPilots(grid, symbols=(2, 11), subcarrier_step=3)
        >>> lmmse = LMMSE(obs, model.covariance(grid))
        >>> y = obs.observe(model.frequency_response(grid, 4, generator=g), no=0.01, generator=g)
        >>> h_hat, err_var = lmmse(y, no=0.01)
        >>> h_hat.shape, bool((err_var > 0).all())
        (torch.Size([4, 1, 1, 14, 24]), True)
    """

    is_linear = True
    pilots_used = ComplexBuffer()  # saved with the filter: what it was made for

    def __init__(
        self,
        obs: OFDMPilots,
        covariance: ChannelCovariance,
        structure: str = "joint",
        *,
        rtol: float | None = None,
        no_floor: float = 1e-12,
        allow_sample_normalized: bool = False,
    ) -> None:
        super().__init__()
        _check_fit(obs, covariance, allow_sample_normalized)
        self.obs = obs
        self._pilots_seen = _stamp(obs)
        self.pilots_used = obs.pilots.detach().clone()
        self.structure = check_choice("structure", structure, STRUCTURES)
        if rtol is None:
            rtol = 1e-14 if math.prod(covariance.sizes) <= _SMALL else 1e-10
        self.rtol = check_real("rtol", rtol, minimum=0.0, maximum=1.0)
        self.no_floor = check_real("no_floor", no_floor, minimum=1e-15, maximum=1.0)
        self.shape = covariance.shape
        if covariance.device != obs.pilots.device:
            covariance = covariance.to(obs.pilots.device)
        self.conditions = StoredCovariance(covariance) if covariance.batch_shape else None
        self.filter = None if covariance.batch_shape else self._build(covariance)
        self._comb = _comb(obs)

    def _build(self, covariance: ChannelCovariance) -> FilterModule:
        if self.structure == "separable":
            return SuccessiveFilter(self.obs, covariance, self.rtol)
        if self.structure == "kronecker" and not covariance.is_kronecker:
            return KroneckerFilter(self.obs, covariance, self.rtol)
        return exact_filter(self.obs, covariance, self.rtol)

    def forward(self, y: torch.Tensor, no: Any, **conditions: Any) -> Estimate:
        r"""Estimate the channel.

        Args:
            y: complex64 or complex128, (\*batch, num_rx_ant, num_ofdm_symbols, num_subcarriers), the received grid.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: not used; what LMMSE knows is its covariance.

        Returns:
            `Estimate`: h_hat in the dtype of ``y`` and err_var in its real dtype, both
            (\*batch, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers). For one ``no``, err_var is an expanded view.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN on a pilot element of ``y`` or in ``no``,
                negative ``no``, shapes that do not fit.
        """
        batch = self._check(y)
        self._check_pilots()
        variance = self._variance(no, batch, y.device)
        if self.filter is not None and not math.prod(batch):
            nothing = y.new_zeros(*batch, *self.shape)
            return Estimate(nothing, nothing.real.clone())
        pilots = self._extract(y.reshape(-1, *y.shape[-3:]))
        if self.filter is None:
            h_hat, err_var = self._by_condition(pilots, variance, batch)
        elif isinstance(variance, torch.Tensor) and variance.dim():
            h_hat, err_var = self._by_frame(pilots, variance)
        else:
            h_hat, err_var = self._together(pilots, variance)
        # No copy, also where all frames or antennas have one error: axes are split and stretched, never merged.
        lead = batch if err_var.shape[0] == math.prod(batch) else (1,) * len(batch)
        err_var = err_var.reshape(*lead, *err_var.shape[1:])
        return Estimate(h_hat.reshape(*batch, *self.shape), err_var.expand(*batch, *self.shape))

    def expected_error(self, no: Any) -> torch.Tensor:
        r"""Return err_var without data, float64, (\*no.shape, num_rx_ant, num_tx_ant, num_ofdm_symbols, num_subcarriers).

        Its mean is the MSE that the estimator will show, and over the mean power the NMSE. One condition only.
        """
        if self.filter is None:
            raise ShapeError("expected_error needs one condition, but this LMMSE has a batch of covariances")
        shape = no.shape if isinstance(no, torch.Tensor) else ()
        variance = check_noise(no, shape, dtype=torch.float64, device=self.obs.pilots.device)
        error = self.filter.error(self._floored(self.filter, variance.reshape(-1)))
        return error.expand(-1, *self.shape).reshape(*shape, *self.shape)

    # -- Three ways to meet the noise: one value for all frames, one a frame, one filter a condition. --

    def _together(self, pilots: torch.Tensor, variance: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, real = self.filter, pilots.real.dtype
        assert chosen is not None

        def make() -> tuple[Any, torch.Tensor]:
            floored = self._floored(chosen, variance)
            return chosen.prepare(floored, pilots.dtype), chosen.error(floored[None], real)

        if torch.compiler.is_compiling() or (isinstance(variance, torch.Tensor) and variance.requires_grad):
            prepared, err_var = make()
        else:
            prepared, err_var = chosen.latest((float(variance), pilots.dtype), make)
            err_var = err_var.clone()  # the caller may write into what it gets
        return chosen.estimate(pilots, prepared), err_var

    def _by_frame(self, pilots: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.filter is not None
        floored, real = self._floored(self.filter, variance), pilots.real.dtype
        h_hat = self.filter.estimate(pilots, self.filter.prepare(floored, pilots.dtype))
        if torch.compiler.is_compiling() or variance.requires_grad:
            return h_hat, self.filter.error(floored, real)
        values, index = torch.unique(floored, return_inverse=True)
        if 2 * len(values) > len(floored) and not isinstance(self.filter, TrueError):
            return h_hat, self.filter.error(floored, real)
        err_var = self.filter.error(values, real)
        return h_hat, err_var if len(values) == 1 else err_var[index]

    def _by_condition(
        self, pilots: torch.Tensor, variance: torch.Tensor | float, batch: torch.Size
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.conditions is not None
        covariance = self.conditions.covariance()
        count = covariance.batch_shape[0]
        if not batch or batch[0] != count:
            raise ShapeError(f"covariance has {count} conditions; y has batch axes {tuple(batch)}, the first must be {count}")
        grouped = pilots.unflatten(0, (count, -1))
        noise = torch.as_tensor(variance, dtype=torch.float64, device=pilots.device)
        noise = noise.reshape(count, -1) if noise.dim() else noise.expand(count, 1)
        vectorized = self.structure != "separable" and covariance.is_kronecker and self.obs.is_separable
        step = _conditions_at_once(covariance, grouped) if vectorized else 1
        real = pilots.real.dtype
        parts = []
        for start in range(0, count, step):
            chunk = slice(start, start + step)
            chosen = self._condition_filter(covariance, chunk, vectorized)
            floored = self._floored(chosen, noise[chunk])
            if vectorized:
                h_hat = chosen.estimate(grouped[chunk], chosen.prepare(floored, pilots.dtype))
                err_var = chosen.error(floored, real)
            else:
                level = floored[0] if floored.shape[1] > 1 else floored[0, 0]
                h_hat = chosen.estimate(grouped[start], chosen.prepare(level, pilots.dtype))[None]
                err_var = chosen.error(floored[0], real)[None]
            parts.append((h_hat, err_var.expand(-1, grouped.shape[1], *self.shape)))
        return torch.cat([h for h, _ in parts]).flatten(0, 1), torch.cat([e for _, e in parts]).flatten(0, 1)

    def _condition_filter(self, covariance: ChannelCovariance, chunk: slice, vectorized: bool) -> FilterModule:
        if not vectorized:
            return self._build(covariance[chunk.start])
        term = covariance[chunk].terms[0]
        assert isinstance(term, KroneckerTerm)
        return SeparableFilter(self.obs, term)

    # -- Small steps. --

    def _floored(self, chosen: FilterModule, no: torch.Tensor | float) -> torch.Tensor:
        floor = (self.no_floor * chosen.largest).clamp_min(1e-300)
        if not isinstance(no, torch.Tensor):
            return floor.clamp_min(no)
        return torch.maximum(no, (floor if floor.dim() == 0 else floor[:, None]).to(no.dtype))

    def _variance(self, no: Any, batch: torch.Size, device: torch.device) -> torch.Tensor | float:
        if isinstance(no, (float, int)) and not isinstance(no, bool):
            return check_real("no", no, minimum=0.0)  # the usual case, without a tensor
        variance = check_noise(no, batch, dtype=torch.float64, device=device)
        return variance.expand(batch).reshape(-1) if variance.dim() else variance

    def _check(self, y: torch.Tensor) -> torch.Size:
        check_shape("y", check_tensor("y", y, kind="complex"), (self.shape[0], *self.shape[2:]))
        if y.device != self.obs.pilots.device:
            raise InvalidValueError(f"y is on {y.device}, the estimator on {self.obs.pilots.device}; use one device")
        return y.shape[:-3]

    def _check_pilots(self) -> None:
        """Raise if the pilots are no longer those that the filter was made for (learned, or overwritten)."""
        if torch.compiler.is_compiling() or (stamp := _stamp(self.obs)) == self._pilots_seen:
            return
        if not torch.equal(self.obs.pilots.detach().to(self.pilots_used), self.pilots_used):
            raise InvalidValueError("obs.pilots have changed since this LMMSE was built; build a new one for them")
        self._pilots_seen = stamp  # moved or copied, with the same values

    def _extract(self, y: torch.Tensor) -> torch.Tensor:
        pilots = self.obs.extract(y) if self._comb is None else y[:, :, self._comb[0], self._comb[1]].flatten(-2)
        check_finite("y", torch.view_as_real(pilots.resolve_conj()))
        return pilots

    def extra_repr(self) -> str:
        return f"structure={self.structure!r}, shape={self.shape}"


def lmmse_kronecker(obs: OFDMPilots, covariance: ChannelCovariance, **options: Any) -> LMMSE:
    """Return `LMMSE` with ``structure="kronecker"``."""
    return LMMSE(obs, covariance, "kronecker", **options)


def lmmse_separable(obs: OFDMPilots, covariance: ChannelCovariance, **options: Any) -> LMMSE:
    """Return `LMMSE` with ``structure="separable"``."""
    return LMMSE(obs, covariance, "separable", **options)


def _check_fit(obs: Any, covariance: Any, allow_sample_normalized: bool) -> None:
    if not isinstance(obs, OFDMPilots):
        raise InvalidTypeError(f"obs must be OFDMPilots, got {type(obs).__name__}")
    if not isinstance(covariance, ChannelCovariance):
        raise InvalidTypeError(f"covariance must be a ChannelCovariance, got {type(covariance).__name__}")
    if covariance.shape[1:] != (obs.num_tx_ant, *obs.grid.shape):
        want = ("any", obs.num_tx_ant, *obs.grid.shape)
        raise ShapeError(f"covariance has shape {covariance.shape} (rx, tx, symbols, subcarriers); obs asks for {want}")
    if covariance.grid is not None and covariance.grid != obs.grid:
        raise InvalidValueError(f"covariance belongs to {covariance.grid}; obs has {obs.grid}")
    if covariance.normalization == "sample" and not allow_sample_normalized:
        raise InvalidValueError(
            "covariance.normalization='sample' is that of channels without fading; allow_sample_normalized=True accepts it"
        )
    if not bool((covariance.mean_power() > 0).all()):
        raise InvalidValueError("covariance has mean power 0; every condition must have power")


def _stamp(obs: OFDMPilots) -> tuple[int, int]:
    """What changes when pilots are written or replaced: where they lie and how often they were written."""
    pilots = obs.pilots
    return pilots.data_ptr(), pilots._version


def _comb(obs: OFDMPilots) -> tuple[slice, slice] | None:
    """Return slices for symbols and subcarriers where the pilots are a regular comb: a view costs less than a gather."""
    if not obs.is_separable:
        return None
    found = []
    for index in (obs.pilot_symbols.tolist(), obs.pilot_subcarriers.tolist()):
        step = index[1] - index[0] if len(index) > 1 else 1
        if any(b - a != step for a, b in zip(index, index[1:], strict=False)):
            return None
        found.append(slice(index[0], index[-1] + 1, step))
    return found[0], found[1]


def _conditions_at_once(covariance: ChannelCovariance, pilots: torch.Tensor) -> int:
    """How many conditions fit into a chunk: their factors about six times over, the answers in double and single."""
    term = covariance.terms[0]
    assert isinstance(term, KroneckerTerm)
    factors = 6 * 16 * sum(m.shape[-2] * m.shape[-1] for m in term.factors)
    answers = 32 * pilots.shape[1] * math.prod(covariance.sizes)
    return max(1, _CHUNK_BYTES // (factors + answers))
