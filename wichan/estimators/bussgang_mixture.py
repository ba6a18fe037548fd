"""Conditional mean of a channel under a mixture prior from coarsely quantised pilots: one Bussgang filter a component."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, ShapeError, check_choice, check_int, check_real
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_banks import Bank, DenseBank
from wichan.estimators.bussgang_base import QuantizedEstimator, eagerly
from wichan.estimators.bussgang_circulant import CirculantBank, scaled_identity
from wichan.estimators.bussgang_filters import METHODS, NO_FLOOR
from wichan.estimators.bussgang_woodbury import WoodburyBank
from wichan.priors.base import MixturePrior

# Components with a smaller posterior are left out, in each precision.
_UNLIKELY = {torch.float32: 1e-5, torch.float64: 1e-15}
_COMMON = 4  # a component that counts for more than this share of a chunk, 1/4, is applied to all of it
_CHUNK_BYTES = 2**25  # what the posteriors of one chunk of observations may take; all else is in proportion


class BussgangMixture(QuantizedEstimator):
    r"""Mixture of Bussgang filters, weighted by how well each component explains the pilots.

    .. math:: \hat h = \sum_k p(k \mid r)\, W_k r, \qquad
        p(k \mid r) \propto \pi_k\, \mathcal{CN}(r; 0, C_{r,k}), \qquad
        \mathrm{err\_var} = \sum_k p(k \mid r) \big( \mathrm{err}_k + |W_k r - \hat h|^2 \big)

    with :math:`W_k` and :math:`\mathrm{err}_k` of `BussgangLMMSE` for the covariance of component k. Without quantisation
    this is the conditional mean. With it, :math:`p(k \mid r)` takes a Gaussian for the true probability of the cell, and
    :math:`W_k r` is the best linear estimate under component k, not its mean.

    Filters are built once for each noise variance and kept, up to 256 MiB. The posterior is one real matrix product. Filters
    are applied to the components whose posterior is above 1e-5 (1e-15 for observations in double precision): what is left
    out has a posterior mass of at most K times that, and moves the estimate by no more than that share of how far
    components lie apart. Where prior and pilots allow, filters are no full matrices:

    * circulant components and A = x kron I: N systems of P x P over the DFT, about 2 K N P^2 FLOP an observation;
    * rank L up to N/4 plus a diagonal, A = I, and no quantisation or one of the approximations: about 8 K N L FLOP.

    Args:
        prior: a fitted `wichan.priors.MixturePrior` over the axes of the channel.
        obs: a `wichan.observations.QuantizedPilots`.
        method: covariance of the output that filters and posterior are made of: ``"exact"``; ``"white"``, distortion that is
            white over the converters (within 4 % in MSE for two bits and more); or ``"scaled"``, one gain for all, which is
            for converters set to the power that they get (not for one bit and several pilots). Errors are those that the
            filters make under the exact covariance.
        top: ``None`` for all components; a number n of the most likely ones; or a float up to 1 for the fewest that together
            reach that probability. Their posterior is normalised again.
        fast: ``False`` builds dense filters whatever the structure.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError, NotFittedError: a prior that is not fitted or of another size.

    Cost: filters, K (M^3 + 2 M^2 N) complex multiply-adds in double precision and K covariances of the output; an
    observation, 2 K M^2 FLOP and 8 N M for each component that counts. Bytes: about 100 MiB besides input, output and filters.

    ``torch.compile`` leaves the estimation as it is: work is gathered by component, which depends on values.

    Sources: [Fesl2024]_; without quantisation, [Koller2022]_.

    Example:
        >>> from wichan.channels import SpatialGaussian
        >>> from wichan.observations import QuantizedPilots
        >>> from wichan.priors import GMM
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = SpatialGaussian(8).sample(200, generator=generator).h[..., 0]
        >>> obs = QuantizedPilots(torch.eye(8, dtype=torch.complex128), num_bits=1)
        >>> est = BussgangMixture(GMM(num_components=2, structure="circulant").fit(h), obs)
        >>> r = obs.observe(h[:3], no=0.1, generator=generator)
        >>> est(r, no=0.1).h_hat.shape, est.posterior(r, no=0.1).shape
        (torch.Size([3, 8]), torch.Size([3, 2]))
    """

    kind: str | None = None

    def __init__(
        self,
        prior: MixturePrior,
        obs: Any,
        *,
        method: str = "exact",
        top: int | float | None = None,
        fast: bool = True,
        no_floor: float = NO_FLOOR,
    ) -> None:
        super().__init__(obs, no_floor=no_floor)
        self.prior = check_prior(prior, self.kind, self.shape)
        self.method = str(check_choice("method", method, METHODS))
        self.top = _check_top(top)
        self.fast = fast

    @eagerly
    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M), the converters' output.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes. Each distinct value has filters
                of its own.
            conditions: not used.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        entered = self._enter(r, no)
        if not entered.flat.shape[0]:
            return self._nothing(entered)
        if entered.index is None:
            return self._leave(entered, *self._at_level(entered.flat, entered.levels[0]))
        order = entered.index.argsort(stable=True)
        counts = entered.index.bincount(minlength=len(entered.levels)).tolist()
        pieces = entered.flat.index_select(0, order).split(counts)
        parts = [self._at_level(piece, level) for piece, level in zip(pieces, entered.levels, strict=True)]
        back = order.argsort()
        h_hat, err_var = (torch.cat(part).index_select(0, back) for part in zip(*parts, strict=True))
        return self._leave(entered, h_hat, err_var)

    @eagerly
    def posterior(self, r: torch.Tensor, no: Any) -> torch.Tensor:
        r"""Return :math:`p(k \mid r)` of all components, real (\*batch, K); arguments of `forward`."""
        entered = self._enter(r, no)
        found = entered.flat.real.new_zeros(len(entered.flat), len(self.prior.log_weights))
        for i, level in enumerate(entered.levels if len(found) else []):
            rows = slice(None) if entered.index is None else entered.index == i
            bank = self._bank(level, entered.flat.dtype)
            joint = bank.log_joint(bank.enter(entered.flat[rows]))
            found[rows] = joint.softmax(0).mT.to(found.dtype)
        return found.reshape(*entered.batch, found.shape[1])

    # -- The filters --

    def _bank(self, level: float, dtype: torch.dtype) -> Bank:
        self._cache.follow(self._sources())
        with torch.inference_mode(False), torch.no_grad():
            return self._cache.get((level, dtype), lambda: self._build(level, dtype), lambda bank: bank.num_bytes)

    def _build(self, level: float, dtype: torch.dtype) -> Bank:
        setting = (level, self.method, self.no_floor, dtype)
        if self.fast and self.prior.spectra() is not None:
            pilots = scaled_identity(self.obs)
            if pilots is not None:
                return CirculantBank(self.prior, self.obs, pilots, *setting)
        factors = self.prior.factors() if self.fast else None
        if factors is not None and self._keeps_rank() and 4 * factors[0].shape[-1] <= factors[0].shape[-2]:
            bank = WoodburyBank(self.prior, self.obs, *setting)
            if bank.is_precise:
                return bank
        return DenseBank(self.prior, self.obs, *setting)

    def _keeps_rank(self) -> bool:
        """Whether C_r of low rank plus a diagonal keeps that form."""
        return self.obs.is_identity and (self.obs.is_linear or self.method != "exact")

    # -- Their mixture --

    def _at_level(self, flat: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates and errors, (T, N), at one noise variance."""
        bank = self._bank(level, flat.dtype)
        step = max(1, _CHUNK_BYTES // (8 * (len(bank.error) + 8 * flat.shape[1])))
        parts = [self._mix(bank, bank.enter(some)) for some in flat.split(step)]
        h_hat, err_var = (part[0] if len(part) == 1 else torch.cat(part) for part in zip(*parts, strict=True))
        return h_hat, err_var

    def _mix(self, bank: Bank, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = self._shares(bank.log_joint(x).softmax(0).to(x.real.dtype))  # (K, T)
        likeliest = share.argmax(0)
        # Observations sorted by their likeliest component: one product for each.
        order, counts = likeliest.argsort(stable=True), likeliest.bincount(minlength=len(share)).tolist()
        sorted_first = bank.estimates(x.index_select(0, order), counts)
        first = torch.empty_like(sorted_first).index_copy_(0, order, sorted_first)
        error = share.mT @ bank.error
        # All else is a deviation from that estimate, so that little cancels in the spread.
        others = share.scatter(0, likeliest[None], 0.0)
        shift, spread = self._deviations(bank, x, first, others)
        if shift is None:
            return first, error
        # Real and imaginary parts lie side by side.
        spread = (spread - shift.square()).unflatten(1, (-1, 2))
        spread = spread[..., 0] + spread[..., 1]
        return first + torch.view_as_complex(shift.unflatten(1, (-1, 2))), error + spread.clamp_min(0)

    def _deviations(
        self, bank: Bank, x: torch.Tensor, first: torch.Tensor, others: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Mean of the components' deviations from ``first`` under ``others`` (K, T), and of their squares, real (T, 2 N)."""
        worth = others.detach() > 0
        counts = worth.sum(1)
        common = counts * _COMMON > len(x)
        shift = torch.zeros(len(x), 2 * first.shape[1], dtype=others.dtype, device=x.device)
        spread = torch.zeros_like(shift)
        for k in common.nonzero().flatten().tolist():  # components of so many observations that picking them would not pay
            every = [len(x) if i == k else 0 for i in range(len(counts))]
            deviation = _parts(bank.estimates(x, every) - first)
            weighted = deviation * others[k, :, None]
            shift = shift + weighted
            spread = torch.addcmul(spread, deviation, weighted)
        component, sample = (worth & ~common[:, None]).nonzero(as_tuple=True)
        if not len(sample) and not bool(common.any()):
            return None, spread
        step = max(1, _CHUNK_BYTES // (32 * first.shape[1]))
        for start in range(0, len(sample), step):
            k, t = component[start : start + step], sample[start : start + step]
            pieces = k.bincount(minlength=len(counts)).tolist()
            deviation = _parts(bank.estimates(x.index_select(0, t), pieces) - first.index_select(0, t))
            weighted = deviation * others[k, t][:, None]
            shift.index_add_(0, t, weighted)
            spread.index_add_(0, t, deviation * weighted)
        return shift, spread

    def _shares(self, posterior: torch.Tensor) -> torch.Tensor:
        """Posterior of the components that count, normalised, (K, T); zero for the others."""
        likely = posterior >= _UNLIKELY[posterior.dtype]
        if self.top is None:
            kept = likely
        else:
            ranked, order = posterior.sort(dim=0, descending=True, stable=True)
            if isinstance(self.top, int):
                rank = torch.arange(len(ranked), device=ranked.device)[:, None].expand_as(ranked)
                wanted = rank < self.top
            else:  # those before which the sum has not yet reached what is wanted
                wanted = ranked.cumsum(0) - ranked < self.top
            kept = torch.zeros_like(wanted).scatter(0, order, wanted) & likely
        share = torch.where(kept, posterior, torch.zeros_like(posterior))
        return share / share.sum(0, keepdim=True)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, method={self.method!r}, top={self.top}"


def _parts(x: torch.Tensor) -> torch.Tensor:
    """Real and imaginary parts side by side, (T, 2 N)."""
    return torch.view_as_real(x).flatten(1)


class BussgangGMM(BussgangMixture):
    """`BussgangMixture` for a `wichan.priors.GMM`."""

    kind = "gmm"


class BussgangMFA(BussgangMixture):
    """`BussgangMixture` for a `wichan.priors.MFA`."""

    kind = "mfa"


def check_prior(prior: Any, kind: str | None, shape: Sequence[int]) -> MixturePrior:
    """Return ``prior`` if it is a fitted mixture of this kind over a channel of this shape."""
    if not isinstance(prior, MixturePrior):
        raise InvalidTypeError(f"prior must be a MixturePrior (GMM, MFA), got {type(prior).__name__}")
    if kind is not None and prior.kind != kind:
        raise InvalidTypeError(f"prior is of kind {prior.kind!r}; this estimator is for {kind!r} (BussgangMixture takes any)")
    _ = prior.weights  # raises unless fitted
    if prior.dim != math.prod(shape):
        raise ShapeError(f"prior is over channels of shape {prior.shape}; obs.channel_shape is {tuple(shape)}")
    return prior


def _check_top(top: Any) -> int | float | None:
    if top is None:
        return None
    if isinstance(top, float):
        if not 0 < check_real("top", top) <= 1:
            raise InvalidValueError(f"top={top:g} as a probability must be above 0 and at most 1; a count is an integer")
        return top
    return check_int("top", top, minimum=1)
