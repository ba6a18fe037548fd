r"""Approximate message passing behind coarse converters: a channel that is sparse in angle, with statistics learned on the fly."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from wichan.errors import InvalidValueError, check_int, check_noise, check_real
from wichan.estimators.base import Estimate
from wichan.estimators.bussgang_base import QuantizedEstimator, eagerly
from wichan.estimators.gibbs_tables import cells, row_bits
from wichan.estimators.truncated import truncated_moments
from wichan.observations.quantized import QuantizedPilots

NO_FLOOR = 1e-6
_LEAST_PRECISION = 1e-2  # of a message, relative to the belief it comes from: rounding must not send a particle to infinity
_CHUNK = 2**19  # analogue samples at once


class _Prior(NamedTuple):
    """A spike at 0 and Gaussians: weights and variances, float64 (T, L + 1), the spike's variance is 0."""

    weight: torch.Tensor
    variance: torch.Tensor


class EMGMAMP(QuantizedEstimator):
    r"""Approximate message passing with a Bernoulli-Gaussian-mixture prior in the angle domain ("EM-GM-AMP").

    .. math:: h = F^H x,\qquad x_n \sim \pi_0\,\delta(x) + \sum_{l=1}^{L} \pi_l\, \mathcal{CN}(x; 0, \phi_l)

    with the unitary DFT F over the channel's axes. For one sequence of pilots, :math:`A = x_{pilot} \otimes I`, every pilot sees a
    rotated F^H x, and messages of vector approximate message passing ([Mo2018]_ uses this form beside the generalised one) need
    one FFT each way: (1) the mean and variance of each sample given its cell and its Gaussian message (p, v) with noise,

    .. math:: \hat z = p + \tfrac{v}{S} m(a, b),\quad \mathrm{var} = v - \tfrac{v^2}{S^2}\bigl(1 - w(a, b)\bigr),\quad
        S^2 = v + \tfrac{\mathrm{no}}{2},\ a = \tfrac{l - p}{S},\ b = \tfrac{u - p}{S}

    for real parts, where m and w are mean and variance of a standard Gaussian between a and b; (2) what that adds to the message,
    combined over pilots and seen in angle; (3) the mean of x under the prior; (4) what that adds, back to the antennas. EM moves
    weights and variances after each round, for every observation by itself.

    It is told nothing of the channel's statistics but the mean power: a baseline for estimators that learn a prior. Clusters are
    no independent elements and fall between the angles of a DFT, which costs it a few dB against those.

    Args:
        obs: a `wichan.observations.QuantizedPilots` whose matrix is the identity or that of one transmit antenna's sequence
            (`QuantizedPilots.from_sequence`).
        mean_power: E|h_n|^2, which the prior's mean power is kept at: sign bits say nothing of it.
        num_terms: Gaussians L.
        activity: share of elements that are not 0, to start with.
        spread: ratio of a Gaussian's variance to the next smaller one's, to start with.
        pseudo_count: elements that the start counts for in EM; few antennas must not fit what they see exactly.
        num_iter: rounds.
        damping: share of each new message, in (0, 1].
        no_floor: smallest ``no``, relative to the largest power at a converter; ``no=0`` means this.

    ``err_var``, one value for all elements, is what the messages believe; it is too small at high SNR with few bits. No gradient
    reaches r: cells do not move.

    Raises:
        InvalidTypeError, InvalidValueError: other pilots, numbers out of range.

    Cost: a round 2 M truncated moments and two FFTs of N an observation, no matrix at all.

    Sources: [Mo2018]_, the prior and its EM [Vila2013]_.

    Example:
        >>> from wichan.channels import SpatialGaussian
        >>> from wichan.estimators import BLS
        >>> generator = torch.Generator().manual_seed(0)
        >>> h = SpatialGaussian(32).sample(50, generator=generator).h[..., 0]
        >>> obs = QuantizedPilots(torch.eye(32, dtype=torch.complex128), num_bits=1)
        >>> r = obs.observe(h, no=0.1, generator=generator)
        >>> mse = [float((est(r, no=0.1).h_hat - h).abs().square().mean()) for est in (BLS(obs), EMGMAMP(obs))]
        >>> mse[1] < 0.5 * mse[0]
        True
    """

    def __init__(
        self,
        obs: Any,
        *,
        mean_power: float = 1.0,
        num_terms: int = 3,
        activity: float = 0.3,
        spread: float = 4.0,
        pseudo_count: float = 8.0,
        num_iter: int = 50,
        damping: float = 0.5,
        no_floor: float = NO_FLOOR,
    ) -> None:
        super().__init__(obs, no_floor=no_floor)
        self.mean_power = check_real("mean_power", mean_power, positive=True)
        self.num_terms = check_int("num_terms", num_terms, minimum=1)
        self.activity = check_real("activity", activity, minimum=1e-6, maximum=1.0)
        self.spread = check_real("spread", spread, minimum=1.0)
        self.pseudo_count = check_real("pseudo_count", pseudo_count, positive=True)
        self.num_iter = check_int("num_iter", num_iter, minimum=1)
        self.damping = check_real("damping", damping, positive=True, maximum=1.0)
        _sequence(self.obs)

    @eagerly
    def forward(self, r: torch.Tensor, no: Any, **conditions: Any) -> Estimate:  # type: ignore[override]
        r"""Estimate the channel.

        Args:
            r: complex64 or complex128, (\*batch, M), the converters' output.
            no: noise variance, at least 0: a number, or a tensor over the leading batch axes.
            conditions: not used.

        Returns:
            `Estimate`: h_hat in the dtype of ``r`` and err_var in its real dtype, both (\*batch, \*channel_shape); err_var is an
            expanded view.

        Raises:
            InvalidTypeError, InvalidValueError, ShapeError: NaN, negative ``no``, shapes that do not fit.
        """
        self._check(r)
        batch = tuple(r.shape[:-1])
        noise = check_noise(no, batch, dtype=torch.float64, device=r.device).detach().expand(batch).reshape(-1)
        rows = r.detach().reshape(-1, r.shape[-1]).to(torch.complex128)
        if not len(rows):
            h_hat = r.new_zeros(*batch, *self.shape)
            return Estimate(h_hat, h_hat.real.clone())
        step = max(1, _CHUNK // rows.shape[1])
        with torch.no_grad():
            parts = [self._estimate(some, level) for some, level in zip(rows.split(step), noise.split(step), strict=True)]
        h_hat, error = (torch.cat(part) for part in zip(*parts, strict=True))
        err_var = error.to(r.real.dtype).reshape(*batch, *(1,) * len(self.shape)).expand(*batch, *self.shape)
        return Estimate(h_hat.to(r.dtype).reshape(*batch, *self.shape), err_var)

    def _estimate(self, rows: torch.Tensor, no: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimates (T, N) and error variances (T,)."""
        pilots = _sequence(self.obs).to(rows)
        power = pilots.abs().square()
        floor = self.no_floor * self.mean_power * power.amax()
        samples = _Samples(self.obs, rows, no, self.obs.noise_power(no.clamp_min(floor)), len(pilots))
        start = self._start(rows)
        prior = start
        p, v = torch.zeros_like(samples.r), (self.mean_power * power).expand(len(rows), -1)  # messages to the samples
        q, w = p, torch.full_like(v, math.inf)  # and from them: mean (T, P, N), variance (T, P)
        x, error = p[:, 0], v[:, 0]
        for _ in range(self.num_iter):
            q_new, w_new = _extrinsic(*samples.beliefs(p, v), p, v)
            q, w = self._damped(q, w, q_new, w_new)
            variance = 1 / (power / w).sum(dim=1)
            seen = variance[:, None] * self._angle(((pilots.conj() / w)[..., None] * q).sum(dim=1))
            x, error, prior = _denoised(seen, variance, prior, start, self.pseudo_count, self.mean_power)
            back = pilots[:, None] * self._antenna(x)[:, None]
            p_new, v_new = _extrinsic(back, power * error[:, None], q, w)
            p, v = self._damped(p, v, p_new, v_new)
        return self._antenna(x), error

    def _start(self, rows: torch.Tensor) -> _Prior:
        weight = torch.full((self.num_terms + 1,), self.activity / self.num_terms, dtype=torch.float64, device=rows.device)
        weight[0] = 1 - self.activity
        variance = self.spread ** torch.arange(-1, self.num_terms, dtype=torch.float64, device=rows.device)
        variance[0] = 0
        variance = variance * self.mean_power / (weight * variance).sum()
        return _Prior(weight.expand(len(rows), -1), variance.expand(len(rows), -1))

    def _damped(
        self, mean: torch.Tensor, variance: torch.Tensor, new_mean: torch.Tensor, new_variance: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Part of the way from old messages to new ones; precisions are what is averaged."""
        keep = 1 - self.damping
        keep_mean = torch.where(variance.isinf(), 0.0, keep)[..., None]  # nothing was sent yet
        return keep_mean * mean + (1 - keep_mean) * new_mean, 1 / (keep / variance + self.damping / new_variance)

    def _angle(self, h: torch.Tensor) -> torch.Tensor:
        axes = tuple(range(1, 1 + len(self.shape)))
        return torch.fft.fftn(h.unflatten(1, self.shape), dim=axes, norm="ortho").flatten(1)

    def _antenna(self, x: torch.Tensor) -> torch.Tensor:
        axes = tuple(range(1, 1 + len(self.shape)))
        return torch.fft.ifftn(x.unflatten(1, self.shape), dim=axes, norm="ortho").flatten(1)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, num_terms={self.num_terms}, num_iter={self.num_iter}"


class _Samples:
    """What the converters tell of the analogue samples, (T, P, N)."""

    def __init__(self, obs: QuantizedPilots, rows: torch.Tensor, no: torch.Tensor, noise: torch.Tensor, count: int) -> None:
        self.coarse = torch.tensor([bits != math.inf for bits in row_bits(obs)], device=rows.device)
        self.low, self.high = cells(obs, rows, no)
        self.r, self.noise = rows.unflatten(1, (count, -1)), noise[:, None]

    def beliefs(self, p: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (T, P, N) of noiseless samples with prior CN(p, v), and their variances, averaged over antennas, (T, P)."""
        total = v + self.noise
        mean = p + (v / total)[..., None] * (self.r - p)  # without a converter
        spread = (v * self.noise / total)[..., None].expand(p.shape).flatten(1)
        mean = mean.flatten(1)
        if len(self.low[0]):
            some = self.coarse
            half, deviation = (
                x[..., None].expand(p.shape).flatten(1)[:, some].repeat_interleave(2, dim=1)
                for x in (v / 2, (total / 2).sqrt())
            )
            centre = torch.view_as_real(p.flatten(1)[:, some]).flatten(1)
            m, w = truncated_moments((self.low - centre) / deviation, (self.high - centre) / deviation)
            gain = half / deviation
            mean[:, some] = torch.view_as_complex((centre + gain * m).unflatten(1, (-1, 2)).contiguous())
            spread = spread.clone()
            spread[:, some] = (half - gain.square() * (1 - w)).unflatten(1, (-1, 2)).sum(dim=-1)
        return mean.unflatten(1, p.shape[1:]), spread.unflatten(1, p.shape[1:]).mean(dim=-1)


def _sequence(obs: QuantizedPilots) -> torch.Tensor:
    """The pilots of the one transmit antenna, complex (P,)."""
    if obs.pilots is not None and len(obs.pilots) == 1:
        return obs.pilots[0]
    if obs.is_identity:
        return torch.ones(1, dtype=obs.matrix().dtype, device=obs.matrix().device)
    raise InvalidValueError("obs must have the identity as matrix, or the pilots of one transmit antenna (from_sequence)")


def _extrinsic(
    mean: torch.Tensor, variance: torch.Tensor, known: torch.Tensor, known_variance: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a Gaussian belief says beyond the message that it was made with; means (T, P, N), variances (T, P)."""
    precision = torch.maximum(1 / variance - 1 / known_variance, _LEAST_PRECISION / variance)
    difference = mean / variance[..., None] - known / known_variance[..., None]
    return difference / precision[..., None], 1 / precision


def _denoised(
    seen: torch.Tensor, variance: torch.Tensor, prior: _Prior, start: _Prior, pseudo_count: float, mean_power: float
) -> tuple[torch.Tensor, torch.Tensor, _Prior]:
    """Mean (T, N) and mean variance (T,) of elements that are seen with noise, and the prior after a step of EM."""
    total = prior.variance[:, None] + variance[:, None, None]
    energy = (seen.real.square() + seen.imag.square())[..., None]
    share = (prior.weight[:, None].clamp_min(1e-300).log() - total.log() - energy / total).softmax(dim=-1)
    gain = prior.variance[:, None] / total
    mean = (share * gain).sum(dim=-1) * seen
    power = share * (gain.square() * energy + gain * variance[:, None, None])  # E|x|^2, component by component
    error = (power.sum(dim=-1) - mean.real.square() - mean.imag.square()).mean(dim=-1)
    error = torch.minimum(error, (1 - _LEAST_PRECISION) * variance).clamp_min(1e-9 * variance)
    counts = share.sum(dim=1) + pseudo_count * start.weight
    weight = counts / counts.sum(dim=1, keepdim=True)
    learned = (power.sum(dim=1) + pseudo_count * start.weight * start.variance) / counts
    learned = learned * mean_power / (weight * learned).sum(dim=1, keepdim=True)
    return mean, error, _Prior(weight, learned)
