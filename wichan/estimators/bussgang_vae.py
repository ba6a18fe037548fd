"""Bussgang filter of the covariance that a variational autoencoder reads from the observation itself."""

from __future__ import annotations

import copy
import math
from typing import Any, Literal, NamedTuple, Self

import torch

from wichan.errors import InvalidTypeError, InvalidValueError, check_choice, check_int, check_noise
from wichan.estimators import stationary_filter
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_base import QuantizedEstimator
from wichan.estimators.bussgang_circulant import scaled_identity
from wichan.estimators.bussgang_filters import NO_FLOOR, check_pilots, floored_noise
from wichan.observations.quantized import QuantizedPilots
from wichan.priors.vae import VAE
from wichan.random import make_generator

WEIGHTS = ("posterior", "uniform")
_CHUNK_BYTES = 2**26


class Conditional(NamedTuple):
    r"""Estimates given a spectrum for each observation.

    Args:
        h_hat: complex (T, \*shape).
        err_var: real (T, \*shape), or None where it was not asked for.
        log_likelihood: log CN(r; 0, C_r), real (T,), without its constant.
    """

    h_hat: torch.Tensor
    err_var: torch.Tensor | None
    log_likelihood: torch.Tensor


class ConditionalFilter:
    r"""Bussgang filters for a stationary covariance of each observation's own.

    .. math:: \hat h = C A^H B\, C_r^{-1} r,\qquad \mathrm{err\_var} = \mathrm{diag}(C - C A^H B\, C_r^{-1} B A C)

    By DFTs for circulant C and A = x kron I; else C_r is formed, by its lags where A = x kron I.

    Args:
        obs: pilots and converters.
        prior: whose spectra they are.
    """

    def __init__(self, obs: QuantizedPilots, prior: VAE) -> None:
        self.obs, self.grid = obs, prior.grid
        self.pilots = None if isinstance(obs.num_bits, tuple) else scaled_identity(obs)

    def __call__(
        self,
        spectra: torch.Tensor,
        r: torch.Tensor,
        no: torch.Tensor,
        *,
        exact: bool = True,
        error: bool = True,
        loading: float = 0.0,
    ) -> Conditional:
        r"""Estimate in the precision of the arguments.

        Args:
            spectra: real (T, \*sizes).
            r: complex (T, M).
            no: noise variances, (T,).
            exact: see `wichan.estimators.stationary_filter.moments`.
            error: compute err_var.
            loading: what is added to the diagonal of C_r, relative to it.
        """
        if self.pilots is None:
            return self._dense(spectra, r, no, exact, error, loading)
        found = stationary_filter.moments(self.obs, self.grid, self.pilots, spectra, no, exact=exact)
        if self.grid.is_circulant:
            h_hat, err_var, fit = stationary_filter.circulant_filter(self.grid, spectra, found, r)
            return Conditional(h_hat, err_var.reshape(-1, *[1] * (h_hat.dim() - 1)).expand(h_hat.shape), fit)
        matrix = _loaded(stationary_filter.toeplitz_output(self.grid, found), loading)
        if error:
            return self._with_error(spectra, matrix, stationary_filter.toeplitz_cross(self.grid, spectra, found), r)
        solved, fit = stationary_filter.solve(matrix, r)
        return Conditional(stationary_filter.toeplitz_filter(self.grid, spectra, found, solved), None, fit)

    def _dense(
        self, spectra: torch.Tensor, r: torch.Tensor, no: torch.Tensor, exact: bool, error: bool, loading: float
    ) -> Conditional:
        cov, a = self.grid.covariance(spectra), self.obs.matrix().to(r.dtype)
        cov_y = self.obs.input_covariance(cov, no)
        gain = self.obs.bussgang_gain(cov_y.diagonal(dim1=-2, dim2=-1).real, no)
        cross = cov @ a.mH * gain[:, None, :]
        method = "exact" if exact or self.obs.num_bits == 1 else "white"
        matrix = _loaded(self.obs.output_covariance(cov_y, no, method), loading)
        if error:
            return self._with_error(spectra, matrix, cross, r)
        solved, fit = stationary_filter.solve(matrix, r)
        h_hat = (cross @ solved[..., None])[..., 0]
        return Conditional(h_hat.unflatten(1, self.grid.shape), None, fit)

    def _with_error(self, spectra: torch.Tensor, matrix: torch.Tensor, cross: torch.Tensor, r: torch.Tensor) -> Conditional:
        h_hat, seen, fit = stationary_filter.solve_with_error(matrix, cross, r)
        left = (spectra.mean(self.grid.axes).reshape(-1, 1) - seen).clamp_min(0)
        return Conditional(h_hat.unflatten(1, self.grid.shape), left.unflatten(1, self.grid.shape), fit)

    def chunk(self) -> int:
        """Observations whose matrices fit into 64 MiB."""
        m, n = self.obs.num_measurements, self.grid.num_points
        if self.pilots is not None and self.grid.is_circulant:
            return max(1, _CHUNK_BYTES // (64 * n * len(self.pilots) ** 2))
        return max(1, _CHUNK_BYTES // (16 * (4 * m * m + 2 * m * n)))


def _loaded(matrix: torch.Tensor, loading: float) -> torch.Tensor:
    return matrix + loading * torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1)) if loading else matrix


