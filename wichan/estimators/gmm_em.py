r"""Expectation maximisation behind coarse converters, with the likeliest component of a mixture as prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from wichan.errors import check_int
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_base import QuantizedEstimator, eagerly
from wichan.estimators.bussgang_mixture import BussgangMixture
from wichan.estimators.gibbs_tables import Tables, cells, make_tables
from wichan.estimators.truncated import truncated_moments
from wichan.linalg import psd_sqrt
from wichan.priors.base import MixturePrior

NO_FLOOR = 1e-6
_CHUNK_BYTES = 2**26


class GMMEM(QuantizedEstimator):
    r"""Most probable channel given the cells and the likeliest component of a Gaussian mixture, by EM ("GMM-EM").

    The component is that of the largest Bussgang responsibility, :math:`k^* = \arg\max_k p(k \mid r)`, and the first estimate
    is its Bussgang filter's. Each iteration then alternates

    .. math:: \tilde y = E[A \hat h + n \mid r], \qquad
        \hat h = C_{k^*} A^H (A C_{k^*} A^H + \mathrm{no}\, I)^{-1}\, \tilde y ,

    means of Gaussians of variance no/2 that are truncated to the cells of r, and the linear filter for samples without
    converters. Each step raises :math:`p(r \mid h)\, \mathcal{CN}(h; 0, C_{k^*})`, whose only maximum is the limit.

    A mode is not a mean: at high SNR with few bits it is too short (without noise the likeliest point of a cone is its tip), so
    that a moderate ``num_iter`` from the Bussgang estimate may do better than the limit. What the iterations gain is largest
    with several pilots; steps shrink with the noise, and with ``no=0`` nothing moves any more. At low SNR, where r leaves the
    component open, the mixture of all (`BussgangMixture`) is the better estimate.

    The idea is that of [Fesl2024a]_; the update equations were derived here, from the abstract of that paper.

    Args:
        prior: a fitted `wichan.priors.MixturePrior`.
        obs: a `wichan.observations.QuantizedPilots`.
        num_iter: iterations, at least 0; 0 leaves the Bussgang estimate of the likeliest component.
        method: covariance of the output for the responsibilities and the first estimate, as in `BussgangMixture`.
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    ``err_var`` is the inverse curvature of the log posterior there, as if k* were certain: calibrated with many bits or much
    noise, too small where the mode is far from the mean. The gradient with respect to r is that of the first estimate, since
    cells do not move.

    Raises:
        InvalidTypeError, InvalidValueError, ShapeError: as `BussgangMixture`; ``num_iter`` that is no number of iterations.

    Cost: an iteration 16 M N FLOP and 2 M truncated means an observation, in double precision; err_var M N^2 + 2 N^3
    multiply-adds an observation, in chunks of 64 MiB.

    Example:
        >>> from wichan.channels import SpatialGaussian
        >>> from wichan.observations import QuantizedPilots, pilot_sequence
        >>> from wichan.priors import GMM
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = SpatialGaussian(16).sample(500, generator=generator).h[..., 0]
        >>> obs = QuantizedPilots.from_sequence(pilot_sequence(4), num_rx_ant=16)
        >>> prior = GMM(num_components=8).fit(h)
        >>> r = obs.observe(h, no=0.1, generator=generator)
        >>> mse = [float((GMMEM(prior, obs, num_iter=n)(r, no=0.1).h_hat - h).abs().square().mean()) for n in (0, 20)]
        >>> mse[1] < 0.9 * mse[0]
        True
    """

    def __init__(
        self, prior: MixturePrior, obs: Any, *, num_iter: int = 30, method: str = "exact", no_floor: float = NO_FLOOR
    ) -> None:
        super().__init__(obs, no_floor=no_floor)
        self.num_iter = check_int("num_iter", num_iter, minimum=0)
        self.start = BussgangMixture(prior, obs, method=method, top=1, no_floor=no_floor)

    @eagerly
    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M), the converters' output.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: not used.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape).

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        entered = self._enter(r, no)
        if not entered.flat.shape[0]:
            return self._nothing(entered)
        first = self.start(r, no).h_hat.reshape(len(entered.flat), -1)
        with torch.no_grad():
            likeliest = self.start.posterior(r, no).reshape(len(entered.flat), -1).argmax(dim=1)
            start, rows = (x.detach().to(torch.complex128) for x in (first, entered.flat))
            h_hat, err_var = torch.empty_like(start), start.real.clone()
            for number, level in enumerate(entered.levels):
                chosen = torch.arange(len(rows), device=rows.device)
                chosen = chosen if entered.index is None else chosen[entered.index == number]
                # Observations sorted by component: one product for each.
                chosen = chosen[likeliest[chosen].argsort(stable=True)]
                h_hat[chosen], err_var[chosen] = self._climb(start[chosen], rows[chosen], likeliest[chosen], level)
        moved = h_hat.to(r.dtype) + (first - first.detach())
        return self._leave(entered, moved, err_var.to(r.real.dtype))

    def _climb(
        self, h: torch.Tensor, rows: torch.Tensor, likeliest: torch.Tensor, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates and error variances, (T, N), of observations sorted by component at one noise variance."""
        known = self._known(level)
        noise = known.tables.noise[likeliest][:, None]
        coarse = known.tables.coarse
        low, high = cells(self.obs, rows, torch.full((len(rows),), level, dtype=torch.float64, device=rows.device))
        counts = likeliest.bincount(minlength=len(known.root)).tolist()
        y = rows.clone()
        for _ in range(self.num_iter):
            y[:, coarse] = _completed(h, known.tables, low, high, noise)[0]
            h = _by_component(known.tables.weight, y, counts)
        variance = _completed(h, known.tables, low, high, noise)[1]
        # What a sample says of A h: all of 1/no without a converter, less the more of its noise the cell leaves open.
        told = torch.ones_like(y.real)
        told[:, coarse] = (1 - variance / noise).clamp(0, 1)
        return h, self._curvature(known, told / noise, likeliest)

    def _curvature(self, known: _Known, told: torch.Tensor, likeliest: torch.Tensor) -> torch.Tensor:
        """Diagonal of (C^-1 + A^H diag(told) A)^-1, (T, N), through a root of C."""
        size = known.root.shape[-1]
        step = max(1, _CHUNK_BYTES // (16 * size * (3 * size + known.seen.shape[-2])))
        unit = torch.eye(size, dtype=known.root.dtype, device=known.root.device)
        parts = []
        for weights, k in zip(told.split(step), likeliest.split(step), strict=True):
            seen = known.seen[k]
            inner = torch.linalg.cholesky(unit + seen.mH @ (weights[..., None] * seen))
            left = torch.linalg.solve_triangular(inner, known.root[k].mH, upper=False)
            parts.append(torch.view_as_real(left).square().sum(dim=(-3, -1)))
        return torch.cat(parts)

    def _known(self, level: float) -> _Known:
        def make() -> _Known:
            covariance = self.start.prior.covariances().to(self.obs.matrix().device, torch.complex128)
            no = torch.full((len(covariance),), level, dtype=torch.float64, device=covariance.device)
            root = psd_sqrt(covariance, name="covariance of a component")
            return _Known(make_tables(self.obs, covariance, no, self.no_floor), root, self.obs.matrix().to(root) @ root)

        self._cache.follow(self._sources())
        with torch.inference_mode(False), torch.no_grad():
            return self._cache.get(level, make, _num_bytes)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, num_iter={self.num_iter}"


class _Known(NamedTuple):
    """Linear filters of the components at one noise variance, roots of their covariances, and A times those."""

    tables: Tables
    root: torch.Tensor
    seen: torch.Tensor


def _num_bytes(known: _Known) -> int:
    return sum(t.numel() * t.element_size() for t in (*known.tables, known.root, known.seen))


def _completed(
    h: torch.Tensor, tables: Tables, low: torch.Tensor, high: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the coarse rows of A h + n given their cells, complex and real (T, Q)."""
    centre = torch.view_as_real((h @ tables.matrix.mT)[:, tables.coarse]).flatten(1)
    deviation = (noise / 2).sqrt()
    mean, variance = truncated_moments((low - centre) / deviation, (high - centre) / deviation)
    completed = (centre + deviation * mean).unflatten(1, (-1, 2))
    return torch.view_as_complex(completed.contiguous()), (noise / 2) * variance.unflatten(1, (-1, 2)).sum(dim=-1)


def _by_component(weight: torch.Tensor, y: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Filter ``y``, sorted by component: filter k takes the next ``counts[k]`` rows."""
    return torch.cat([some @ one.mT for some, one in zip(y.split(counts), weight, strict=True)])