class BussgangVAE(QuantizedEstimator):
    r"""Bussgang's filter of the covariance that a decoder makes of a latent point, which an encoder reads from r.

    .. math:: \hat h = W_z r,\quad W_z = C_z A^H B_z C_{r|z}^{-1},\quad z = m(r),\qquad
        \mathrm{err\_var} = \mathrm{diag}(C_z - W_z B_z A C_z)

    One latent point, the mean of the encoder's, is what [Fesl2024] takes. With ``num_samples`` above 1 estimates at several
    points z_s around it are averaged with weights w_s, and what they differ counts as error,

    .. math:: \hat h = \sum_s w_s W_{z_s} r,\qquad \mathrm{err\_var} = \sum_s w_s (\mathrm{err}_s + |W_{z_s} r - \hat h|^2).

    A prior with an ``error_head`` sets the mean of err_var over the entries; the filter says how it is shared among them.

    Args:
        prior: a `wichan.priors.VAE`, trained.
        obs: pilots and converters; default those of the prior. It must be equal to them in all but tensors' place.
        num_samples: latent points.
        weights: ``"uniform"``; ``"posterior"``: w_s in proportion to p(r | z_s) p(z_s) / q(z_s | r), with a Gaussian for the
            first, importance weights that correct what the encoder is wrong about where the decoder fits r.
        seed: of the points, which are the same for every observation.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    Raises:
        InvalidTypeError, InvalidValueError: no VAE, or an observation that it was not made for.

    Cost an observation and latent point: the networks, and O(N log N + N P^3) for a circulant covariance and A = x kron I,
    O(M^3 + M^2 N) in double precision for others. Source: [Fesl2024].
    """

    def __init__(
        self,
        prior: VAE,
        obs: QuantizedPilots | None = None,
        *,
        num_samples: int = 1,
        weights: Literal["posterior", "uniform"] = "uniform",
        seed: int = 0,
        no_floor: float = NO_FLOOR,
    ) -> None:
        if not isinstance(prior, VAE):
            raise InvalidTypeError(f"prior must be a VAE, got {type(prior).__name__}")
        super().__init__(prior.obs if obs is None else _matching(prior, obs), no_floor=no_floor)
        self.prior = prior
        self.num_samples = check_int("num_samples", num_samples, minimum=1, maximum=10_000)
        self.weights = check_choice("weights", weights, WEIGHTS)
        offsets = torch.zeros(1, prior.num_factors, dtype=torch.float64)
        if self.num_samples > 1:
            # Opposite pairs: the mean of the points is the encoder's, whatever their number.
            generator = make_generator(check_int("seed", seed, minimum=0), "latent points")
            half = torch.randn(math.ceil(self.num_samples / 2), prior.num_factors, generator=generator, dtype=torch.float64)
            offsets = torch.cat([half, -half])[: self.num_samples]
        self.register_buffer("offsets", offsets.to(self.obs.matrix().device), persistent=False)

    offsets: torch.Tensor

    @property
    def told(self) -> tuple[str, ...]:
        """What must be passed at a call besides r and no."""
        return self.prior.told

    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M). Networks compute in its precision, filters in double.
            no: noise variance, a number or a tensor over the leading batch axes.
            **conditions: ``h``, the channel itself, for a prior with ``variant="genie"``; others are ignored.

        Returns:
            `Estimate`: h_hat and err_var, (\*batch, \*channel_shape).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: wrong shapes, NaN, negative ``no``, a genie without h.
        """
        self._check(r)
        batch, shape = r.shape[:-1], self.shape
        noise = check_noise(no, batch, dtype=torch.float64, device=r.device).expand(batch).reshape(-1)
        flat = r.reshape(-1, r.shape[-1])
        if not len(flat):
            h_hat = flat.new_zeros(*batch, *shape)
            return Estimate(h_hat, h_hat.real.clone())
        mean, log_std = (x.reshape(len(flat), -1) for x in self.prior.encode(r, noise.reshape(batch), conditions.get("h")))
        filters = ConditionalFilter(self.obs, self.prior)
        step = max(1, filters.chunk())
        parts = [
            self._averaged(filters, *piece)
            for piece in zip(*(x.split(step) for x in (mean, log_std, flat, noise)), strict=True)
        ]
        h_hat, err_var = (torch.cat(part).reshape(*batch, *shape) for part in zip(*parts, strict=True))
        return Estimate(h_hat.to(r.dtype), err_var.to(r.real.dtype))

    def _averaged(
        self, filters: ConditionalFilter, mean: torch.Tensor, log_std: torch.Tensor, r: torch.Tensor, no: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates of (T, M), averaged over the latent points."""
        wide = r.to(torch.complex128)
        found = []
        for offset in self.offsets.to(mean.dtype):
            spectra = self.prior.decode(mean + offset * log_std.exp()).double()
            level = floored_noise(no, self._seen(spectra), self.no_floor)
            found.append(filters(spectra, wide, level))
        errors = torch.stack([one.err_var for one in found if one.err_var is not None])
        if len(found) == 1:
            return found[0].h_hat, self._levelled(errors[0], mean, no)
        w = self._weights(mean, log_std, torch.stack([one.log_likelihood for one in found]))
        w = w.reshape(*w.shape, *[1] * len(self.shape))
        h_hats = torch.stack([one.h_hat for one in found])
        h_hat = (w * h_hats).sum(0)
        spread = torch.view_as_real(h_hats - h_hat).square().sum(-1)
        return h_hat, self._levelled((w * (errors + spread)).sum(0), mean, no)

    def _levelled(self, err_var: torch.Tensor, mean: torch.Tensor, no: torch.Tensor) -> torch.Tensor:
        """Error variances with the mean over entries that the prior has learned to expect, if it has."""
        level = self.prior.error_of(mean, no)
        if level is None:
            return err_var
        # A channel without power of its own has an error of nothing: it stays at the floor of the spectra.
        share = err_var / err_var.flatten(1).mean(-1).clamp_min(self.prior.floor * 1e-6).reshape(-1, *[1] * len(self.shape))
        return share * level.double().reshape(-1, *[1] * len(self.shape))

    def _seen(self, spectra: torch.Tensor) -> torch.Tensor:
        """Power at the converters for each spectrum, (T, 1), as pilots of uncorrelated entries see it."""
        return (spectra.mean(self.prior.grid.axes) * self.obs.input_power)[:, None]

    def _weights(self, mean: torch.Tensor, log_std: torch.Tensor, log_likelihood: torch.Tensor) -> torch.Tensor:
        """Weights of the points, (S, T), from log p(r | z) (S, T)."""
        if self.weights == "uniform":
            return torch.full_like(log_likelihood, 1 / len(log_likelihood))
        offsets = self.offsets[:, None]
        z = mean.double() + offsets * log_std.double().exp()
        # log p(z) - log q(z | r), without what all points share
        ratio = 0.5 * (offsets.square() - z.square()).sum(-1)
        return torch.softmax(log_likelihood + ratio, dim=0)

    def check_observation(self, obs: QuantizedPilots) -> None:
        """Check that an observation is the one that the prior was made for.

        Raises:
            InvalidTypeError, InvalidValueError: another kind, other pilots or other converters; the line names both.
        """
        _matching(self.prior, obs)

    def for_observation(self, obs: QuantizedPilots) -> Self:
        """Return this estimator, sharing its weights, for an equal observation on another device or in another precision."""
        self.check_observation(obs)
        other = copy.copy(self)
        other._modules = dict(self._modules) | {"obs": obs}
        return other


def _matching(prior: VAE, obs: QuantizedPilots) -> QuantizedPilots:
    """Return ``obs`` if the encoder of ``prior`` was made for it."""
    check_pilots(obs)
    mine = prior.obs
    for name in ("channel_shape", "num_measurements", "num_bits", "kind", "dither_power"):
        if getattr(obs, name) != getattr(mine, name):
            raise InvalidValueError(f"obs has {name}={getattr(obs, name)}; the prior was made for {getattr(mine, name)}")
    a, b = obs.matrix().detach().cpu(), mine.matrix().detach().cpu()
    if float((a.to(torch.complex128) - b.to(torch.complex128)).abs().max()) > 1e-6 * float(b.abs().max()):
        raise InvalidValueError("obs has another matrix than the pilots that the prior was made for")
    if not math.isclose(obs.input_power, mine.input_power, rel_tol=1e-6):
        raise InvalidValueError(f"obs has input_power={obs.input_power:g}; the prior was made for {mine.input_power:g}")
    return obs
